"""Lists and runs the experiments: python -m experiments [NAME [flags]] | --list."""

import dataclasses
import difflib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import experiments
from dlwp_jax import terminal
from dlwp_jax.files import needs
from experiments import nodules

DEFAULT = "ch05_thermometer"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Flags of every experiment: one training in many processes (see docs/sharding.md).

    Under Slurm, Open MPI, indexed Kubernetes Jobs and on TPU pods they are found by themselves.
    """

    coordinator: str | None = None  # HOST:PORT, where process 0 runs and a free port there
    num_processes: int | None = None  # 1: this process alone, whoever started it
    process_id: int | None = None  # this one's number, from 0
    timeout: float = 300.0  # seconds to wait for the others


def names() -> list[str]:
    return sorted(
        module.name
        for module in pkgutil.iter_modules(experiments.__path__)
        if module.name.startswith("ch")
    )


def known(name: str, commands: Sequence[str] = ()) -> str:
    """The name, if an experiment has it; otherwise the program ends with a hint."""
    if name in names():
        return name
    if name.startswith("-"):
        hint = f"the name comes before its flags, as in: {DEFAULT} {name}"
        sys.exit(f"no experiment is called {name!r}; {hint}")
    there_are = [*names(), "nodules"] if commands else names()
    likely = similar(name, there_are)
    likely = likely or [f"nodules {command}" for command in similar(name, commands)]
    hint = f"{asked(likely)}there are: {', '.join(there_are)}"
    sys.exit(f"no experiment is called {name!r}; {hint}")


def asked(likely: list[str]) -> str:
    return f"did you mean {' or '.join(likely)}? " if likely else ""


def similar(typed: str, names: Sequence[str]) -> list[str]:
    """The names that somebody who typed this may have meant.

    >>> similar("ch05", ["ch04_data", "ch05_lines", "ch05_curves"])
    ['ch05_lines', 'ch05_curves']
    >>> similar("Curve", ["ch04_data", "ch05_lines", "ch05_curves"])
    ['ch05_curves']
    >>> similar("dta", ["ch04_data", "ch05_lines", "ch05_curves"])
    ['ch04_data']
    """
    typed = typed.lower().removesuffix(".py").replace("-", "_")
    if begun := [name for name in names if name.startswith(typed)]:
        return begun
    if holding := [name for name in names if typed in name]:
        return holding
    if near := difflib.get_close_matches(typed, names, n=1, cutoff=0.7):
        return near
    chapter = re.fullmatch(r"\D*0*(\d+).*", typed)
    if chapter:
        return [name for name in names if name.startswith(f"ch{int(chapter[1]):02d}_")]
    subjects = {name.partition("_")[2]: name for name in names}
    near = difflib.get_close_matches(typed, subjects, n=1, cutoff=0.6)
    return [subjects[subject] for subject in near]


def list_experiments() -> None:
    for name in names():
        # Docstrings are read, not imported: a list should not wait for JAX.
        print(f"{name:20s}  {summary(Path(experiments.__path__[0]) / f'{name}.py')}")
    for command in nodules.COMMANDS:
        path = Path(nodules.__path__[0]) / f"{command}.py"
        print(f"{'nodules ' + command:20s}  {summary(path)}")


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return path.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]


def run_nodules(flags: list[str]) -> None:
    """Run one command of `experiments.nodules`, or all of the book's chapters."""
    if flags and not flags[0].startswith("-"):
        if flags[0] not in nodules.COMMANDS:
            hint = asked(similar(flags[0], nodules.COMMANDS))
            known = ", ".join(nodules.COMMANDS)
            sys.exit(f"nodules has no command {flags[0]!r}; {hint}there are: {known}")
        run(f"nodules.{flags[0]}", flags[1:])
        return
    if {"--help", "-h"} & set(flags):
        print(f"{nodules.__doc__}\ncommands: {', '.join(nodules.COMMANDS)}")
        return
    print(
        f"running {', '.join(nodules.CHAPTERS)}, one after the other: {nodules.EXPECT}\n"
        "One of them alone: nodules COMMAND; all commands: nodules --help",
        flush=True,
    )
    for command in nodules.CHAPTERS:
        run(f"nodules.{command}", flags)


def prepare() -> None:
    """Draw figures without a screen, and keep compiled programs for the next run."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "dlwp-jax" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def run(name: str, flags: list[str]) -> None:
    with needs("experiments"):
        import tyro

        module = importlib.import_module(f"experiments.{name}")
    from dlwp_jax import hosts

    name = name.replace(".", " ")
    if {"--help", "-h"} & set(flags):
        # Printed as it was written: as a description its lines would be run together.
        print(module.__doc__)
    parts = {"experiment": module.Config, "hosts": Hosts}
    both = tyro.conf.OmitArgPrefixes[dataclasses.make_dataclass("Flags", parts.items())]
    try:
        given = tyro.cli(both, args=flags, prog=f"experiments {name}", description="")
        hosts.start(**dataclasses.asdict(given.hosts))
        with needs("experiments"):
            module.main(given.experiment)
    except BrokenPipeError:
        raise  # nobody reads the output, which terminal.output() handles
    except (OSError, ValueError) as error:
        # Wrong files and wrong values: one sentence without a traceback.
        hosts.end(f"{name}: {sentence(error)}")
    except KeyboardInterrupt:
        # The first Ctrl-C ends a training early and shows its results; a second comes here.
        hosts.end(f"{name}: interrupted")


def sentence(error: OSError | ValueError) -> str:
    """The words of an error; an error of the system has its file last and a number first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def main() -> None:
    name, flags = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else (DEFAULT, [])
    if name in ("--list", "-l", "list"):
        list_experiments()
    elif name in ("--help", "-h"):
        print(f"{__doc__}\n\nWithout a name it runs {DEFAULT}. NAME --help lists its flags.\n")
        list_experiments()
    elif name == "nodules":
        prepare()
        run_nodules(flags)
    else:
        prepare()
        name = known(name, nodules.COMMANDS)
        try:
            run(name, flags)
        except ImportError as error:
            if "pip install" not in str(error):
                raise
            sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    with terminal.output():
        main()
