"""Several processes on one machine. The referee is one process, or what each of them says."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dlwp_jax import checkpoint, hosts
from dlwp_jax.devices.meeting import meet
from experiments import ch05_thermometer
from tests.compiling import quick_environment
from tests.conftest import ROOT

LONG = 600  # seconds that only a process that hangs takes, on a machine however busy
LAUNCHERS = ("SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION_INDEX", "TPU_")


class Processes:
    """The same command in several processes; they are killed at the end of the test."""

    def __init__(self):
        self.running, self.ports = [], []

    def free_port(self, first=0, last=0):
        """A port at which these processes may listen, and that nobody else is given before."""
        for port in range(first, last + 1):
            held = socket.socket()
            # As servers do: both may then have the port.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                held.bind(("", port))
            except OSError:
                held.close()
                continue
            self.ports.append(held)
            return held.getsockname()[1]
        raise OSError("no port is free")

    def end(self):
        for process in self.running:
            process.kill()
            process.communicate()
        for held in self.ports:
            held.close()

    def start(self, *command, cwd, **environment):
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        # A device that waits for others holds a thread of XLA's pool, which has NPROC of them.
        env = (
            quick_environment()
            | cache
            | {"NPROC": "16", "JAX_PLATFORMS": "cpu", "COLUMNS": "120"}
        )
        env |= {"PYTHONPATH": str(ROOT)} | environment
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def start_all(self, scenario, root, count, **environment):
        flags = [scenario, root, f"localhost:{self.free_port()}", count]
        return [
            self.start("tests.in_processes", *flags, i, cwd=root, **environment)
            for i in range(count)
        ]


@pytest.fixture
def processes():
    them = Processes()
    yield them
    them.end()


def ended(them):
    """(status, standard output, standard error) of processes that end in time."""
    until, found = time.monotonic() + LONG, []
    for process in them:
        out, err = process.communicate(timeout=max(until - time.monotonic(), 0.1))
        lines = [line for line in err.splitlines() if "[Gloo]" not in line and line.strip()]
        found.append((process.returncode, out, "\n".join(lines)))
    return found


def ended_well(them):
    found = ended(them)
    for status, _, err in found:
        assert status == 0, err
    return found


def wait_until(is_so, them):
    until = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in them), ended(them)
        time.sleep(0.01)


# Who takes part.


@pytest.fixture
def no_launcher(monkeypatch):
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_launcher")
def test_one_process_has_nothing_to_do():
    hosts.start()
    hosts.start("anywhere:1", num_processes=1)
    assert (hosts.index(), hosts.count(), hosts.is_writer()) == (0, 1, True)
    assert not hosts.many()
    assert hosts.part(list(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", 2, 2), "--process-id 2 does not fit --num-processes 2"),
        (("here:1", 2, -1), "--process-id must be a whole number of at least 0; got -1"),
        (("here:1", 0, 0), "--num-processes must be a whole number of at least 1; got 0"),
        (("here", 2, 0), "--coordinator must be HOST:PORT"),
        (("here:99999", 2, 0), "--coordinator must be HOST:PORT"),
        (("here:1", 1, 1), "--process-id 1 needs --num-processes 2 or more"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        hosts.start(*given)


def test_start_comes_before_devices():
    jax.devices()
    with pytest.raises(RuntimeError, match="before JAX touches a device"):
        hosts.start("localhost:1", 2, 0)


def test_a_flag_that_is_missing_is_named(processes, tmp_path):
    flags = ["--coordinator", "localhost:1", "--num-processes", "2"]
    process = processes.start("experiments", "ch05_thermometer", *flags, cwd=tmp_path)
    [(status, _, err)] = ended([process])
    assert status == 1
    assert err.startswith("ch05_thermometer: --process-id is missing")
    assert len(err.splitlines()) == 1


# How they meet. The processes are threads here: JAX has no part in it yet.


def met(*processes_of_a_port, timeout=60.0):
    """What `meet` raises for each (port, count, index), all at once."""
    raised = [None] * len(processes_of_a_port)

    def run(i, port, count, index):
        try:
            meet("localhost", port, count, index, timeout)
        except OSError as error:
            raised[i] = error

    threads = [
        threading.Thread(target=run, args=(i, *one))
        for i, one in enumerate(processes_of_a_port)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    return raised


def test_all_who_come_meet_whatever_strangers_say(processes):
    port = processes.free_port()
    found = []
    first = threading.Thread(target=lambda: found.extend(met((port, 3, 0), (port, 3, 2))))
    first.start()
    answer = b""
    while not answer:
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = stranger.recv(100)
        except ConnectionRefusedError:
            time.sleep(0.01)
    found.extend(met((port, 3, 1)))
    first.join(LONG)
    assert found == [None, None, None]


def test_who_is_missing_is_named(processes):
    port = processes.free_port()
    for error in met((port, 4, 0), (port, 4, 2), timeout=2.0):
        assert isinstance(error, TimeoutError)
        assert "processes 1, 3 of 4 did not come within 2 s" in str(error)


def test_process_0_is_missing(processes):
    port = processes.free_port()
    [error] = met((port, 2, 1), timeout=0.5)
    assert isinstance(error, TimeoutError)
    assert f"process 0 was not reached at localhost:{port} within 0.5 s" in str(error)


def test_two_of_one_number_and_two_counts(processes):
    doubled, counts = processes.free_port(), processes.free_port()
    found = met((doubled, 3, 0), (doubled, 3, 1), (doubled, 3, 1))
    assert all("two processes were started with --process-id 1" in str(e) for e in found)
    found = met((counts, 3, 0), (counts, 2, 1))
    assert all("process 1 was started with --num-processes 2" in str(e) for e in found)


def test_a_port_that_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        [error] = met((port, 2, 0))
    assert f"process 0 cannot listen at localhost:{port} (Address already in use)" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm", "openmpi"])
def test_launchers_tell_the_processes_apart(launcher, processes, tmp_path):
    """The variables as srun and mpirun set them; JAX makes the port from the job's number."""
    job = processes.free_port(2**16 - 2**12, 2**16 - 1)  # its last 12 bits are kept

    def environment(i):
        if launcher == "slurm":
            return {
                "SLURM_JOB_ID": str(job),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_NODES": "1",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i),
            }
        return {
            "OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_RANK": str(i),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
            "OMPI_COMM_WORLD_SIZE": "2",
        }

    command = ("tests.in_processes", "meet", tmp_path)
    ended_well([processes.start(*command, cwd=tmp_path, **environment(i)) for i in range(2)])
    for i in range(2):
        found = json.loads((tmp_path / f"{i}.json").read_text())
        assert found == {"said": [0, 1], "devices": 2, "long": 5000}


