"""The processes of one training: how they find each other, agree, and end together.

All run the same program. `start` joins them through `jax.distributed`; over their devices then
goes the training itself, and also every decision that the hosts must take alike (`agree`).
"""

import atexit
import contextlib
import functools
import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlwp_jax.devices.meeting import meet

FLAGS = ("--coordinator", "--num-processes", "--process-id")
LAUNCHED = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID")
TOO_LATE = "hosts.start must come before JAX touches a device: call it first in the program."
SHORT = 1020  # bytes that processes exchange in one step; a longer text takes two
THE_END = "the end of the program"

Items = TypeVar("Items", bound=Sequence)


class PeerError(RuntimeError):
    """Another process failed or ended."""


@dataclass
class Group:
    """The processes of which this is one."""

    index: int
    count: int
    who: list[str]  # how each is called in messages
    shared: BaseException | None = None  # the last exception that every process knows of


_group: Group | None = None


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
    keepalive: float = 30.0,
) -> None:
    """Join the processes of one training; a process that is alone does nothing.

    If arguments are missing, JAX takes them from Slurm, Open MPI, Kubernetes (an indexed Job)
    or a TPU pod. In all processes but number 0 standard output is silenced, and the library
    writes its files in process 0 alone.

    Args:
      coordinator: `"HOST:PORT"`: where process 0 runs, and a port that is free there.
      num_processes: the number of processes; 1 means that this one is alone, whatever has
        started it.
      process_id: the number of this process, from 0.
      timeout: seconds to wait for the other processes.
      keepalive: seconds after which a process that no longer answers counts as dead.

    Raises:
      ValueError: if only some of the three are given and no launcher is found, or if they
        contradict each other.
      RuntimeError: if JAX has used a device before, or if `start` was called before.
      OSError: if the port is in use, if process 0 is not reached, if other processes do not
        come in time (TimeoutError), or if they do not belong together (ConnectionError).
    """
    global _group
    given = (coordinator, num_processes, process_id)
    _check_numbers(num_processes, process_id, timeout)
    if num_processes == 1:
        return
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if given == (None, None, None) and in_pod and not _is_launched():
        return  # a notebook's pod
    if jax.distributed.is_initialized():
        raise RuntimeError("hosts.start was called before; call it once in a process.")
    if None not in given:
        host, port = _address(str(coordinator))
        _check_no_device_is_used()
        meet(host, port, int(num_processes or 0), int(process_id or 0), timeout)
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    with _stdout_is_stderr():  # Gloo prints a line
        if not _initialize(given, timeout, keepalive) or jax.process_count() == 1:
            return
        everyone = [f"process {i}" for i in range(jax.process_count())]
        _group = Group(jax.process_index(), jax.process_count(), everyone)
        me = f"process {index()} (pid {os.getpid()} on {socket.gethostname()})"
        _group.who = agree("start", me)
    sys.excepthook = functools.partial(_excepthook, sys.excepthook)
    atexit.register(part_company)
    if not is_writer():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # C++ writes there too
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)


def many() -> bool:
    """Whether there are several processes."""
    return _group is not None


def index() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.index


def count() -> int:
    """The number of processes."""
    return 1 if _group is None else _group.count


def is_writer() -> bool:
    """Whether this process prints and writes files: number 0 does.

    >>> is_writer()
    True
    """
    return index() == 0


def part(items: Items) -> Items:
    """The items of a sequence (files, indices) that belong to this process.

    Every item belongs to one process. Process `i` of `n` has the items i, i + n, i + 2n, ...

    >>> part(["a.npz", "b.npz", "c.npz"])
    ['a.npz', 'b.npz', 'c.npz']
    """
    return items[index() :: count()]  # pyright: ignore[reportReturnType] (a slice is of its kind)


