import contextlib
import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from dlwp_jax import data
from dlwp_jax.data import BrokenFile, FetchError, cifar, idx, sources
from dlwp_jax.data.__main__ import main
from dlwp_jax.data.fetch import Remote, fetch
from tests.official_files import idx_bytes, python2_pickle

RNG = np.random.default_rng(0)

# --- the registry


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_stand_in_loads_without_files_or_network(name, tmp_path):
    source = sources.find(name)
    assert data.load(name, embedded=True, root=tmp_path) is not None
    assert all((source.what, source.size, source.licence, source.address))
    assert bool(source.path) == bool(source.read) == bool(source.stand_in)
    for remote in source.remotes:
        kind, _, digest = remote.checksum.partition(":")
        assert len(digest) == hashlib.new(kind).digest_size * 2
    assert not list(tmp_path.iterdir())


def test_absent_files_say_what_to_do(tmp_path):
    with pytest.raises(
        FetchError, match=r"wine-quality is not at .*winequality-white\.csv.*embedded default"
    ):
        data.load("wine-quality", root=tmp_path)
    with pytest.raises(
        ValueError, match="no data set is called 'wien'; there are thermometer, digits"
    ):
        data.load("wien")
    with pytest.raises(ValueError, match="digits is embedded"):
        data.place("digits")
    with pytest.raises(FileNotFoundError, match="subset"):
        sources.luna_scans(tmp_path)
    (tmp_path / "subset0").mkdir()
    (tmp_path / "subset0" / "1.2.mhd").touch()
    assert sources.luna_scans(tmp_path) == {"1.2": tmp_path / "subset0" / "1.2.mhd"}


def test_phantom_candidates_are_what_they_say():
    scan, nodules = data.synthetic.ct_phantom(noise=0)
    columns = sources.phantom_candidates()
    places = np.stack([columns[f"coord{axis}"] for axis in "XYZ"], axis=1)
    inside = [
        min(np.linalg.norm(place - n.center) / n.diameter for n in nodules) < 0.5
        for place in places
    ]
    assert inside == (columns["class"] == 1).tolist()
    for place in places[columns["class"] == 0]:
        assert scan.chunk(place, (1, 1, 1))[0].item() == -850  # lung


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DLWP_DATA", str(tmp_path))
    assert data.data_root() == tmp_path
    monkeypatch.delenv("DLWP_DATA")
    assert data.data_root().name == "dlwp-jax"


def test_import_brings_no_reader():
    heavy = [
        "pandas",
        "PIL",
        "pydicom",
        "av",
        "SimpleITK",
        "grain",
        "sklearn",
        "matplotlib",
        "pooch",
        "requests",
        "torch",
    ]
    code = (
        f"import sys, dlwp_jax.data; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.getcwd(),
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("PIL", lambda path: data.image.read(path)),
        ("scipy.io", lambda path: data.audio.read(path)),
        ("pydicom", lambda path: data.dicom.read_slice(path)),
        ("SimpleITK", lambda path: data.volume.read_mhd(path)),
        ("av", lambda path: data.video.read(path)),
        ("grain", lambda path: data.stream.stream([path], len, batch_size=1)),
        ("pooch", lambda path: fetch(Remote("", "", ""), path)),
        ("sklearn.datasets", lambda path: sources.digits()),
    ],
)
def test_a_missing_library_names_the_extra(monkeypatch, tmp_path, library, call):
    monkeypatch.setitem(sys.modules, library, None)
    name = library.split(".")[0]
    with pytest.raises(ImportError, match=rf"{name} is needed: pip install 'dlwp-jax\[data\]'"):
        call(tmp_path)


# --- fetching, from a server on this machine


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.files.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        content, length = answer
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # whatever proxy this machine has
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.files, running.requests = {}, []
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


CONTENT = RNG.integers(0, 256, 300_000, np.uint8).tobytes()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


def serve(server, content=CONTENT, *, said=None, checksum=MD5, **options):
    server.files["/file.bin"] = (content, len(content) if said is None else said)
    return Remote(f"{server.address}/file.bin", checksum, "set/file.bin", **options)


