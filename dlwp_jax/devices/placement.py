"""On which devices the arrays of a training are, and how programs keep them there.

`Placement.from_arrays` reads it at the door of a public function. The placement is a static
argument of the compiled program, whose constraints say what is split over the devices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dlwp_jax.checks import describe
from dlwp_jax.leaves import lay

PyTree = Any
AXIS = "data"  # the axis of the mesh over which batches are split


@dataclass(frozen=True)
class Placement:
    """A mesh, and how the arrays of a state are split over it. Hashable.

    Attributes:
      mesh: devices with an axis AXIS. Inside an outer `jax.jit` it is abstract: there an array
        knows the shape of its mesh but not the devices.
      state: one spec for each array of the `TrainState`, in their order. None inside an outer
        `jax.jit`, where an array does not know how it is split; the compiler then keeps the
        split of the state that came in.
      params: the same for `TrainState.params`.
    """

    mesh: Mesh | AbstractMesh
    state: tuple[PartitionSpec, ...] | None
    params: tuple[PartitionSpec, ...] | None

    @classmethod
    def from_arrays(cls, state: PyTree, data: dict[str, PyTree]) -> "Placement | None":
        """The placement of a state and data; None if each is on one device.

        Args:
          state: a `TrainState`.
          data: data sets, under the names of the caller's arguments; None is skipped.

        Raises:
          ValueError: if one is on a mesh and another is not, or on another mesh; if the mesh
            has no axis AXIS, or explicit axes.
        """
        trees = {"state": state} | {
            name: tree for name, tree in data.items() if tree is not None
        }
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees)):
            mesh = _traced_mesh(trees)
            return None if mesh is None else cls(mesh, None, None)
        mesh = _common_mesh(trees)
        if mesh is None:
            return None
        has_axis(mesh)
        if AxisType.Explicit in mesh.axis_types:
            raise ValueError(
                "the axes of the mesh must be Auto, not Explicit; shard.put makes them so "
                f"({in_words(mesh)})."
            )
        return cls(mesh, _specs(state), _specs(state.params))

    def __str__(self) -> str:
        split = sum(spec != PartitionSpec() for spec in self.state or ())
        return f"{in_words(self.mesh)}, {split} arrays of the state split"

    def replicate(self, tree: PyTree) -> PyTree:
        """Every array entirely on every device."""
        return jax.tree.map(lambda leaf: self._constrain(leaf, PartitionSpec()), tree)

    def constrain_state(self, state: PyTree) -> PyTree:
        """A state, split as the first one was."""
        return self._constrain_all(state, self.state)

    def constrain_params(self, params: PyTree) -> PyTree:
        """Parameters or their gradients, split as the first parameters were."""
        return self._constrain_all(params, self.params)

    def gather_params(self, params: PyTree) -> PyTree:
        """Parameters to compute with: those that are split over AXIS are put together."""
        if self.params is None:
            return self.replicate(params) if self.mesh.axis_names == (AXIS,) else params
        return self._constrain_all(params, [without_axis(spec) for spec in self.params])

    def split_batch(self, batch: PyTree) -> PyTree:
        """A batch, its rows split over AXIS.

        JAX splits evenly only, so a batch that does not divide is padded, split, and cut to its
        size again: the compiler then leaves the last devices fewer rows, or none, and masks the
        padding in every sum.
        """

        def split(leaf):
            if not jnp.ndim(leaf):
                return leaf
            padding = -leaf.shape[0] % self.mesh.shape[AXIS]
            if padding:
                pads = [(0, padding), *[(0, 0)] * (leaf.ndim - 1)]
                return self._constrain(jnp.pad(leaf, pads), PartitionSpec(AXIS))[
                    : leaf.shape[0]
                ]
            return self._constrain(leaf, PartitionSpec(AXIS))

        return jax.tree.map(split, batch)

    def send_batch(self, batch: PyTree) -> PyTree:
        """A host's batch on the devices: each gets its rows, or all if they do not divide."""

        def send(leaf):
            if _mesh_of(leaf) == self.mesh:
                return leaf
            divides = leaf.shape[0] % self.mesh.shape[AXIS] == 0
            spec = PartitionSpec(AXIS) if divides else PartitionSpec()
            return lay(leaf, NamedSharding(self.mesh, spec))

        return jax.tree.map(send, batch)

    def _constrain_all(self, tree: PyTree, specs: Any) -> PyTree:
        if specs is None:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        pairs = zip(leaves, specs, strict=True)
        return jax.tree.unflatten(structure, [self._constrain(*pair) for pair in pairs])

    def _constrain(self, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))


