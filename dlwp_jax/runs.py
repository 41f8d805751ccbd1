"""One directory for each run of an experiment: configuration, history, figures."""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dlwp_jax.devices import processes as hosts
from dlwp_jax.files import needs, whole


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A directory with `config.json`, `history.jsonl` and figures.

    A file is written completely or not at all. If there are many processes, number 0 writes;
    in the others `path` is a temporary directory.
    """

    path: Path

    def history(self, history: dict[str, Any], name: str = "history.jsonl") -> None:
        """Write a history, one line of JSON for each epoch: `{"epoch": 1, "train/loss": 0.7}`.

        A value that is not finite is written as null, since JSON has no NaN.

        Args:
          history: lists or arrays of one value an epoch, by their names.
          name: of the file.
        """
        columns = {key: np.asarray(values, np.float64) for key, values in history.items()}
        lines = []
        for epoch, row in enumerate(zip(*columns.values(), strict=True), 1):
            line: dict[str, Any] = {"epoch": epoch}
            for key, value in zip(columns, row, strict=True):
                line[key] = float(value) if np.isfinite(value) else None
            lines.append(json.dumps(line) + "\n")
        self._write(name, lambda partial: partial.write_text("".join(lines)))

    def figure(self, figure: Any, name: str) -> None:
        """Save a matplotlib figure, print its path, and close it.

        Args:
          figure: a matplotlib figure.
          name: of the file; its ending chooses the format.
        """
        with needs("experiments"):
            import matplotlib.pyplot as plt

        kind = Path(name).suffix[1:]
        self._write(name, lambda partial: figure.savefig(partial, format=kind, dpi=120))
        plt.close(figure)
        print(f"wrote {self.path / name}")

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        if not hosts.is_writer():
            return
        with whole(self.path / name) as partial:
            write(partial)


@functools.cache
def _elsewhere() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="dlwp-jax-")  # removed when the process ends


def start(name: str, config: Any, *, out: Path | str = "runs") -> RunDirectory:
    """Make the directory `out/name` and write the configuration into it.

    Args:
      name: the experiment's name.
      config: a dataclass instance.
      out: the folder of all runs. A run of the same name is overwritten.

    Raises:
      OSError: if the directory cannot be made.

    >>> import tempfile
    >>> @dataclasses.dataclass
    ... class Config:
    ...     lr: float = 0.1
    >>> run = start("demo", Config(), out=tempfile.mkdtemp())
    >>> (run.path / "config.json").read_text()
    '{\\n  "lr": 0.1\\n}\\n'
    """
    if not hosts.is_writer():
        out = _elsewhere().name
    path = Path(out) / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"the run directory {path} cannot be made ({error.strerror}); name another with "
            "--out."
        ) from None
    run = RunDirectory(path)
    settings = json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"
    run._write("config.json", lambda partial: partial.write_text(settings))
    return run
