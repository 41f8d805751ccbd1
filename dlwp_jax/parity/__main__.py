"""Check a port from the shell, or let it be written.

python -m dlwp_jax.parity check my_torch.py:Net my_flax.py:Net --input 1,3,32,32 --weights my.pt
python -m dlwp_jax.parity port my_torch.py:Net --input 1,3,32,32 -o my_flax.py
"""

import argparse
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from flax import nnx

from dlwp_jax import parity, terminal
from dlwp_jax.parity.files import fill
from dlwp_jax.parity.forward import (
    copied,
    dtype_of,
    random_layers,
    refuse_drawing,
    tensors,
    without_dropout,
)
from dlwp_jax.parity.port import command


def main(arguments: list[str] | None = None) -> int:
    """Run `check` or `port`; 0 where the models agree, 1 where they do not, 2 where `port`
    refuses. An error is raised, and is status 2 in a shell.
    """
    options = _parser().parse_args(arguments)
    if options.command == "port":
        theirs = _build(options.torch)
        _expect(options.torch, theirs, torch.nn.Module)
        return command.run(theirs, options)
    theirs, ours = _build(options.torch), _build(options.flax)
    _expect(options.torch, theirs, torch.nn.Module)
    _expect(options.flax, ours, nnx.Module)
    if options.weights:
        fill(theirs, options.weights)
    inputs = _inputs(theirs, options)
    command.refuse_if_it_fails(theirs, inputs, options)
    layout = options.layout or "auto"
    loaded = parity.load_torch(
        ours, theirs, probe=inputs, rules=[tuple(rule) for rule in options.rule], layout=layout
    )
    print(loaded, end="\n\n")
    precisions = (
        [(True, options.tolerance)]
        if options.double
        else [(False, options.tolerance), (True, None)]
    )
    equal = True
    for mode, pair in _modes(theirs, ours, inputs, options):
        for double, tolerance in precisions:
            settings = {
                "train": mode == "train",
                "double": double,
                "tolerance": tolerance,
                "layout": layout,
            }
            report = parity.compare(*pair, *inputs, loaded=loaded, **settings)
            print(f"{mode} mode, {'float64' if double else 'as they are'}:\n{report}\n")
            equal &= report.ok
    return 0 if equal else 1


def _modes(
    theirs: torch.nn.Module, ours: nnx.Module, inputs: list, options: argparse.Namespace
):
    """Eval mode; and train mode if it is asked for, or if there are batch statistics in it.

    Yields:
      The mode and the two models to compare in it.
    """
    yield "eval", (theirs, ours)
    running = any(name.endswith("running_mean") for name, _ in theirs.named_buffers())
    statistics = running or bool(nnx.to_flat_state(nnx.state(ours, nnx.BatchStat)))
    if not options.train and not statistics:
        return
    pair = (theirs, ours)
    if options.no_dropout or not options.train:
        pair = without_dropout(theirs), without_dropout(ours)
        if random_layers(theirs):
            print("train mode: dropout is set to 0 in both models.\n")
    if not options.train and (why := _cannot_train(pair[0], inputs)):
        print(f"warning: train mode, with its batch statistics, was not compared: {why}\n")
        return
    yield "train", pair


def _cannot_train(model: torch.nn.Module, inputs: list) -> str:
    """Why torch's model does not run in train mode on these inputs, or is random there."""
    scout = copied(model).train()
    given = tensors(inputs, dtype_of(model))
    try:
        refuse_drawing(scout, lambda module: module(*given), "train")
    except (ValueError, RuntimeError) as error:  # a batch of one has no statistics
        return str(error)
    return ""