# How they end.


@pytest.mark.parametrize(
    ("way", "messages"),
    [
        ("tea 1", ["process 0 (pid {0} on {host}) is at 'coffee', process 1 (pid {1} on "] * 2),
        ("kill 1", ["process 0 ended: another process was killed or ended with an error", ""]),
        pytest.param("kill 0", ["", "another "], marks=pytest.mark.slow),  # ours or JAX's
        pytest.param(
            "raise 1", ["another process", "ended: one by none"], marks=pytest.mark.slow
        ),
        pytest.param("exit 1", ["are not doing the same"] * 2, marks=pytest.mark.slow),
    ],
)
def test_one_that_ends_ends_all_with_a_sentence(way, messages, processes, tmp_path):
    (tmp_path / "way").write_text(way)
    them = processes.start_all("vanish", tmp_path, 2)
    found = ended(them)
    pids = [process.pid for process in them]
    for (status, _, err), message in zip(found, messages, strict=True):
        assert status != 0
        assert message.format(*pids, host=socket.gethostname()) in err


# What they compute.


def arrays_of(root, i):
    return dict(np.load(root / f"{i}.npz"))


def compared(root, count, alone):
    """float32 rounding: sums in another order over some epochs leave differences of 1e-6."""
    first = arrays_of(root, 0)
    for i in range(count):
        theirs = arrays_of(root, i)
        for name, array in alone.items():
            np.testing.assert_allclose(
                theirs[name], array, rtol=2e-5, atol=2e-6, err_msg=f"{name} of process {i}"
            )
            assert theirs[name].tobytes() == first[name].tobytes()  # the same bits in all
    return first


