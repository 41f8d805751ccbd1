"""Lists and runs the experiments: python -m experiments [NAME [flags]] | --list."""

import dataclasses
import difflib
import importlib
import os
import pkgutil
import sys
from pathlib import Path

import experiments
from dlwp_jax import terminal

DEFAULT = "ch05_thermometer"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Flags of every experiment: one training in many processes (see docs/sharding.md).

    Slurm, Open MPI, indexed Kubernetes Jobs and TPU pods set them by themselves.
    """

    coordinator: str | None = None  # HOST:PORT, where process 0 runs and a free port there
    num_processes: int | None = None  # how many; 1: this process alone, whatever has started it
    process_id: int | None = None  # which one this is, from 0
    timeout: float = 300.0  # seconds to wait for the others


def names() -> list[str]:
    return sorted(
        module.name
        for module in pkgutil.iter_modules(experiments.__path__)
        if module.name.startswith("ch")
    )


def known(name: str) -> str:
    """The name, if it is one of an experiment's; ends the program otherwise."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}? " if near and not name.startswith("-") else ""
        sys.exit(f"no experiment is called {name!r}; {hint}there are: {', '.join(names())}")
    return name


def list_experiments() -> None:
    for name in names():
        # The docstring is read, not imported: a list should not wait for JAX.
        source = (Path(experiments.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
        summary = source.split('"""')[1].splitlines()[0]
        print(f"{name:24s} {summary}")


def prepare() -> None:
    """Figures without a screen; compiled programs kept, so that a second run does not compile
    again.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dlwp-jax" / "compiled"
    )
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def run(name: str, flags: list[str]) -> None:
    import tyro

    from dlwp_jax import hosts

    module = importlib.import_module(f"experiments.{name}")
    if {"--help", "-h"} & set(flags):
        print(
            module.__doc__
        )  # as it was written; as a description its lines would be run together
    parts = dataclasses.make_dataclass(
        "Flags", {"experiment": module.Config, "hosts": Hosts}.items()
    )
    try:
        given = tyro.cli(
            tyro.conf.OmitArgPrefixes[parts],
            args=flags,
            prog=f"experiments {name}",
            description="",
        )
        hosts.start(**dataclasses.asdict(given.hosts))
        module.main(given.experiment)
    except BrokenPipeError:
        raise  # nobody reads the output; told below
    except (
        OSError,
        ValueError,
    ) as error:  # wrong files and wrong values: one sentence, no traceback
        hosts.end(f"{name}: {told(error)}")
    except (
        KeyboardInterrupt
    ):  # one Ctrl-C ends a training early, which then is shown as far as it came; two end all
        hosts.end(f"{name}: interrupted")


def told(error: OSError | ValueError) -> str:
    """An error in words; the system's own have the file last and a number first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def main() -> None:
    name, flags = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else (DEFAULT, [])
    if name in ("--list", "-l", "list"):
        list_experiments()
    elif name in ("--help", "-h"):
        print(f"{__doc__}\n\nWithout a name: {DEFAULT}. Flags of one: NAME --help.\n")
        list_experiments()
    else:
        prepare()
        run(known(name), flags)


if __name__ == "__main__":
    with terminal.output():
        main()
