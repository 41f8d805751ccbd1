"""`python -m dlwp_jax.parity port`: a torch model in, a file and the table of its proof out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlwp_jax.parity.port import Ported, Refused, port


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
        "-o", "--output", type=Path, required=True, metavar="OUT.py", help="the file to write"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write a method that raises for what is refused, and the rest",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")


def run(module: torch.nn.Module, options: argparse.Namespace) -> int:
    """Port a model and write the file.

    Returns:
      0 if the port is proved, 1 if it differs from torch, 2 if the model is refused or a hole is
      left.
    """
    highest = rows_of_embeddings(module)
    inputs = [made(text, options.seed + i, highest) for i, text in enumerate(options.input)]
    try:
        ported = port(
            module,
            *inputs,
            weights=options.weights,
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
    words += ["--partial"] if options.partial else []
    return f"python -m dlwp_jax.parity {shlex.join([*words, '-o', str(options.output)])}"


def _write(path: Path, ported: Ported) -> None:
    """The whole file or none."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(ported.source)
    scratch.replace(path)
