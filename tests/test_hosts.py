"""Many processes on loopback: real ones, each under a time limit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dlwp_jax import checkpoint, hosts
from tests.conftest import ROOT

NPROC = {"NPROC": "16"}  # a device that waits for others holds a thread of XLA's pool
LONG = 600  # seconds that only a process that hangs takes, on a machine however busy


class Processes:
    """The same command in several processes; they are killed at the end of the test."""

    def __init__(self):
        self.running, self.ports = [], []

    def free_port(self):
        """A port that a process of these may listen at, and that nobody else is given before it
        does.
        """
        held = socket.socket()
        held.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as a server has it: both may have the port
        held.bind(("127.0.0.1", 0))
        self.ports.append(held)
        return held.getsockname()[1]

    def end(self):
        for process in self.running:
            process.kill()
            process.communicate()
        for held in self.ports:
            held.close()

    def born(self, *command, cwd, **environment):
        env = (
            os.environ
            | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "120"}
            | NPROC
        )
        env |= {
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
            "TIMEOUT": str(LONG),
        } | environment
        env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        command = [sys.executable, "-m", *map(str, command)]
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running.append(process)
        return process

    def all(self, scenario, root, count, **environment):
        address = f"localhost:{self.free_port()}"
        start = (self.born("tests.in_processes", scenario, root, address, count, i, cwd=root, **environment)
                 for i in range(count))  # fmt: skip
        return list(start)


@pytest.fixture
def processes():
    them = Processes()
    yield them
    them.end()


def ended(them, seconds=LONG):
    """(status, standard output, standard error) of processes that end in time; the test fails
    where one does not.
    """
    until = time.monotonic() + seconds
    found = []
    for process in them:
        out, err = process.communicate(timeout=max(until - time.monotonic(), 0.1))
        lines = [line for line in err.splitlines() if "[Gloo]" not in line and line.strip()]
        found.append((process.returncode, out, "\n".join(lines)))
    return found


def well(them):
    for status, _, err in (found := ended(them)):
        assert status == 0, err
    return found


def wait_until(is_so, them):
    until = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in them), ended(them)
        time.sleep(0.01)


# Who takes part.


def test_one_process_has_nothing_to_do(monkeypatch):
    for name in [
        name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))
    ]:
        monkeypatch.delenv(name)
    hosts.start()
    hosts.start("anywhere:1", num_processes=1)
    assert (hosts.index(), hosts.count(), hosts.is_writer(), hosts.many()) == (
        0,
        1,
        True,
        False,
    )
    assert hosts.part(list(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator is missing"),
        (("here:1", None, None), "--num-processes and --process-id are missing"),
        (("here:1", 2, 2), "--process-id 2 does not fit --num-processes 2"),
        (("here:1", 2, -1), "--process-id must be a whole number of at least 0; got -1"),
        (("here:1", 0, 0), "--num-processes must be a whole number of at least 1; got 0"),
        (("here", 2, 0), "--coordinator must be HOST:PORT"),
        (("here:99999", 2, 0), "--coordinator must be HOST:PORT"),
        (("here:1", 1, 1), "--process-id 1 needs --num-processes 2 or more"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, message, monkeypatch):
    for name in [
        name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))
    ]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=message.replace(".", "[.]")):
        hosts.start(*given)


def test_start_comes_before_devices():
    jax.devices()
    with pytest.raises(RuntimeError, match="before JAX touches a device"):
        hosts.start("localhost:1", 2, 0)


@pytest.mark.parametrize("launcher", ["slurm", "openmpi"])
def test_launchers_tell_the_processes_apart(launcher, processes, tmp_path):
    """The variables as srun and mpirun set them; JAX's detection chooses coordinator and port
    from them.
    """
    job = processes.free_port()  # any number: the port is made from it

    def environment(i):
        if launcher == "slurm":
            job_id = {
                "SLURM_JOB_ID": str(job),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_NODES": "1",
            }
            return job_id | {
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i),
            }
        uri = {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911"}
        rank = {"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)}
        return uri | rank | {"OMPI_COMM_WORLD_SIZE": "2"}

    them = [
        processes.born("tests.in_processes", "meet", tmp_path, cwd=tmp_path, **environment(i))
        for i in range(2)
    ]
    well(them)
    for i in range(2):
        assert json.loads((tmp_path / f"{i}.json").read_text()) == {
            "said": [0, 1],
            "devices": 2,
            "count": 2,
        }


def test_kubernetes_tells_the_processes_apart(monkeypatch):
    """JAX asks the cluster's API for the Job; here its answers stand in for it."""
    from jax._src.clusters import K8sCluster

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert (
        hosts._place(None, None, None, 5.0) is None
    )  # a pod, but not of an indexed Job: a notebook
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(
        ValueError, match=r"kubernetes.*--num-processes 1"
    ):  # JAX needs the package
        hosts._place(None, None, None, 5.0)
    assert hosts._place(None, 1, None, 5.0) is None
    monkeypatch.setattr(K8sCluster, "is_env_present", classmethod(lambda cls: True))
    monkeypatch.setattr(
        K8sCluster,
        "get_coordinator_address",
        classmethod(lambda cls, **_: "job-0.jaxpods:55527"),
    )
    monkeypatch.setattr(K8sCluster, "get_process_count", classmethod(lambda cls: 4))
    assert hosts._place(None, None, None, 5.0) == (("job-0.jaxpods", 55527), 4, 1, None)


