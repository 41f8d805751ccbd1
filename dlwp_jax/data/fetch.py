"""Published files, fetched once: checked by checksum, complete, also with two processes."""

import dataclasses
import os
import tarfile
import tempfile
from pathlib import Path

from dlwp_jax.data.files import needs, reading


class FetchError(OSError):
    """A file could not be fetched; the message says what to do instead."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
      url: its address.
      checksum: its published checksum in pooch's form: "md5:..." or "sha256:...".
      path: its path under the data root.
      folder: the folder to unpack, if the file is an archive; else empty.
    """

    url: str
    checksum: str
    path: str
    folder: str = ""


def data_root() -> Path:
    """The folder of data sets: the environment's DLWP_DATA, or else the platform's cache folder
    for dlwp-jax.

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
    """Fetch one file, unless it is there with the right checksum, and unpack an archive.

    The file is downloaded under a temporary name and renamed when its checksum is right. An
    archive is unpacked under another name and renamed. So a file of the right name is complete,
    even if a process was interrupted.

    Args:
      remote: the file.
      root: the data root.
      progress: show a bar on the terminal.

    Returns:
      The file, or the unpacked folder.

    Raises:
      FetchError: if the file cannot be downloaded, or has another checksum.
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
    except (requests.exceptions.RequestException, ValueError) as error:
        # pooch raises ValueError for a wrong checksum.
        raise FetchError(
            f"{remote.url} could not be fetched: {error}. Without a network, put that file at "
            f"{file} ({remote.checksum}) and try again, or use the embedded default."
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
            if not (root / folder).is_dir():  # another process may have been first
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
