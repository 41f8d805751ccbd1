"""Runs both halves of a pair and compares values, shapes, dtypes, and gradients where torch has
them.
"""

import ast
import linecache
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from scipy.stats import ks_2samp

from dlwp_jax import data, parity
from dlwp_jax.storage import StridedTensor
from scripts.rosetta.pairs import Pair, read
from tests.official_files import idx_bytes, python2_pickle

# Sums of some hundred float32 products in another order, relative to the largest value: 6e-8 a
# rounding.
TOLERANCE = 1e-5
# Two samples of one distribution are further apart than this once in 10,000 seeds; ours are
# fixed.
UNLIKELY = 1e-4
# JAX has 64 bits switched off unless a cell switches them on.
NARROWED = {"int64": "int32", "float64": "float32"}
# What torch says of names that the book uses and it wants to get rid of.
DEPRECATED = ("TypedStorage is deprecated", "`torch.jit", "torch.jit")


def import_torchvision() -> None:
    """Make `import torchvision` work beside a CPU build of torch.

    The wheel's compiled operators want CUDA and do not load; its import then asks for the names
    of two of them, which nothing here uses.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "() -> ()")
        import torchvision  # noqa: F401


def check(pair: Pair) -> None:
    """Run a pair, in the current folder; AssertionError where the halves differ."""
    import_torchvision()
    (inputs,) = read("inputs").pairs
    # torchvision wants the md5 sums of the whole data set; `sample_files` writes a few rows.
    with (
        warnings.catch_warnings(),
        patch("torchvision.datasets.cifar.check_integrity", return_value=True),
    ):
        for words in DEPRECATED:
            warnings.filterwarnings("ignore", f".*{words}")
        _check(pair, inputs)


def check_that_it_bites(pair: Pair) -> None:
    """Run a pair with the line that looks right in the place of ours; AssertionError where it
    gives torch's value.
    """
    try:
        check(replace(pair, jax=pair.bites))
    except AssertionError:
        return
    raise AssertionError(f"{pair.names[0]}: the line that is said to bite gives torch's value.")


def _check(pair: Pair, inputs: Pair) -> None:
    numbers = _torch_inputs(inputs)
    theirs = _torch_value(pair, inputs, numbers)
    ours = _jax_value(
        pair, inputs, {name: jnp.asarray(value.numpy()) for name, value in numbers.items()}
    )
    if isinstance(theirs, torch.nn.Module):
        _check_modules(pair, theirs, ours, numbers)
    else:
        _check_values("value", plain(ours), plain(theirs), pair.flags)
        if _floating(theirs, torch.Tensor):
            _check_gradients(pair, inputs, numbers)


def _torch_inputs(inputs: Pair) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(inputs.torch, names)
    return {name: value for name, value in names.items() if isinstance(value, torch.Tensor)}


def _torch_value(pair: Pair, inputs: Pair, numbers: Mapping[str, torch.Tensor]) -> Any:
    """The value of torch's half; its inputs are copies, so that it may write into them."""
    names: dict[str, Any] = {}
    exec(inputs.torch, names)
    names |= {name: value.clone() for name, value in numbers.items()}
    torch.manual_seed(1)
    return value_of(pair.torch, names)


def _jax_value(pair: Pair, inputs: Pair, numbers: Mapping[str, jax.Array]) -> Any:
    names: dict[str, Any] = dict(numbers)
    exec(inputs.jax, names)
    return value_of(pair.jax, names)


def value_of(code: str, names: dict[str, Any]) -> Any:
    """Run all statements; the value of the last one, an expression."""
    *body, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        raise ValueError(
            "the last line of a cell must be an expression, its value; it is "
            f"{ast.unparse(last)!r}."
        )
    names["__name__"] = "cell"
    file = f"<cell {hash(code)}>"
    linecache.cache[file] = (
        len(code),
        None,
        code.splitlines(keepends=True),
        file,
    )  # torch.jit.script reads the source
    exec(compile(ast.Module(body, []), file, "exec"), names)
    return eval(compile(ast.Expression(last.value), file, "eval"), names)


def _check_modules(pair: Pair, theirs: torch.nn.Module, ours: nnx.Module, numbers) -> None:
    """Two layers: from the same weights the same outputs, gradients and statistics, in train
    and in eval mode.
    """
    assert pair.input in numbers, (
        f"{pair.names}: a module needs '| on INPUT', one of {sorted(numbers)}"
    )
    loaded = parity.load_torch(ours, theirs)
    for train in (True, False) if list(theirs.buffers()) else (True,):
        report = parity.compare(
            theirs, ours, numbers[pair.input], loaded=loaded, train=train, tolerance=TOLERANCE
        )
        report.raise_if_different()


def _check_gradients(pair: Pair, inputs: Pair, numbers: Mapping[str, torch.Tensor]) -> None:
    """The gradients of all floating outputs with respect to all floating inputs, where torch
    has any; ours by jit.
    """
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in numbers.items()
        if value.is_floating_point()
    }
    outputs = _floating(_torch_value(pair, inputs, {**numbers, **leaves}), torch.Tensor)
    rng = np.random.default_rng(2)
    weights = [
        np.float32(output.requires_grad * rng.standard_normal(output.shape))
        for output in outputs
    ]
    loss = sum(
        (output * torch.tensor(weight)).sum()
        for output, weight in zip(outputs, weights, strict=True)
    )
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        return
    theirs = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    turn = _torch_order if "channels last" in pair.flags else lambda x: x

    def ours_of(given: dict[str, jax.Array]) -> jax.Array:
        full = {
            name: given.get(name, jnp.asarray(value.numpy())) for name, value in numbers.items()
        }
        found = _floating(_jax_value(pair, inputs, full), jax.Array)
        return sum(jnp.sum(turn(x) * weight) for x, weight in zip(found, weights, strict=True))

    ours = jax.jit(jax.grad(ours_of))(
        {name: jnp.asarray(leaf.detach().numpy()) for name, leaf in leaves.items()}
    )
    for name, gradient in zip(leaves, theirs, strict=True):
        _check_values(f"gradient by {name}", np.asarray(ours[name]), gradient.numpy(), ())


