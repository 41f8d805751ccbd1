"""The files of a checkpoint: damage is found, one process writes, a full disk loses nothing."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from dlwp_jax import checkpoint, train
from tests import resuming
from tests.conftest import ROOT
from tests.models import assert_same_bits
from tests.resuming import (  # noqa: F401
    OPTIONS,
    TRAIN,
    VAL,
    again,
    break_off,
    directory,
    files_of,
    interrupted,
    learned,
    learner_of,
    listing,
    whole,
)


def test_a_forked_worker_that_outlives_its_process_does_not_hold_the_directory(tmp_path):
    script = f"""
import os, signal, time
from dlwp_jax import checkpoint
store = checkpoint.Store({str(tmp_path)!r}, keep=2)
ready, started = os.pipe()
if (worker := os.fork()) == 0:
    os.write(started, b"1")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
print(worker, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        worker = int(process.stdout.readline())
        assert process.wait() == -signal.SIGKILL
    try:
        checkpoint.Store(tmp_path, keep=2).close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_every_damage_to_every_file_is_found(interrupted, tmp_path):
    """Flipped bits at the beginning, in the middle and at the end, a byte less, a byte more,
    and no file at all.
    """
    path = shutil.copytree(interrupted / "checkpoint-000003", tmp_path / "copy")
    assert checkpoint.damage(path) is None
    tried = 0
    for file in files_of(path):
        good = file.read_bytes()
        bad = [good + b"\n", good[:-1]] if good else [b"x"]
        for place in {0, len(good) // 2, len(good) - 1} if good else ():
            bad += [
                good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
                for bit in (0, 5, 7)
            ]
        for content in bad:
            file.write_bytes(content)
            assert (checkpoint.damage(path) or "").startswith("is damaged:")
            tried += 1
        file.unlink()
        assert file.name in (checkpoint.damage(path) or "")
        file.write_bytes(good)
    assert checkpoint.damage(path) is None
    assert tried > 90


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_offered(
    learned, directory, whole
):
    newest, before = directory / "checkpoint-000003", directory / "checkpoint-000002"
    data = max(files_of(newest / "arrays"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    (before / "about.json").unlink()
    with pytest.raises(checkpoint.CheckpointError) as told:
        again(learned, directory)
    for part in (
        f"{newest} is damaged",
        data.name,
        "SHA-256",
        f"last good one is {directory / 'checkpoint-000001'}",
    ):
        assert part in str(told.value)
    with pytest.raises(checkpoint.CheckpointError, match="is damaged"):
        train.restore(directory, learned[1])
    for path in (newest, before):
        path.rename(path.with_name(f"bad-{path.name}"))
    assert_same_bits(whole, again(learned, directory))


def test_what_was_being_written_is_never_taken(learned, directory, whole):
    half = shutil.copytree(directory / "checkpoint-000003", directory / ".partial-000004")
    (half / "SHA256SUMS").unlink()
    assert_same_bits(whole, again(learned, directory))
    assert not half.exists()


def test_only_the_newest_are_kept(learned, tmp_path):
    again(learned, train.Checkpoint(tmp_path, every_epochs=2, keep=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-000002",
        "checkpoint-000003",
        "lock",
    ]
    assert [
        json.loads((p / "about.json").read_text())["called"] for p in checkpoint.saved(tmp_path)
    ] == [4, 6]


def test_a_second_process_is_refused(learned, directory, whole):
    with (
        contextlib.closing(checkpoint.Store(directory, keep=2)),
        pytest.raises(
            checkpoint.CheckpointError,
            match=rf"is in use: process {os.getpid()} on .* trains there",
        ),
    ):
        again(learned, directory)
    assert_same_bits(whole, again(learned, directory))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "checkpoint must be a directory's path or a Checkpoint; got int 3"),
        ("", "directory's path"),
    ],
)
def test_wrong_checkpoints(learned, wrong, message):
    with pytest.raises(TypeError, match=message):
        again(learned, wrong)
    with pytest.raises(ValueError, match="checkpoint must name a file or a folder"):
        again(learned, "a\0b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every_epochs": 0}, "every_epochs"),
        ({"every_seconds": -1}, "every_seconds"),
        ({"every_seconds": "30"}, "every_seconds"),
        ({"keep": 0}, "keep"),
        ({"directory": "gs://bucket/run"}, "mounted"),
    ],
)
def test_wrong_settings(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.Checkpoint(**{"directory": tmp_path} | wrong)


@contextlib.contextmanager
def mounted(path):
    """A file system of 2 MB in memory; skips by name where this user may not mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path]
    if (
        not shutil.which("mount")
        or (done := subprocess.run(command, capture_output=True, text=True)).returncode
    ):
        pytest.skip("mounting a tmpfs is not allowed here")
    assert done.returncode == 0
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def assert_nothing_is_lost(disk, free, reason):
    """Train on a disk that is filled up to its last `free` bytes, and again when there is
    room.
    """
    learned = learner_of()
    whole = train.fit(*learned, TRAIN, VAL, **OPTIONS)
    break_off(disk / "run", learned)
    before = {path: listing(path) for path in checkpoint.saved(disk / "run")}
    room = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(room.f_bavail * room.f_bsize - free, 0)))
    with pytest.warns(
        RuntimeWarning, match=rf"no checkpoint could be written to .*/run: {reason}"
    ) as told:
        full = again(learned, disk / "run")
    assert_same_bits(whole, full)
    assert resuming.__file__ in {  # of whoever called `fit`: `again` stands there
        warning.filename for warning in told if "no checkpoint" in str(warning.message)
    }
    # Not what nobody will take: threads of Orbax may still be writing it.
    assert {path: listing(path) for path in checkpoint.saved(disk / "run")} == before
    (disk / "ballast").unlink()
    assert_same_bits(whole, again(learned, disk / "run"))
    assert not list((disk / "run").glob(".partial-*"))
    assert int(train.restore(disk / "run", learned[1]).state.epoch) == 6


def test_a_full_disk_loses_nothing_and_training_goes_on(tmp_path):
    with mounted(tmp_path / "small") as disk:
        assert_nothing_is_lost(
            disk, free=0, reason=r"it takes [\d,]+ bytes, and 0 are free there"
        )


def test_a_disk_that_is_full_in_the_midst_of_a_save_loses_nothing(tmp_path):
    """In a process of its own: threads of TensorStore tell of a failed save when they like, in
    other tests too.
    """
    program = (
        "import pathlib, sys; from tests import test_saving_store; "
        "test_saving_store.assert_nothing_is_lost(pathlib.Path(sys.argv[1]), 8192, '(?!it "
        "takes)')"
    )
    with mounted(tmp_path / "small") as disk:
        done = subprocess.run(
            [sys.executable, "-c", program, disk], capture_output=True, text=True, cwd=ROOT
        )
    assert done.returncode == 0, done.stderr


def test_a_read_only_disk_is_refused_at_once_and_loses_nothing(learned, interrupted, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        directory = shutil.copytree(interrupted, disk / "run")
        before = listing(directory)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            OSError, match=r"checkpoints cannot be written to .*/run \(Read-only file system\)"
        ):
            again(learned, directory)
        assert int(train.restore(directory, learned[1]).state.epoch) == 3
        assert listing(directory) == before


def test_a_missing_orbax_is_told_before_training(learned, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'dlwp-jax\[checkpoint\]'"):
        again(learned, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_directorys_place_is_refused(learned, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoints cannot be written to .*/file"):
        again(learned, tmp_path / "file")