def compare_what_was_saved(arrays, alone):
    """Split over the processes, saved, and read."""
    for name in alone:
        if name.startswith("fit."):
            sharded = arrays[name.replace("fit", "sharded", 1)]
            np.testing.assert_allclose(sharded, alone[name], rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process computes."""
    root, them = tmp_path_factory.mktemp("alone"), Processes()
    ended_well([them.start("tests.in_processes", "compute", root, cwd=root)])
    return arrays_of(root, 0)


@pytest.mark.slow
def test_three_processes_compute_what_one_does(alone, processes, tmp_path):
    """Batches of 8 do not divide by 3, and two processes have no row of a batch of one."""
    found = ended_well(processes.start_all("compute", tmp_path, 3))
    assert [out for _, out, _ in found] == ["said by 0\n", "", ""]
    first = compared(tmp_path, 3, alone)
    compare_what_was_saved(first, alone)
    assert 0 <= first["health"] <= 1
    files = ["0.json", "0.npz", "1.json", "1.npz", "2.json", "2.npz"]
    files += ["runs0", "sharded", "weights0.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    left = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(3)]
    assert all(one["local"] for one in left)
    errors = [one["errors"] for one in left]
    assert errors[1]["callback"] == "ZeroDivisionError: one by none"
    assert errors[0]["callback"].startswith("PeerError: process 1 (pid")
    assert errors[0]["callback"].endswith("ended: ZeroDivisionError: one by none")
    for one in errors:
        assert one["data"].startswith(
            "ValueError: processes 0 and 1 differ in the call of fit: ['train']['y']"
        )
        assert one["epochs"].startswith(
            "ValueError: processes 0 and 1 differ in the call of fit: epochs="
        )
        assert "data" in one["spec"]
        assert one["large"].startswith("OverflowError: data of int64 reaches 1099511627776")
    assert "cannot be written to /proc/nowhere" in errors[0]["checkpoint"]
    assert errors[1]["checkpoint"].endswith(errors[0]["checkpoint"])
    assert errors[0]["stream"].endswith("ended: OSError: the disk is gone")


@pytest.mark.slow
def test_killed_and_stopped_and_begun_again_they_give_the_same_bits(processes, tmp_path):
    """The referee is a training of two processes that was never interrupted."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    ended_well(processes.start_all("endure", whole, 2))
    saved = broken / "checkpoints0"

    def newest():
        return max((path.name for path in checkpoint.saved(saved)), default="")

    def begin_and_send(number, who):
        """Begin again, and send one process a signal when all have trained, and saved."""
        before = newest()
        for path in broken.glob("awake*"):
            path.unlink()
        # 18 s of pauses: there is time to send the signal.
        them = processes.start_all("endure", broken, 2, PAUSE="0.75")
        wait_until(
            lambda: len(list(broken.glob("awake*"))) == 2 and newest() > before,
            them,
        )
        them[who].send_signal(number)
        found = ended(them)
        assert all(checkpoint.damage(path) is None for path in checkpoint.saved(saved))
        return [status for status, _, _ in found]

    assert begin_and_send(signal.SIGTERM, 1) == [-signal.SIGTERM] * 2  # all stop
    epochs = {(broken / f"awake{i}").read_text() for i in range(2)}
    assert len(epochs) == 1
    statuses = begin_and_send(signal.SIGKILL, 0)
    assert statuses[0] == -signal.SIGKILL
    assert statuses[1] != 0
    ended_well(processes.start_all("endure", broken, 2))
    for i in range(2):
        left, resumed = arrays_of(whole, i), arrays_of(broken, i)
        assert left.keys() == resumed.keys()
        assert all(left[name].tobytes() == resumed[name].tobytes() for name in left)
    assert not (broken / "checkpoints1").exists()


@pytest.mark.slow
def test_an_experiment_in_two_processes(processes, tmp_path):
    """Referee: its training in this process, which has one device."""
    places = [tmp_path / name for name in ("0", "1")]
    for place in places:
        place.mkdir()
    name, address = "ch05_thermometer", f"localhost:{processes.free_port()}"
    flags = ("--coordinator", address, "--num-processes", 2, "--process-id")
    them = [processes.start("experiments", name, *flags, i, cwd=places[i]) for i in range(2)]
    (_, out, err), (_, nothing, silent) = ended_well(them)
    assert "of 29 figures" in out
    assert "DIFFER" not in out  # from the book's, as for one process
    assert "epoch 3000/3000" in err
    assert (nothing, silent, list(places[1].iterdir())) == ("", "", [])
    run = places[0] / "runs" / name
    written = {path.name for path in run.iterdir()}
    assert written == {"config.json", "fit.png", "history.jsonl", "loss.png"}
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    alone = ch05_thermometer.train_and_validate(ch05_thermometer.Config()).history
    for key, values in alone.items():
        np.testing.assert_allclose([line[key] for line in lines], values, rtol=1e-4)
