"""Where the arrays of a training lie, read off them outside of `jit` and held to inside."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlwp_jax.checks import describe
from dlwp_jax.leaves import lay

PyTree = Any
AXIS = "data"  # of the mesh: batches are split over it


@dataclass(frozen=True)
class Placement:
    """A mesh, and how the leaves of a state lie on it: hashable, so that programs are compiled
    for it.

    Attributes:
      mesh: with an axis AXIS.
      specs: of every leaf of the `TrainState`, in its order.
      params: of the leaves of its `params`.
    """

    mesh: Mesh
    specs: tuple[PartitionSpec, ...]
    params: tuple[PartitionSpec, ...]

    def __str__(self) -> str:
        split = sum(spec != PartitionSpec() for spec in self.specs)
        return f"{told(self.mesh)}, {split} arrays of the state split"

    def replicated(self, tree: PyTree) -> PyTree:
        """Every leaf whole on every device."""
        return jax.tree.map(lambda leaf: self._held(leaf, PartitionSpec()), tree)

    def as_state(self, state: PyTree) -> PyTree:
        """A state as it lay."""
        return self._laid(state, self.specs)

    def as_params(self, params: PyTree) -> PyTree:
        """Parameters, or their gradients, as the parameters lay."""
        return self._laid(params, self.params)

    def whole(self, params: PyTree) -> PyTree:
        """Parameters to compute with: those that were split over AXIS are gathered."""
        return self._laid(params, [without_axis(spec) for spec in self.params])

    def rows(self, batch: PyTree) -> PyTree:
        """A batch split over AXIS by its rows.

        JAX splits evenly only, so a batch that does not divide is padded, split, and cut to its
        size again: the compiler then leaves the last devices fewer rows, or none, and masks the
        padding in every sum.
        """

        def split(leaf):
            if not jnp.ndim(leaf):
                return leaf
            padding = -leaf.shape[0] % self.mesh.shape[AXIS]
            padded = (
                jnp.pad(leaf, [(0, padding), *[(0, 0)] * (leaf.ndim - 1)]) if padding else leaf
            )
            return self._held(padded, PartitionSpec(AXIS))[: leaf.shape[0]]

        return jax.tree.map(split, batch)

    def spread(self, batch: PyTree) -> PyTree:
        """A batch from the host: each device is sent its rows alone, where they divide; else
        all rows.
        """

        def send(leaf):
            if _mesh_of(leaf) == self.mesh:
                return leaf
            spec = (
                PartitionSpec()
                if leaf.shape[0] % self.mesh.shape[AXIS]
                else PartitionSpec(AXIS)
            )
            return lay(leaf, NamedSharding(self.mesh, spec))

        return jax.tree.map(send, batch)

    def _laid(self, tree: PyTree, specs: Any) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        held = [self._held(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]
        return jax.tree.unflatten(structure, held)

    def _held(self, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))


def without_axis(spec: PartitionSpec) -> PartitionSpec:
    """A spec with AXIS left out.

    >>> tuple(without_axis(PartitionSpec("data", "model"))), tuple(without_axis(PartitionSpec(("data", "model"))))
    ((None, 'model'), ('model',))
    """
    return PartitionSpec(*(_others(entry) for entry in spec))


def _others(entry: Any) -> Any:
    names = entry if isinstance(entry, tuple) else () if entry is None else (entry,)
    rest = tuple(name for name in names if name != AXIS)
    return rest[0] if len(rest) == 1 else rest or None


def read(state: PyTree, data: dict[str, PyTree]) -> Placement | None:
    """How state and data lie, or None where they lie on one device, or are traced.

    Args:
      state: a `TrainState`.
      data: data sets under the names of the caller's arguments.

    Raises:
      ValueError: where one lies on a mesh and another does not, or on another mesh, or the mesh
        has no axis AXIS.
    """
    trees = {"state": state} | {name: tree for name, tree in data.items() if tree is not None}
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees)):
        return None
    meshes = {name: _mesh(tree, name) for name, tree in trees.items()}
    where = [(name, mesh) for name, mesh in meshes.items() if mesh is not None]
    if not where:
        return None
    first, mesh = where[0]
    for name, other in meshes.items():
        if other is None:
            raise ValueError(
                f"{first} lies on a mesh of {mesh.size} devices and {name} does not; put both there: "
                "state, train, val = shard.put(mesh, state, train, val)."
            )
        if other != mesh:
            meshes = [
                f"{told(mesh)}, the first {mesh.devices.flat[0]}" for mesh in (mesh, other)
            ]
            raise ValueError(
                f"{first} lies on {meshes[0]}, and {name} on {meshes[1]}; put both on one mesh."
            )
    has_axis(mesh)
    if AxisType.Explicit in mesh.axis_types:
        raise ValueError(
            f"the axes of the mesh must be Auto, not Explicit; shard.put makes them so ({told(mesh)})."
        )
    specs = tuple(_spec(leaf) for leaf in jax.tree.leaves(state))
    return Placement(mesh, specs, tuple(_spec(leaf) for leaf in jax.tree.leaves(state.params)))


def has_axis(mesh: Mesh) -> None:
    """Refuse a mesh without AXIS, and what is none."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be one of devices, such as shard.mesh(); got {describe(mesh)}."
        )
    if AXIS not in mesh.axis_names:
        axes = ", ".join(map(repr, mesh.axis_names))
        raise ValueError(
            f"batches are split over an axis called {AXIS!r}, and the mesh has {axes}; use shard.mesh()."
        )


def _mesh(tree: PyTree, name: str) -> Mesh | None:
    """The mesh of several devices on which all leaves of a tree lie."""
    meshes = {_mesh_of(leaf) for leaf in jax.tree.leaves(tree)}
    if len(meshes) > 1:
        where = " and ".join(
            sorted("one device" if mesh is None else told(mesh) for mesh in meshes)
        )
        raise ValueError(
            f"the arrays of {name} lie on {where}; put all of them on one mesh: shard.put(mesh, {name})."
        )
    return next(iter(meshes), None)


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh on which the first leaf of a tree lies."""
    return _mesh_of(next(iter(jax.tree.leaves(tree)), None))


def _mesh_of(leaf: Any) -> Mesh | None:
    sharding = getattr(leaf, "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def _spec(leaf: jax.Array) -> PartitionSpec:
    entries = list(leaf.sharding.spec) if isinstance(leaf.sharding, NamedSharding) else []
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def told(mesh: Mesh) -> str:
    """A mesh in a few words."""
    shape = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return f"{mesh.size} devices ({shape})"