def end_with_status_2(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What becomes of an error: a sentence where parity refuses, the traceback where a model's
    code fails; status 2.
    """
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    below = (
        files[files.index(__file__) :] if __file__ in files else files
    )  # of main, and what it called
    if below and all(Path(file).is_relative_to(Path(__file__).parent) for file in below):
        print(f"cannot compare: {error}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, trace)
        print(
            "cannot compare: the error above came from a model's own code, or from what it "
            "called.",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        130 if issubclass(kind, KeyboardInterrupt) else 2
    )  # Python's own status is 1, which says "different"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dlwp_jax.parity", description="Compare a torch model with a port."
    )
    commands = parser.add_subparsers(required=True, dest="command")
    command.add_to(commands)
    check = commands.add_parser(
        "check", help="load torch's weights into the port, compare outputs and gradients"
    )
    check.add_argument(
        "torch",
        metavar="FILE.py:NAME",
        help="a torch module's class, or a function that makes one",
    )
    check.add_argument(
        "flax", metavar="FILE.py:NAME", help="the NNX module's class; takes rngs=, or nothing"
    )
    check.add_argument(
        "--input",
        type=command.checked,
        action="append",
        required=True,
        metavar="1,3,32,32[:int64]",
        help="torch's shape and dtype (float32); one for each input",
    )
    check.add_argument(
        "--weights",
        type=Path,
        help="a .pt, .pth, .state or .safetensors file of torch's weights",
    )
    check.add_argument(
        "--rule",
        nargs=2,
        action="append",
        default=[],
        metavar=("REGEX", "PATH"),
        help="see load_torch",
    )
    check.add_argument(
        "--tokens",
        type=_at_least_1,
        metavar="N",
        help="inputs are whole numbers below N",
    )
    check.add_argument(
        "--layout",
        action="append",
        choices=["auto", "channels_first", "as_is"],
        help="where the inputs have their channels, see parity.compare; one for each --input "
        "(default: auto)",
    )
    check.add_argument(
        "--train",
        action="store_true",
        help="compare in train mode too, as is done by itself if there are running statistics",
    )
    check.add_argument(
        "--no-dropout",
        action="store_true",
        help="set dropout to 0 in both models in train mode",
    )
    check.add_argument("--seed", type=_whole, default=0, help="of the inputs")
    check.add_argument(
        "--double", action="store_true", help="compare in float64 only, not in float32 too"
    )
    check.add_argument(
        "--tolerance",
        type=_share,
        help="relative to an array's largest value (of float32; with --double, of float64)",
    )
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, 0 or more")
    return int(text)


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 0 to 1, as 1e-4")
    return value


def _inputs(model: torch.nn.Module, options: argparse.Namespace) -> list[np.ndarray]:
    """Random inputs: whole numbers are such as every Embedding takes, if `--tokens` is not
    given.
    """
    texts, highest = options.input, options.tokens or command.rows_of_embeddings(model)
    if options.tokens:
        texts = [text if ":" in text else f"{text}:int64" for text in texts]
    return [command.made(text, options.seed + i, highest) for i, text in enumerate(texts)]


def _expect(target: str, made: Any, kind: type) -> None:
    if not isinstance(made, kind):
        raise TypeError(
            f"{target} made a {type(made).__name__}; a {kind.__module__}.{kind.__name__} is "
            "wanted."
        )


def _build(target: str) -> Any:
    """The model that `FILE.py:NAME` makes."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise ValueError(f"{target}: give FILE.py:NAME.")
    made: Any = getattr(_load(Path(file)), name, None)
    if made is None:
        raise ValueError(f"{file} has no {name}.")
    torch.manual_seed(0)
    if isinstance(made, torch.nn.Module | nnx.Module):
        return made
    if not callable(made):
        raise TypeError(
            f"{target} is a {type(made).__name__}; name a model, its class, or a function that "
            "makes it."
        )
    # nnx's metaclass hides the signature of the class itself.
    makes, own = (made.__init__, (None,)) if inspect.isclass(made) else (made, ())
    signature = inspect.signature(makes)
    arguments = {"rngs": nnx.Rngs(0)} if "rngs" in signature.parameters else {}
    try:
        signature.bind(*own, **arguments)
    except TypeError as error:
        raise TypeError(
            f"{target}: {error}; name a function without arguments that makes the model."
        ) from error
    return made(**arguments)


def _load(path: Path) -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    # Files may import their neighbours, as in `python path`.
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.excepthook = end_with_status_2
    with terminal.output():
        sys.exit(main())