def without_axis(spec: PartitionSpec) -> PartitionSpec:
    """A spec with AXIS left out.

    >>> tuple(without_axis(PartitionSpec("data", "model")))
    (None, 'model')
    >>> tuple(without_axis(PartitionSpec(("data", "model"))))
    ('model',)
    """
    return PartitionSpec(*(_others(entry) for entry in spec))


def _others(entry: Any) -> Any:
    if not isinstance(entry, tuple):
        return None if entry == AXIS else entry
    rest = tuple(name for name in entry if name != AXIS)
    return rest[0] if len(rest) == 1 else rest or None


def has_axis(mesh: Mesh) -> None:
    """Refuse a mesh without AXIS, and what is no mesh."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be one of devices, such as shard.mesh(); got {describe(mesh)}."
        )
    if AXIS not in mesh.axis_names:
        axes = ", ".join(map(repr, mesh.axis_names))
        raise ValueError(
            f"batches are split over an axis called {AXIS!r}, and the mesh has {axes}; use "
            "shard.mesh()."
        )


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh of the first array of a tree; None if it has one device."""
    return _mesh_of(next(iter(jax.tree.leaves(tree)), None))


def in_words(mesh: Mesh | AbstractMesh) -> str:
    """A mesh in a few words.

    >>> in_words(AbstractMesh((8,), ("data",)))
    '8 devices (data=8)'
    """
    shape = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return f"{mesh.size} devices ({shape})"


def _traced_mesh(trees: PyTree) -> AbstractMesh | None:
    """The abstract mesh of arrays of which some are traced.

    The type of a traced array tells its mesh. An axis that is not Auto belongs to the caller,
    who then splits the work himself (`jax.shard_map`, explicit sharding).
    """
    context = jax.sharding.get_abstract_mesh()  # of jax.set_mesh
    meshes = [*_types_meshes(trees), context]
    for mesh in meshes:
        is_auto = all(kind == AxisType.Auto for kind in mesh.axis_types)
        if mesh.size > 1 and AXIS in mesh.axis_names and is_auto:
            return mesh
    return None


def _types_meshes(trees: PyTree) -> Iterator[AbstractMesh]:
    for leaf in jax.tree.leaves(trees):
        yield jax.typeof(leaf).sharding.mesh


def _common_mesh(trees: dict[str, PyTree]) -> Mesh | None:
    """The mesh of several devices on which all trees are."""
    meshes = {name: _mesh_of_all(tree, name) for name, tree in trees.items()}
    found = [(name, mesh) for name, mesh in meshes.items() if mesh is not None]
    if not found:
        return None
    first, mesh = found[0]
    for name, other in meshes.items():
        if other is None:
            raise ValueError(
                f"{first} lies on a mesh of {mesh.size} devices and {name} does not; put both "
                f"there: {name} = shard.put(mesh, {name})."
            )
        if other != mesh:
            here, there = (
                f"{in_words(m)}, the first {m.devices.flat[0]}" for m in (mesh, other)
            )
            raise ValueError(
                f"{first} lies on {here}, and {name} on {there}; put both on one mesh."
            )
    return mesh


def _mesh_of_all(tree: PyTree, name: str) -> Mesh | None:
    meshes = {_mesh_of(leaf) for leaf in jax.tree.leaves(tree)}
    if len(meshes) > 1:
        places = sorted("one device" if mesh is None else in_words(mesh) for mesh in meshes)
        raise ValueError(
            f"the arrays of {name} lie on {' and '.join(places)}; put all of them on one mesh: "
            f"shard.put(mesh, {name})."
        )
    return next(iter(meshes), None)


def _mesh_of(leaf: Any) -> Mesh | None:
    sharding = getattr(leaf, "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def _specs(tree: PyTree) -> tuple[PartitionSpec, ...]:
    return tuple(_spec(leaf) for leaf in jax.tree.leaves(tree))


def _spec(leaf: jax.Array) -> PartitionSpec:
    """A spec without None at its end: equal splits are equal specs."""
    entries = list(leaf.sharding.spec) if isinstance(leaf.sharding, NamedSharding) else []
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)