def _floating(value: Any, kind: type) -> list:
    """The floating arrays in a value, in order."""
    leaves = jax.tree.leaves(
        plain(value, keep_tensors=True), is_leaf=lambda leaf: isinstance(leaf, kind)
    )
    return [x for x in leaves if isinstance(x, kind) and "float" in str(x.dtype)]


def plain(value: Any, *, keep_tensors: bool = False) -> Any:
    """A value in words that both sides share: NumPy arrays, numbers, strings, lists and dicts
    of them.
    """
    if isinstance(value, StridedTensor):
        value = value.to_array()
    if isinstance(value, nnx.Variable):
        value = value[...]
    if isinstance(value, torch.Tensor | jax.Array | np.ndarray):
        return (
            value
            if keep_tensors
            else np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
        )
    if isinstance(value, torch.dtype | np.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.device | jax.Device):
        return value.type if isinstance(value, torch.device) else value.platform
    if isinstance(value, Mapping):
        return {key: plain(item, keep_tensors=keep_tensors) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, keep_tensors=keep_tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a cell's value is a {type(value).__name__}; it must be arrays, numbers, strings or "
        "modules."
    )


def _check_values(where: str, ours: Any, theirs: Any, flags: tuple[str, ...]) -> None:
    assert type(ours) is type(theirs), (
        f"{where}: {type(ours).__name__} here, {type(theirs).__name__} in torch"
    )
    if isinstance(theirs, np.ndarray):
        _check_arrays(where, ours, theirs, flags)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), (
            f"{where}: {len(ours)} values here, {len(theirs)} in torch"
        )
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _check_values(f"{where}[{i}]", a, b, flags)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), (
            f"{where}: {list(ours)} here, {list(theirs)} in torch"
        )
        for key in theirs:
            _check_values(f"{where}[{key!r}]", ours[key], theirs[key], flags)
    elif isinstance(theirs, float):
        assert abs(ours - theirs) <= TOLERANCE * abs(theirs), (
            f"{where}: {ours} here, {theirs} in torch"
        )
    else:
        assert ours == theirs, f"{where}: {ours!r} here, {theirs!r} in torch"


def _check_arrays(
    where: str, ours: np.ndarray, theirs: np.ndarray, flags: tuple[str, ...]
) -> None:
    allowed = {str(theirs.dtype), NARROWED.get(str(theirs.dtype))}
    assert str(ours.dtype) in allowed, (
        f"{where}: dtype {ours.dtype} here, {theirs.dtype} in torch"
    )
    if "channels last" in flags:
        ours = np.asarray(_torch_order(ours))
    assert ours.shape == theirs.shape, (
        f"{where}: shape {ours.shape} here, {theirs.shape} in torch"
    )
    if "unset" in flags:
        return
    if "random" in flags:
        likelihood = ks_2samp(ours.ravel(), theirs.ravel()).pvalue
        assert likelihood > UNLIKELY, (
            f"{where}: not one distribution (Kolmogorov-Smirnov {likelihood:.1e})"
        )
        return
    scale = np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0)
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=TOLERANCE * float(scale), err_msg=where
    )


def _torch_order(x: Any) -> Any:
    """`[N ... C]` to `[N C ...]`, one image `[H W C]` to `[C H W]`; what has no image's axes
    stays.
    """
    return x if x.ndim < 3 else jnp.moveaxis(x, -1, 0 if x.ndim == 3 else 1)


def sample_files(folder: Path) -> None:
    """Files for the cells that read some: CIFAR-10 and MNIST in their official form, a picture,
    a hub.
    """
    from PIL import Image

    rng = np.random.default_rng(3)
    cifar10, mnist = folder / "cifar-10-batches-py", folder / "MNIST" / "raw"
    cifar10.mkdir()
    mnist.mkdir(parents=True)
    (cifar10 / "batches.meta").write_bytes(
        pickle.dumps({"label_names": list(data.cifar.CLASSES)})
    )
    for name in (*data.cifar.TRAIN, *data.cifar.TEST):
        batch = python2_pickle(
            rng.integers(0, 256, (4, 3, 32, 32), np.uint8), rng.integers(0, 10, 4).tolist()
        )
        (cifar10 / name).write_bytes(batch)
    for side in ("train", "t10k"):
        (mnist / f"{side}-images-idx3-ubyte").write_bytes(
            idx_bytes(rng.integers(0, 256, (4, 28, 28)))
        )
        (mnist / f"{side}-labels-idx1-ubyte").write_bytes(idx_bytes(rng.integers(0, 10, 4)))
    (folder / "hubconf.py").write_text(
        "import torch\n\n\ndef line():\n    return torch.nn.Linear(4, 1)\n"
    )
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / "dog.png")