def test_good_file_is_fetched_once(server, tmp_path, capsys):
    remote = serve(server)
    file = fetch(remote, tmp_path)
    assert file == tmp_path / "set" / "file.bin"
    assert file.read_bytes() == CONTENT
    assert "file.bin" in capsys.readouterr().out  # the bar
    assert fetch(remote, tmp_path, progress=False) == file
    assert len(server.requests) == 1
    assert [p.name for p in file.parent.iterdir()] == ["file.bin"]
    file.write_bytes(CONTENT[:-1])  # a cache that was damaged is not trusted
    fetch(remote, tmp_path, progress=False)
    assert file.read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"content": CONTENT[:-1] + b"!"}, "hash"),
        ({"content": CONTENT[:1000], "said": len(CONTENT)}, "IncompleteRead"),
        ({"content": CONTENT[:1000]}, "hash"),
        ({"content": b""}, "hash"),
    ],
)
def test_wrong_files_leave_nothing_behind(server, tmp_path, wrong, message):
    with pytest.raises(
        FetchError, match=rf"could not be fetched: .*{message}.*put that file at .*file\.bin"
    ):
        fetch(serve(server, **wrong), tmp_path, progress=False)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert (
        fetch(serve(server), tmp_path, progress=False).read_bytes() == CONTENT
    )  # the next try succeeds


