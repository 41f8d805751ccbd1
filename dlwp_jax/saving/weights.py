"""A model's weights alone, for other programs: safetensors or npz. For torch, see
`dlwp_jax.parity.to_torch`.
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
    """Write the parameters and the other arrays of a model (batch statistics, frozen
    parameters).

    They stand under dotted names such as `hidden.kernel`, in Flax's layouts. The file is whole
    or not there.

    Args:
      path: `.safetensors` (any dtype that it knows, bfloat16 too; needs safetensors) or `.npz`.
      state: from `make_learner`, or a `Run`'s `state` or `best`.

    Raises:
      ValueError: for another suffix, for a dtype that the file cannot hold.
      FileNotFoundError: where there is no such folder.

    >>> import optax, tempfile
    >>> from flax import nnx
    >>> from dlwp_jax.train import make_learner
    >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> _, state = make_learner(model, lambda m, b: (m(b).sum(), {}), optax.sgd(0.1), key=jax.random.key(0))
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
            with zipfile.ZipFile(
                partial, "w"
            ) as archive:  # as np.savez does, but for any name, `file` too
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
        else:
            partial.write_bytes(
                _safetensors().save(
                    {name: np.asarray(a, order="C") for name, a in arrays.items()}
                )
            )


def load_weights(path: str | os.PathLike[str], state: TrainState) -> TrainState:
    """A state with the weights of the file `path` in place of its own; all else (optimizer,
    keys, epoch) stays.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: naming the file, where it is damaged; or the first leaf that is missing, left
        over, or of another shape or dtype.
    """
    path = _known(path)
    arrays, leaves = _read(path), _named(state)
    for name in {**leaves, **arrays}:
        if name not in arrays or name not in leaves:
            raise ValueError(
                f"{path}: {name} is only in the {'file' if name in arrays else 'model'}."
            )
        (here, there) = (f"{x.dtype}{list(x.shape)}" for x in (leaves[name], arrays[name]))
        if here != there:
            raise ValueError(f"{path}: {name} is {there} there, and {here} in the model.")

    def filled(part):
        return jax.tree_util.tree_map_with_path(
            lambda key, leaf: as_was(arrays[_dotted(key)], leaf), part
        )

    return dataclasses.replace(state, params=filled(state.params), extra=filled(state.extra))


def _named(state: TrainState) -> dict[str, jax.Array]:
    """The weights under their dotted names."""
    check_state(state)
    leaves = [
        (_dotted(key), leaf)
        for part in (state.params, state.extra)
        for key, leaf in jax.tree_util.tree_leaves_with_path(part)
    ]
    if len({name for name, _ in leaves}) < len(leaves):
        raise ValueError(
            "two leaves of the model have the same dotted name; attributes may not hold dots."
        )
    return dict(leaves)


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
        with (
            path.open("rb") as file,
            reading(path, "an .npz file", zipfile.BadZipFile, EOFError, ValueError),
        ):
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return dict(archive)
    load = _safetensors().load_file
    from safetensors import SafetensorError

    with (
        path.open("rb"),
        reading(path, "a .safetensors file", SafetensorError),
    ):  # no file, a folder: said by Python
        return load(path)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "safetensors files need safetensors: pip install 'dlwp-jax[checkpoint]'"
        ) from error
    return safetensors.numpy