def test_a_tpu_pod_of_gke_tells_the_processes_apart(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster, cluster

    for module in (cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,pod-1")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    for name, value in {
        "COORDINATOR_ADDRESS": "localhost",
        "NUM_SLICES": "1",
        "SLICE_ID": "0",
    }.items():
        monkeypatch.setenv(f"MEGASCALE_{name}", value)  # else the metadata server is asked
    assert hosts._place(None, None, None, 5.0) == (("localhost", 8482), 2, 1, None)


# How they meet, and do not.


def meet(processes, tmp_path, *numbers, timeout=3):
    """A process for each (port, how many, which)."""
    return [
        processes.born(
            "tests.in_processes",
            "meet",
            tmp_path,
            f"localhost:{port}",
            *rest,
            cwd=tmp_path,
            TIMEOUT=str(timeout),
        )
        for port, *rest in numbers
    ]


def flags(port, count, index):
    return "--coordinator", f"localhost:{port}", "--num-processes", count, "--process-id", index


def test_who_is_missing_is_told_by_number(processes, tmp_path):
    port = processes.free_port()
    start = (
        "experiments",
        "ch05_thermometer",
        "--timeout",
        10,
    )  # by which one may start later than the other
    them = [processes.born(*start, *flags(port, 4, i), cwd=tmp_path) for i in (0, 2)]
    for status, out, err in ended(them):
        assert (status, out) == (1, "")
        assert err.startswith("ch05_thermometer: processes 1, 3 of 4 did not come within 10 s")
        assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_coordinator_that_is_not_there(processes, tmp_path):
    port = processes.free_port()
    [(status, _, err)] = ended(meet(processes, tmp_path, (port, 2, 1)))
    assert status == 1
    assert err.startswith(
        f"process 0 was not reached at localhost:{port} within 3 s (Connection ref"
    )
    assert len(err.splitlines()) == 1


def test_two_of_one_number_and_two_counts(processes, tmp_path):
    port, other = processes.free_port(), processes.free_port()
    doubled = meet(processes, tmp_path, (port, 3, 0), (port, 3, 1), (port, 3, 1), timeout=LONG)
    counts = meet(processes, tmp_path, (other, 3, 0), (other, 2, 1), timeout=LONG)
    for status, _, err in ended(doubled):
        assert status == 1
        assert "two processes were started with --process-id 1: pid" in err
    for status, _, err in ended(counts):
        assert status == 1
        assert "process 1 was started with --num-processes 2, and process 0 with 3" in err


def test_a_port_that_is_in_use(processes, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        [(status, _, err)] = ended(meet(processes, tmp_path, (port, 2, 0)))
    assert status == 1
    assert f"process 0 cannot listen at localhost:{port} (Address already in use)" in err


def test_strangers_are_not_taken_for_processes(processes, tmp_path):
    address = f"127.0.0.1:{(port := processes.free_port())}"
    them = [processes.born("tests.in_processes", "meet", tmp_path, address, 2, 0, cwd=tmp_path)]

    def is_told():
        try:
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b'GET / HTTP/1.0\r\n\r\n{"id": 1}\n')
        except ConnectionRefusedError:
            return False
        return True

    wait_until(is_told, them)
    them.append(
        processes.born("tests.in_processes", "meet", tmp_path, address, 2, 1, cwd=tmp_path)
    )
    well(them)


# How they end.


@pytest.mark.parametrize(
    ("way", "who", "message"),
    [
        ("kill", 1, "process 1 (pid {pid} on {host}) is gone (its connection "),
        ("kill", 0, "process 0 (pid {pid} on {host}) is gone (its connection "),
        ("raise", 1, "process 1 (pid {pid} on {host}) ended: ZeroDivisionError: one by none"),
        ("exit", 1, "the processes are not doing the same: process 0"),
        ("tea", 1, "is at 'coffee', process 1 (pid {pid} on {host}) at 'tea'"),
    ],
)
def test_one_that_ends_ends_all_with_a_sentence(way, who, message, processes, tmp_path):
    (tmp_path / "way").write_text(way)
    (tmp_path / "who").write_text(str(who))
    them = processes.all("vanish", tmp_path, 2)
    wait_until(lambda: all((tmp_path / f"awake{i}").exists() for i in range(2)), [])
    found = ended(them, 60)  # at once: the shortest of JAX's own time limits is 100 s
    status, _, err = found[1 - who]
    assert status == 1
    assert message.format(pid=them[who].pid, host=socket.gethostname()) in err.splitlines()[-1]
    assert found[who][0] == (-signal.SIGKILL if way == "kill" else 1)


# What they compute.


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process computes."""
    root, them = tmp_path_factory.mktemp("alone"), Processes()
    well([them.born("tests.in_processes", "compute", root, cwd=root)])
    return dict(np.load(root / "0.npz"))


def compared(root, count, alone):
    """float32 rounding: 6 epochs of sums in another order leave differences of some 1e-6."""
    for i in range(count):
        theirs = np.load(root / f"{i}.npz")
        for name, array in alone.items():
            np.testing.assert_allclose(
                theirs[name], array, rtol=2e-5, atol=2e-6, err_msg=f"{name} of process {i}"
            )
    first = dict(np.load(root / "0.npz"))
    for i in range(1, count):
        theirs = np.load(root / f"{i}.npz")
        assert all(
            theirs[name].tobytes() == first[name].tobytes() for name in alone
        )  # the same bits in all
    return first


@pytest.mark.slow
def test_two_processes_compute_what_one_does(alone, processes, tmp_path):
    found = well(processes.all("compute", tmp_path, 2))
    assert [out for _, out, _ in found] == ["said by 0\n", ""]
    first = compared(tmp_path, 2, alone)
    for name in [
        name for name in alone if name.startswith("fit.")
    ]:  # split over two processes, saved, and read
        np.testing.assert_allclose(
            first[name.replace("fit", "sharded", 1)], alone[name], rtol=2e-5, atol=2e-6
        )
    assert 0 <= first["health"] <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0.json", "0.npz", "1.json", "1.npz", "runs0", "sharded", "weights0.npz"
    ]  # fmt: skip
    left = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    assert all(one["local"] for one in left)
    errors = [one["errors"] for one in left]
    for one in errors:
        assert one["other data"].startswith(
            "ValueError: processes 0 and 1 differ in the call of fit: ['train']['y']"
        )
        assert one["other epochs"].startswith(
            "ValueError: processes 0 and 1 differ in the call of fit: epochs="
        )
        assert "data" in one["lies on"]
        assert one["too large"].startswith("OverflowError: data of int64 reaches 1099511627776")
    assert errors[1]["callback"] == "ZeroDivisionError: one by none"
    assert errors[0]["callback"].startswith("PeerError: process 1 (pid")
    assert errors[0]["callback"].endswith("ended: ZeroDivisionError: one by none")
    assert "cannot be written to /proc/nowhere" in errors[0]["checkpoint"]
    assert errors[1]["checkpoint"].endswith(errors[0]["checkpoint"])
    assert errors[0]["stream"].endswith("ended: OSError: the disk is gone")


@pytest.mark.slow
def test_four_processes_compute_what_one_does(alone, processes, tmp_path):
    well(processes.all("compute", tmp_path, 4))
    compared(tmp_path, 4, alone)


@pytest.mark.slow
def test_killed_and_stopped_and_begun_again_they_give_the_same_bits(processes, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    well(processes.all("endure", whole, 2))

    def newest():
        return max(
            (path.name for path in checkpoint.saved(broken / "checkpoints0")), default=""
        )

    def begun_and(number, who):
        """Begin again, and send one of them a signal when it has trained, and saved, for a
        while.
        """
        before = newest()
        for path in broken.glob("awake*"):
            path.unlink()
        them = processes.all(
            "endure", broken, 2, PAUSE="0.3"
        )  # 18 s of pauses: there is time to send it
        wait_until(
            lambda: (
                all((broken / f"awake{i}").exists() for i in range(2)) and newest() > before
            ),
            them,
        )
        them[who].send_signal(number)
        found = ended(them, 60)  # as above
        assert all(
            checkpoint.damage(path) is None
            for path in checkpoint.saved(broken / "checkpoints0")
        )
        return found, them

    found, them = begun_and(signal.SIGKILL, 1)
    assert (found[0][0], found[1][0]) == (1, -signal.SIGKILL)
    assert found[0][2].splitlines()[-1].startswith(f"process 1 (pid {them[1].pid} on ")
    found, _ = begun_and(signal.SIGTERM, 1)
    assert [status for status, _, _ in found] == [-signal.SIGTERM] * 2, (
        found
    )  # all stop where one is told to
    assert len({(broken / f"awake{i}").read_text() for i in range(2)}) == 1  # at the same epoch
    found, them = begun_and(signal.SIGKILL, 0)
    assert (found[0][0], found[1][0]) == (-signal.SIGKILL, 1)
    assert found[1][2].splitlines()[-1].startswith(f"process 0 (pid {them[0].pid} on ")
    well(processes.all("endure", broken, 2))
    for i in range(2):
        left, resumed = (np.load(root / f"{i}.npz") for root in (whole, broken))
        assert left.files == resumed.files
        assert all(left[name].tobytes() == resumed[name].tobytes() for name in left.files)
    assert not (broken / "checkpoints1").exists()


@pytest.mark.slow
def test_an_experiment_in_two_processes(processes, tmp_path):
    port, places = processes.free_port(), [tmp_path / name for name in ("alone", "0", "1")]
    for place in places:
        place.mkdir()
    well([processes.born("experiments", "ch05_thermometer", cwd=places[0])])
    them = [
        processes.born("experiments", "ch05_thermometer", *flags(port, 2, i), cwd=places[i + 1])
        for i in range(2)
    ]
    (_, out, err), (_, nothing, silent) = well(them)
    assert "of 29 figures" in out
    assert "DIFFER" not in out  # from the book's, as for one process
    assert "epoch 3000/3000" in err
    assert (nothing, silent, list(places[2].iterdir())) == ("", "", [])
    files = [
        sorted(path.name for path in (place / "runs" / "ch05_thermometer").iterdir())
        for place in places[:2]
    ]
    assert files[0] == files[1]
    histories = [
        [
            json.loads(line)
            for line in (place / "runs/ch05_thermometer/history.jsonl").read_text().splitlines()
        ]
        for place in places[:2]
    ]
    for one, two in zip(*histories, strict=True):
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
