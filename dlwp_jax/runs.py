"""One directory per run: what was asked for, what came out, and the pictures."""

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
    """A directory that holds `config.json`, `history.jsonl` and figures, each written whole or
    not at all.

    Of many processes number 0 writes them; in the others `path` is a temporary directory, for
    scripts that write to it.
    """

    path: Path

    def history(self, history: dict[str, Any], name: str = "history.jsonl") -> None:
        """Write a history to the file `name`, one JSON line per epoch: `{"epoch": 1,
        "train/loss": 0.7, ...}`.

        A value that is not finite is written as null, since JSON knows no NaN.
        """
        columns = {key: np.asarray(values, np.float64) for key, values in history.items()}
        lines = (
            {
                "epoch": epoch,
                **{
                    key: float(v) if np.isfinite(v) else None
                    for key, v in zip(columns, row, strict=True)
                },
            }
            for epoch, row in enumerate(zip(*columns.values(), strict=True), 1)
        )
        self._write(
            name,
            lambda partial: partial.write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            ),
        )

    def figure(self, figure: Any, name: str) -> None:
        """Save a matplotlib figure under `name`, whose ending chooses the format; close it, and
        say where it is.
        """
        with needs("experiments"):
            import matplotlib.pyplot as plt
        self._write(
            name, lambda partial: figure.savefig(partial, format=Path(name).suffix[1:], dpi=120)
        )
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
      out: where the runs are kept. A run of the same name is written over.

    Raises:
      OSError: in one sentence, where the directory cannot be made.

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
