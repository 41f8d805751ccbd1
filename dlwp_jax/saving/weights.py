"""The weights of a model in a file that other programs can read: safetensors or npz.

For torch see `dlwp_jax.parity.to_torch`.
"""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import reading
from dlwp_jax.devices import joint
from dlwp_jax.devices import processes as hosts
from dlwp_jax.files import whole
from dlwp_jax.leaves import as_was
from dlwp_jax.train.state import TrainState, check_state

PyTree = Any


def save_weights(path: str | os.PathLike[str], state: TrainState) -> None:
    """Write the parameters and the other arrays of a model (batch statistics, frozen parts).

    Their names are dotted, such as `hidden.kernel`, and their layouts are Flax's. If writing
    fails, a file that was there before is unchanged.

    Args:
      path: a name that ends in `.safetensors` (needs safetensors; bfloat16 too) or `.npz`.
      state: from `make_learner`, or a `Run`'s `state` or `best`.

    Raises:
      ValueError: if the name ends otherwise, or the format has no such dtype.
      FileNotFoundError: if there is no such folder.

    >>> import optax, tempfile
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> def loss_fn(model, batch):
    ...     return model(batch).sum(), {}
    >>> _, state = make_learner(model, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    >>> path = Path(tempfile.mkdtemp(), "linear.npz")
    >>> save_weights(path, state)
    >>> {name: array.shape for name, array in np.load(path).items()}
    {'bias': (1,), 'kernel': (2, 1)}
    """
    path = _known(path)
    arrays = {name: np.asarray(leaf) for name, leaf in joint.gathered(_named(state)).items()}
    for name, array in arrays.items():
        if path.suffix == ".npz" and array.dtype.isbuiltin != 1:
            raise ValueError(
                f"{path}: .npz cannot hold {name}, which is {array.dtype}; write .safetensors."
            )
    if not hosts.is_writer():
        return
    with whole(path) as partial:
        if path.suffix == ".npz":
            # np.savez cannot write an array of the name `file`.
            with zipfile.ZipFile(partial, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
        else:
            ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
            partial.write_bytes(_safetensors().save(ordered))


def load_weights(path: str | os.PathLike[str], state: TrainState) -> TrainState:
    """The state with the weights of a file in place of its own.

    The state of the optimizer, the key and the epoch stay as they are.

    Args:
      path: a file of `save_weights`, or of another program with the same names.
      state: of the same model, from `make_learner`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, or an array is missing, unknown to the model, or of
        another shape or dtype; the message names the file and the first such array.
    """
    path = _known(path)
    arrays = _read(path)
    leaves = _named(state)
    for name in {**leaves, **arrays}:
        if name not in leaves:
            raise ValueError(f"{path}: {name} is only in the file.")
        if name not in arrays:
            raise ValueError(f"{path}: {name} is only in the model.")
        here = f"{leaves[name].dtype}{list(leaves[name].shape)}"
        there = f"{arrays[name].dtype}{list(arrays[name].shape)}"
        if here != there:
            raise ValueError(f"{path}: {name} is {there} there, and {here} in the model.")

    def filled(part):
        def new(key, leaf):
            return as_was(arrays[_dotted(key)], leaf)

        return jax.tree_util.tree_map_with_path(new, part)

    return dataclasses.replace(state, params=filled(state.params), extra=filled(state.extra))


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The weights by their dotted names."""
    check_state(state)
    named = {}
    for part in (state.params, state.extra):
        for key, leaf in jax.tree_util.tree_leaves_with_path(part):
            name = _dotted(key)
            if name in named:
                raise ValueError(
                    f"two arrays of the model have the name {name}; attributes may not "
                    "contain dots."
                )
            named[name] = leaf
    return named


def _dotted(key: tuple) -> str:
    return jax.tree_util.keystr(key, simple=True, separator=".")


def _known(path: str | os.PathLike[str]) -> Path:
    checks.path(path)
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: weights are written and read as .safetensors or .npz.")
    return path


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        faults = (zipfile.BadZipFile, EOFError, ValueError)
        with path.open("rb") as file, reading(path, "an .npz file", *faults):
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return dict(archive)
    load = _safetensors().load_file
    from safetensors import SafetensorError

    # Python's errors for a missing file or a folder are clearer than those of safetensors.
    with path.open("rb"), reading(path, "a .safetensors file", SafetensorError):
        return load(path)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "safetensors files need safetensors: pip install 'dlwp-jax[checkpoint]'"
        ) from error
    return safetensors.numpy