def test_no_such_file_and_no_network(server, tmp_path):
    gone = Remote(f"{server.address}/gone.bin", MD5, "gone.bin")
    with pytest.raises(FetchError, match="404"):
        fetch(gone, tmp_path, progress=False)
    closed = Remote("http://127.0.0.1:9/file.bin", MD5, "file.bin")
    with pytest.raises(
        FetchError, match=r"Without a network, put that file at .* or use the embedded default"
    ):
        fetch(closed, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    (tmp_path / "file.bin").write_bytes(CONTENT)  # as the message says
    assert fetch(closed, tmp_path, progress=False).read_bytes() == CONTENT


def packed(names, link=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        if link:
            member = tarfile.TarInfo("folder/link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    content = buffer.getvalue()
    return content, "md5:" + hashlib.md5(content).hexdigest()


def test_archives_are_unpacked_whole_and_inside(server, tmp_path):
    content, md5 = packed(["folder/a", "folder/b", "other/c"])
    remote = serve(server, content, checksum=md5, folder="folder")
    assert fetch(remote, tmp_path, progress=False) == tmp_path / "folder"
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["a", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "set"]
    fetch(remote, tmp_path, progress=False)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "bad", [packed(["folder/../../escaped"]), packed([], link="/etc"), (b"x", None)]
)
def test_archives_that_reach_outside_are_refused(server, tmp_path, bad):
    content, _ = bad
    remote = serve(
        server, content, checksum="md5:" + hashlib.md5(content).hexdigest(), folder="folder"
    )
    with pytest.raises(BrokenFile, match="cannot be read as a tar archive"):
        fetch(remote, tmp_path / "root", progress=False)
    assert not (tmp_path / "root" / "folder").exists()
    assert not (tmp_path / "escaped").exists()


def _fetch_in_process(remote, root, barrier):
    barrier.wait()
    fetch(remote, root, progress=False)


def test_two_processes_at_once(server, tmp_path):
    content, md5 = packed([f"folder/{i}" for i in range(200)])
    remote = serve(server, content, checksum=md5, folder="folder")
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    barrier = context.Barrier(2)
    workers = [
        context.Process(target=_fetch_in_process, args=(remote, tmp_path, barrier))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list((tmp_path / "folder").iterdir())) == 200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "set"]


def test_a_named_set_is_fetched_and_read(server, tmp_path, monkeypatch):
    files = mnist_files()
    for name, content in files.items():
        server.files[f"/{name}"] = (content, len(content))
    remotes = tuple(
        Remote(
            f"{server.address}/{name}",
            "md5:" + hashlib.md5(content).hexdigest(),
            f"mnist/{name}",
        )
        for name, content in files.items()
    )
    source = sources.dataclasses.replace(sources.SOURCES["mnist"], remotes=remotes)
    monkeypatch.setitem(sources.SOURCES, "mnist", source)
    train, test = data.load("mnist", root=tmp_path)
    assert train["image"].shape == (5, 28, 28, 1)
    assert test["label"].tolist() == [0, 1, 2]
    data.load("mnist", root=tmp_path)
    assert len(server.requests) == 4


def test_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DLWP_DATA", str(tmp_path))
    main(["list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in sources.SOURCES)
    assert "cifar10  [can be fetched]" in listed
    main(["path"])
    main(["path", "mnist"])
    assert capsys.readouterr().out.split() == [str(tmp_path), str(tmp_path / "mnist")]
    (tmp_path / "book/p1ch4/image-dog").mkdir(parents=True)
    (tmp_path / "book/p1ch4/image-dog/bobby.jpg").touch()
    main(["fetch", "book-dog"])
    assert capsys.readouterr().out.strip().endswith("bobby.jpg")
    for wrong, message in (
        (["fetch", "book-cats"], "book-cats is not at"),
        (["fetch", "nothing"], "no data set"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(wrong)


# --- the official files of CIFAR-10 and MNIST


def batch(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n).tolist()


@pytest.mark.parametrize(
    "n", [1, 201, 10_000]
)  # 10,000 as the official files, whose pixels are cut out first
def test_cifar_batch(tmp_path, n):
    images, labels = batch(n)
    path = tmp_path / "b"
    path.write_bytes(python2_pickle(images, labels))
    read = cifar.read_batches([path, path])
    np.testing.assert_array_equal(read["image"][n:], images.transpose(0, 2, 3, 1))
    assert read["label"].tolist() == labels * 2
    assert read["label"].dtype == np.int32
    assert read["image"].flags.c_contiguous


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batch_pickled_by_this_python(tmp_path, protocol):
    images, labels = batch(3)
    (tmp_path / "b").write_bytes(
        pickle.dumps({b"data": images.reshape(-1, 3072), b"labels": labels}, protocol)
    )
    with contextlib.suppress(
        BrokenFile
    ):  # protocol 2 of Python 3 makes bytes by calling a function: refused
        np.testing.assert_array_equal(
            cifar.read_batches([tmp_path / "b"])["image"], images.transpose(0, 2, 3, 1)
        )
        assert protocol == 4


def test_cifar_classes(tmp_path):
    for i, name in enumerate((*cifar.TRAIN, *cifar.TEST)):
        (tmp_path / name).write_bytes(python2_pickle(*batch(30, i)))
    whole, _ = cifar.read(tmp_path)
    train, _ = cifar.read(tmp_path, classes=("bird", "airplane"))
    rows = np.isin(whole["label"], (2, 0))
    np.testing.assert_array_equal(train["image"], whole["image"][rows])
    np.testing.assert_array_equal(train["label"], np.where(whole["label"][rows] == 2, 0, 1))
    with pytest.raises(ValueError, match="classes must be different names"):
        cifar.read(tmp_path, classes=("unicorn",))
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3"):
        cifar.read(tmp_path)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("place", ["whole", "data", "labels"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, place):
    marker = str(tmp_path / "ran")
    images, labels = batch(2)
    content = {b"data": images.reshape(-1, 3072), b"labels": labels}
    payload = (
        Hostile(marker) if place == "whole" else content | {place.encode(): Hostile(marker)}
    )
    (tmp_path / "b").write_bytes(pickle.dumps(payload, 4))
    with pytest.raises(BrokenFile, match=r"mkdir, and nothing in it may be run"):
        cifar.read_batches([tmp_path / "b"])
    assert not os.path.exists(marker)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [1, 2],
        {b"data": 3, b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.int8), b"labels": [1]},
        {b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]},
        {b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), b"labels": [1, 2]},
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, payload):
    (tmp_path / "b").write_bytes(pickle.dumps(payload, 4))
    with pytest.raises(BrokenFile, match="b "):
        cifar.read_batches([tmp_path / "b"])


def mnist_files():
    files = {}
    for side, n in (("train", 5), ("t10k", 3)):
        files[f"{side}-images-idx3-ubyte.gz"] = gzip.compress(
            idx_bytes(RNG.integers(0, 256, (n, 28, 28)))
        )
        files[f"{side}-labels-idx1-ubyte.gz"] = gzip.compress(idx_bytes(np.arange(n)))
    return files


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (0, 3)])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trips(tmp_path, shape, zipped):
    array = RNG.integers(0, 256, shape, np.uint8)
    content = idx_bytes(array)
    (tmp_path / "x").write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(idx.read(tmp_path / "x"), array)


def test_broken_idx_is_refused(tmp_path):
    good = idx_bytes(np.arange(6).reshape(2, 3))
    huge = good[:4] + b"\xff" * 8 + good[12:]
    for broken in (
        good[:-1],
        good + b"!",
        b"\1" + good[1:],
        good[:2] + b"\x0d" + good[3:],
        b"",
        good[:6],
        huge,
    ):
        (tmp_path / "x").write_bytes(broken)
        with pytest.raises(BrokenFile, match="x "):
            idx.read(tmp_path / "x")
    (tmp_path / "i").write_bytes(idx_bytes(np.zeros((2, 28, 28))))
    (tmp_path / "l").write_bytes(idx_bytes(np.zeros(3)))
    with pytest.raises(BrokenFile, match="images and their labels"):
        idx.read_pair(tmp_path / "i", tmp_path / "l")


def test_a_data_root_that_is_a_file_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLWP_DATA", str(tmp_path / "file"))
    with pytest.raises(SystemExit, match="file"):
        main(["fetch", "mnist"])