def agree(what: str, value: Any) -> list[Any]:
    """The values of all processes, in the order of their numbers.

    All processes must call it, in the same order.

    Args:
      what: names the occasion. Processes that are at different occasions end with a sentence.
      value: anything that JSON can hold.

    Raises:
      PeerError: if another process has ended.

    >>> agree("batch size", 64)
    [64]
    """
    if _group is None:
        return [value]
    said = _exchanged(json.dumps([what, value]).encode())
    for who, (other, _) in zip(_group.who, said, strict=True):
        if other != said[0][0]:
            end(
                f"the processes are not doing the same: {_group.who[0]} is at {said[0][0]!r}, "
                f"{who} is at {other!r}. Call the same functions with the same arguments "
                "in all of them."
            )
    return [value for _, value in said]


def first(what: str, value: Any) -> Any:
    """The value of process 0; see `agree`."""
    return agree(what, value)[0]


def attempt(what: str, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(*args)` of all processes; an exception in one of them is raised in all.

    Args:
      what: names the occasion, as in `agree`.
      function, args: called in each process.

    Raises:
      Exception: the function's own.
      PeerError: if the function raised an exception in another process.

    >>> attempt("halving", lambda n: n / 2, 64)
    [32.0]
    """
    if _group is None:
        return [function(*args)]
    value, wrong = None, None
    try:
        value = function(*args)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (it is raised below, in all)
        wrong = error
    message = None if wrong is None else f"{type(wrong).__name__}: {_first_line(wrong)}"
    answers = agree(what, [value, message])
    if wrong is None:
        failed = [i for i, (_, message) in enumerate(answers) if message]
        if failed:
            i = failed[0]
            wrong = PeerError(f"{_group.who[i]} ended: {answers[i][1]}")
    if wrong is not None:
        _group.shared = wrong
        raise wrong
    return [value for value, _ in answers]


def by_writer(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, called in process 0 alone; None in the others.

    Args:
      what: names the occasion, as in `agree`.
      function, args: called in process 0.

    Raises:
      Exception: the function's own; PeerError in the other processes.
    """
    result = None

    def work() -> None:
        nonlocal result
        if is_writer():
            result = function(*args)

    attempt(what, work)
    return result


def is_shared(error: BaseException) -> bool:
    """Whether all processes know of an exception, so that they can go on together."""
    return _group is None or error is _group.shared


def part_company() -> None:
    """Wait until all processes are ready to end, and disconnect them."""
    if _group is not None and jax.distributed.is_initialized():
        agree(THE_END, None)
        jax.distributed.shutdown()


def end(sentence: str) -> NoReturn:
    """End this process with a sentence on standard error and status 1.

    The other processes end too: as soon as they compute with this one on CPUs, within
    `start(keepalive=)` seconds elsewhere.
    """
    if _group is None:
        sys.exit(sentence)
    _die(sentence)


def _die(sentence: str) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):  # a closed pipe must not keep it
        sys.stdout.flush()
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()
    os._exit(1)


def _excepthook(
    before: Callable[..., Any],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """An exception that nobody caught ends the process at once.

    An ordinary end would wait for the others, which wait for this one.
    """
    if not issubclass(kind, PeerError):
        before(kind, error, trace)
    end(f"process {index()} ended: {_first_line(error)}")


# How a value travels: as bytes, in an array that lies on the devices of all processes.


def _exchanged(text: bytes) -> list[Any]:
    """What JSON texts of all processes say."""
    head = np.zeros(SHORT + 4, np.uint8)
    head[:4] = np.frombuffer(np.uint32(len(text)).tobytes(), np.uint8)
    short = np.frombuffer(text[:SHORT], np.uint8)
    head[4 : 4 + len(short)] = short
    try:
        heads = _gathered(head)
        sizes = [int(np.frombuffer(row[:4].tobytes(), np.uint32)[0]) for row in heads]
        if max(sizes) <= SHORT:
            rows = heads[:, 4:]
        else:
            whole = np.zeros(1 << (max(sizes) - 1).bit_length(), np.uint8)  # few programs
            whole[: len(text)] = np.frombuffer(text, np.uint8)
            rows = _gathered(whole)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise PeerError(
            f"another process was killed or ended with an error, and its own output says why "
            f"({_first_line(error)})."
        ) from error
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _gathered(row: np.ndarray) -> np.ndarray:
    """The rows of all processes (`multihost_utils.process_allgather` takes 8 times as long)."""
    mesh, replicate = _copier()
    by_process = NamedSharding(mesh, PartitionSpec("process"))
    shape = (jax.process_count(), *row.shape)
    rows = jax.make_array_from_process_local_data(by_process, row[None], shape)
    with jax.set_mesh(mesh):  # a caller may have set a mesh of fewer devices
        return np.asarray(replicate(rows))


@functools.cache
def _copier() -> tuple[Mesh, Callable[[jax.Array], jax.Array]]:
    """All devices, and a program that copies an array to each of them."""
    devices = np.array(jax.devices()).reshape(jax.process_count(), -1)
    mesh = Mesh(devices, ("process", "device"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return mesh, jax.jit(lambda rows: rows, out_shardings=everywhere)


# How a process finds its place.


def _check_numbers(num_processes: Any, process_id: Any, timeout: Any) -> None:
    for name, number, least in (
        ("--num-processes", num_processes, 1),
        ("--process-id", process_id, 0),
    ):
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (is_whole and number >= least):
            raise ValueError(
                f"{name} must be a whole number of at least {least}; got {number!r}."
            )
    if not timeout > 0:
        raise ValueError(f"the timeout must be a positive number of seconds; got {timeout!r}.")
    if num_processes is None or process_id is None:
        return
    if process_id >= num_processes == 1:
        raise ValueError(
            f"--process-id {process_id} needs --num-processes {process_id + 1} or more; got 1."
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process-id {process_id} does not fit --num-processes {num_processes}: they are "
            f"counted from 0 to {num_processes - 1}."
        )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator must be HOST:PORT, such as node1:12345; got {text!r}.")
    return host, int(port)


def _is_launched() -> bool:
    return any(name in os.environ for name in LAUNCHED)


def _initialize(given: tuple, timeout: float, keepalive: float) -> bool:
    """Start JAX's service; False if no launcher has started this process."""
    missing = [flag for flag, value in zip(FLAGS, given, strict=True) if value is None]
    is_local = str(given[0]).startswith(("localhost:", "127."))
    late = f"JAX could not connect this process to the others within {timeout:g} s."
    timer = threading.Timer(timeout + 10, _die, [late])  # JAX would print a stack trace
    timer.daemon = True
    timer.start()
    try:
        with warnings.catch_warnings():
            # In Kubernetes JAX warns if the package is missing, and would go on alone.
            warnings.filterwarnings("error", message="(?s).*kubernetes", category=UserWarning)
            jax.distributed.initialize(
                *given,
                cluster_detection_method=None if missing else "deactivate",
                initialization_timeout=int(timeout) + 60,
                heartbeat_timeout_seconds=max(int(keepalive), 1),
                coordinator_bind_address=given[0] if is_local and not missing else None,
            )
    except (RuntimeError, UserWarning, ValueError) as error:
        is_late = "must be called before" in str(error)
        has_no_launcher = "coordinator_address should be" in str(error)
        if given == (None, None, None) and (
            has_no_launcher or (is_late and not _is_launched())
        ):
            return False
        if is_late:
            raise RuntimeError(TOO_LATE) from None
        raise ValueError(
            f"{' and '.join(missing) or 'something'} is missing, and JAX could not take it "
            f"from a launcher ({_first_line(error)}); give {', '.join(FLAGS)}, "
            "or --num-processes 1."
        ) from error
    finally:
        timer.cancel()
    return True


def _check_no_device_is_used() -> None:
    """Refuse to wait for other processes if JAX would refuse to join them afterwards."""
    try:
        jax.distributed.initialize(cluster_detection_method="deactivate")  # it has no address
    except ValueError:
        return
    except RuntimeError:
        raise RuntimeError(TOO_LATE) from None


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Send standard output where standard error goes, that of C++ too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
