"""`python -m dlwp_jax.parity port`: a torch model in, a file and the table of its proof out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlwp_jax.parity.files import fill
from dlwp_jax.parity.forward import dtype_of, tensors
from dlwp_jax.parity.port import Ported, Refused, port
from dlwp_jax.parity.port.refuse import is_users


def add_to(commands: Any) -> None:
    """Add the command to those of `python -m dlwp_jax.parity`."""
    parser = commands.add_parser(
        "port", help="write a torch model as Flax source, and prove it equal"
    )
    parser.add_argument(
        "torch",
        metavar="FILE.py:NAME",
        help="a torch module's class, or a function that makes one",
    )
    parser.add_argument(
        "--input",
        type=checked,
        action="append",
        required=True,
        metavar="1,3,32,32[:int64]",
        help="torch's shape and dtype (float32); one for each input",
    )
    parser.add_argument("--weights", type=Path, help="a file of torch's weights")
    parser.add_argument(
        "-o",
        "--output",
        type=_in_a_folder,
        required=True,
        metavar="OUT.py",
        help="the file to write",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write a method that raises for what is refused, and the rest",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")


def _in_a_folder(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file in it")
    return path


def run(module: torch.nn.Module, options: argparse.Namespace) -> int:
    """Port a model and write the file.

    Returns:
      0 if the port is proved, 1 if it differs from torch, 2 if the model is refused or a hole
      is left.
    """
    highest = rows_of_embeddings(module)
    inputs = [made(text, options.seed + i, highest) for i, text in enumerate(options.input)]
    if options.weights:
        fill(module, options.weights)
    refuse_if_it_fails(module, inputs, options)
    try:
        ported = port(
            module,
            *inputs,
            partial=options.partial,
            command=_command(options),
        )
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    _write(options.output, ported)
    print(ported.report)
    print(f"\n{options.output}: {ported.source.count(chr(10))} lines")
    for hole in ported.holes:
        print(f"not written: {hole}", file=sys.stderr)
    if ported.holes:
        return 2
    return 0 if ported.report.ok else 1


def refuse_if_it_fails(
    module: torch.nn.Module, inputs: list[np.ndarray], options: argparse.Namespace
) -> None:
    """Say in a sentence that the shapes are wrong, or the model has an error of its own."""
    was_training = module.training
    try:
        with torch.no_grad():
            module.eval()(*tensors(inputs, dtype_of(module)))
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{options.torch} does not run on --input {' --input '.join(options.input)}: "
            f"{words[:300]}{where}."
        ) from error
    finally:
        module.train(was_training)


def made(text: str, seed: int, highest: int = 2) -> np.ndarray:
    """An input of a shape and dtype: normal numbers, or whole ones below `highest`.

    >>> made("2,3:int64", 0, 5).dtype, made("2,3", 0).shape
    (dtype('int64'), (2, 3))
    """
    shape, kind = _parsed(text)
    rng = np.random.default_rng(seed)
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    return rng.integers(0, 2 if kind.kind == "b" else highest, shape).astype(kind)


def checked(text: str) -> str:
    """The value of `--input`, if it is a shape with or without a dtype."""
    try:
        shape, _ = _parsed(text)
    except (ValueError, TypeError) as error:
        hint = (
            "give whole numbers, as in 1,3,32,32, and the dtype if it is not float32, as in "
            "2,7:int64"
        )
        raise argparse.ArgumentTypeError(f"{text}: {hint}") from error
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text}: sizes are 1 and more")
    return text


def _parsed(text: str) -> tuple[tuple[int, ...], np.dtype]:
    sizes, _, dtype = text.partition(":")
    return tuple(int(size) for size in sizes.split(",")), np.dtype(dtype or "float32")


def rows_of_embeddings(module: torch.nn.Module) -> int:
    """Whole numbers below this are tokens of every embedding in the model."""
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    return min((layer.num_embeddings for layer in layers), default=2)


def _command(options: argparse.Namespace) -> str:
    words = ["port", options.torch]
    for text in options.input:
        words += ["--input", text]
    if options.weights:
        words += ["--weights", str(options.weights)]
    words += ["--seed", str(options.seed)] if options.seed else []
    words += ["--partial"] if options.partial else []
    return f"python -m dlwp_jax.parity {shlex.join([*words, '-o', str(options.output)])}"


def _write(path: Path, ported: Ported) -> None:
    """The whole file or none."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(ported.source)
    scratch.replace(path)
