"""Bringing published files to this machine once: by checksum, without half files, also with two
processes at once.
"""

import dataclasses
import os
import tarfile
import tempfile
from pathlib import Path

from dlwp_jax.data.files import needs, reading


class FetchError(OSError):
    """A file could not be brought here; the message says what to do instead."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
      url: where it is.
      checksum: what was published with it, as pooch has it: "md5:..." or "sha256:...".
      path: where it is kept under the data root.
      folder: for an archive, the folder in it that is unpacked beside it; else empty.
    """

    url: str
    checksum: str
    path: str
    folder: str = ""


def data_root() -> Path:
    """Where data sets are kept: the environment's DLWP_DATA, or else the platform's cache
    folder for dlwp-jax.

    >>> getfixture("monkeypatch").setenv("DLWP_DATA", "/data")
    >>> data_root().as_posix()
    '/data'
    """
    if folder := os.environ.get("DLWP_DATA"):
        return Path(folder).expanduser()
    with needs():
        import platformdirs

    return Path(platformdirs.user_cache_dir("dlwp-jax"))


def fetch(remote: Remote, root: Path, *, progress: bool = True) -> Path:
    """Bring one file, unless it is there with the right checksum, and unpack it where it is an
    archive.

    The file is downloaded under a temporary name and renamed when its checksum is right, and an
    archive is unpacked beside and renamed: what has the right name is whole, whoever is
    interrupted.

    Args:
      remote: what to bring.
      root: the data root.
      progress: show a bar on the terminal.

    Returns:
      The file, or the unpacked folder.

    Raises:
      FetchError: where the network, the server or the checksum says no.
    """
    with needs():
        import pooch
        import requests

    file = root / remote.path
    if remote.folder and (root / remote.folder).is_dir():
        return root / remote.folder
    pooch.get_logger().setLevel("WARNING")
    bar = _Bar(file.name) if progress else False
    try:
        pooch.retrieve(
            remote.url,
            remote.checksum,
            fname=file.name,
            path=file.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16),  # type: ignore[arg-type]
        )
    except (
        requests.exceptions.RequestException,
        ValueError,
    ) as error:  # ValueError is pooch's wrong checksum
        raise FetchError(
            f"{remote.url} could not be fetched: {error}. Without a network, put that file at {file} "
            f"({remote.checksum}) and try again, or use the embedded default."
        ) from error
    finally:
        if bar:
            bar.close()
    return _unpack(file, remote.folder, root) if remote.folder else file


def _unpack(archive: Path, folder: str, root: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as partial:
        with (
            reading(archive, "a tar archive", tarfile.TarError, EOFError, OSError),
            tarfile.open(archive) as tar,
        ):
            tar.extractall(
                partial, [m for m in tar if m.name.split("/")[0] == folder], filter="data"
            )
        try:
            os.rename(Path(partial, folder), root / folder)
        except OSError:
            if not (
                root / folder
            ).is_dir():  # it is there when another process was first: theirs is as good
                raise
    return root / folder


class _Bar:
    """The part of a tqdm bar that pooch uses, drawn by rich."""

    def __init__(self, label: str):
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn(label), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        )
        self._task = self._progress.add_task(label, start=False, total=None)

    @property
    def total(self):
        return self._progress.tasks[0].total

    @total.setter
    def total(self, value: int):
        self._progress.start()
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=value or None)

    def update(self, amount: int):
        self._progress.update(self._task, advance=amount)

    def reset(self):
        self._progress.update(self._task, completed=0)

    def close(self):
        self._progress.stop()
