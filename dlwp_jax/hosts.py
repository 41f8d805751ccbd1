"""Many hosts, one training: how processes find each other, what they agree on, and how all end when one does.

    hosts.start("node1:12345", num_processes=2, process_id=0)   # in each process, before JAX touches a device
    result = train.fit(learner, state, train_set, ...)           # the same call in each of them

Process 0 listens where the coordinator's address says. The others come there and say who they are; when all have come,
JAX's own engine (`jax.distributed`) is started between them. The connections stay open as long as the processes live.
Over them goes what the host decides and all must decide alike (`agree`), and a connection that breaks tells that its
process is gone, at once and whatever the devices wait for. Then every process says so in a sentence, and ends.
"""

import atexit
import contextlib
import ctypes
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import jax

Items = TypeVar("Items", bound=Sequence)
PyTree = Any
LIBRARIES = ("dlwp-jax", "jax", "jaxlib", "flax", "optax")
GREETING_SECONDS = 10.0  # for a process that has connected to say who it is
FLAGS = ("--coordinator", "--num-processes", "--process-id")


class PeerError(RuntimeError):
    """What another process could not do."""


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
    keepalive: float = 30.0,
) -> None:
    """Join the processes of one training; where there is one process, do nothing.

    What is not given is taken from Slurm, Open MPI, Kubernetes (an indexed Job) or a TPU pod, as JAX finds it. In all
    processes but number 0 standard output is silenced, and what the library writes is written by number 0 alone.

    Args:
      coordinator: `"HOST:PORT"`, where process 0 runs and a port that is free there.
      num_processes: how many there are; 1 says that there is one, wherever it runs.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the others.
      keepalive: seconds after which a host that does not answer (switched off, cut off) counts as gone. A process
        that ends on a host that is well is noticed at once.

    Raises:
      ValueError: where the three belong together and some are missing, or they contradict each other.
      RuntimeError: where JAX has touched devices already.
      OSError: where process 0 is not reached or others do not come in time (TimeoutError), or the port is in use.
    """
    global _link
    place = _place(coordinator, num_processes, process_id, timeout)
    if place is None:
        return
    if _link is not None:
        raise RuntimeError("hosts.start was called before; once in a process is enough.")
    if _devices_are_known():
        raise RuntimeError("hosts.start must come before JAX touches a device: call it first in the program.")
    (host, port), count, index, local_ids = place
    if index == 0:
        wires, about = _gather(host, port, count, timeout, keepalive)
    else:
        wires, about = _join(host, port, count, index, timeout, keepalive)
    link = _Link(index, count, wires, [about["who"][i] for i in range(count)])
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    is_alone = about["hosts"].count(about["hosts"][index]) == 1
    try:
        with _to_stderr():  # Gloo prints a line
            jax.distributed.initialize(
                f"{host}:{about['port']}",
                count,
                index,
                local_device_ids=None if is_alone else local_ids,
                cluster_detection_method="deactivate",
                initialization_timeout=int(timeout) + 1,
            )
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("start")
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f"JAX could not connect the {count} processes: {_first_line(error)}") from error
    _link = link
    _install_hook(link)
    _stay_when_jax_aborts()
    atexit.register(_farewell)  # it runs before JAX's own, which was registered before
    if index:
        _silence()


def many() -> bool:
    """Whether this is one of many processes."""
    return _link is not None


def index() -> int:
    """Which process this is, from 0."""
    return 0 if _link is None else _link.index


def count() -> int:
    """How many processes there are."""
    return 1 if _link is None else _link.count


def is_writer() -> bool:
    """Whether this process is the one that prints and writes: number 0, and the only one where there is one.

    >>> is_writer()
    True
    """
    return index() == 0


def agree(what: str, value: Any) -> list[Any]:
    """What each process says, in the order of their numbers. All must call it, and in the same order.

    Args:
      what: names the occasion; processes that are at different ones are told so and end.
      value: anything that JSON can hold.

    >>> agree("batch size", 64)
    [64]
    """
    return [value] if _link is None else _link.agree(what, value)


def first(what: str, value: Any) -> Any:
    """What process 0 says; see `agree`."""
    return agree(what, value)[0]


def attempt(what: str, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)` gives in each process, as `agree`; an exception in one is one in all of them.

    Raises:
      Exception: the function's own.
      PeerError: where another process's raised one.

    >>> attempt("halving", lambda n: n / 2, 64)
    [32.0]
    """
    if _link is None:
        return [function(*args)]
    value, wrong = None, None
    try:
        value = function(*args)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (it is raised again, in all)
        wrong = error
    said = _link.agree(what, [value, wrong and f"{type(wrong).__name__}: {_first_line(wrong)}"])
    if wrong is None:
        told = next((f"{who} ended: {told}" for who, (_, told) in zip(_link.who, said, strict=True) if told), None)
        wrong = PeerError(told) if told else None
    if wrong is not None:
        _link.shared = wrong
        raise wrong
    return [value for value, _ in said]


def by_writer(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` gives in the process that writes, which alone calls it; None in the others.

    Raises:
      Exception: the function's own; PeerError in the others.
    """
    result = None

    def work():
        nonlocal result
        result = function(*args) if is_writer() else None

    attempt(what, work)
    return result


def is_shared(error: BaseException) -> bool:
    """Whether all processes know of an exception, and so go on alike."""
    return _link is None or error is _link.shared


def part(items: Items) -> Items:
    """This process's part of a sequence (files, indices): every item is in one part, and they differ by one at most.

    Where the order of files matters for balance, note that process `i` of `n` has the items i, i + n, i + 2n, ...

    >>> part(["a.npz", "b.npz", "c.npz"])
    ['a.npz', 'b.npz', 'c.npz']
    """
    return items[index() :: count()]  # pyright: ignore[reportReturnType] (a slice of a sequence is one)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Where devices of all processes compute together: one that ends meanwhile would leave the others waiting."""
    if _link is None:
        yield
        return
    with _link.computing():
        yield


def part_company() -> None:
    """Let all processes end, each in its own way, without taking that for an accident."""
    if _link is not None:
        _link.agree(_BYE, _link.sections)
        if _link.index == 0:
            time.sleep(0.3)  # JAX's coordinator is here: the others end first


def end(sentence: str) -> NoReturn:
    """End this process with a sentence on standard error and status 1, and the others with word of it."""
    if _link is None:
        sys.exit(sentence)
    _link.end(sentence, f"{_link.me} ended: {sentence}")


_link: "_Link | None" = None
_BYE = "the end"


# Who takes part.


def _place(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> tuple[tuple[str, int], int, int, list[int] | None] | None:
    """Where process 0 is, how many there are, which one this is, its devices; None where it is the only one."""
    local_ids = None
    for name, number, least in (("--num-processes", num_processes, 1), ("--process-id", process_id, 0)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise ValueError(f"{name} must be a whole number of at least {least}; got {number!r}.")
    if not timeout > 0:
        raise ValueError(f"the timeout must be a positive number of seconds; got {timeout!r}.")
    if num_processes != 1 and None in (coordinator, num_processes, process_id):
        coordinator, num_processes, process_id, local_ids = _detected(coordinator, num_processes, process_id, timeout)
    if num_processes == 1:
        if process_id:
            raise ValueError(f"--process-id {process_id} needs --num-processes {process_id + 1} or more; got 1.")
        return None
    if coordinator is None and num_processes is None and process_id is None:
        return None
    given = (coordinator, num_processes, process_id)
    missing = [flag for flag, value in zip(FLAGS, given, strict=True) if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"{', '.join(FLAGS)} belong together; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing, and no Slurm, Open MPI, Kubernetes or TPU pod was found to take it from."
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process-id {process_id} does not fit --num-processes {num_processes}: they are counted from 0 to "
            f"{num_processes - 1}."
        )
    return _address(coordinator), num_processes, process_id, local_ids


def _detected(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> tuple[str | None, int | None, int | None, list[int] | None]:
    """What is not given, from the environment of a launcher that JAX knows."""
    from jax._src.clusters import ClusterEnv

    in_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    if in_kubernetes and "JOB_COMPLETION_INDEX" not in os.environ and not _is_launched():
        return coordinator, num_processes, process_id, None  # some pod or other, a notebook
    with warnings.catch_warnings():
        if in_kubernetes:  # JAX warns where the package is missing, and goes on alone
            warnings.filterwarnings("error", message="(?s).*kubernetes", category=UserWarning)
        try:
            *found, local_ids = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, num_processes, process_id, None, None, int(timeout) + 1
            )
            return *found, None if local_ids is None else list(local_ids)  # pyright: ignore[reportReturnType]
        except (RuntimeError, UserWarning, ValueError) as error:
            raise ValueError(
                f"what this job's launcher has set does not tell the processes apart ({_first_line(error)}); give "
                f"{', '.join(FLAGS)}, or --num-processes 1."
            ) from error


def _is_launched() -> bool:
    return "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator must be HOST:PORT, such as node1:12345; got {text!r}.")
    return host, int(port)


def _devices_are_known() -> bool:
    from jax._src.xla_bridge import backends_are_initialized

    return backends_are_initialized()


# How they meet: process 0 listens, the others come and say who they are.


def _gather(
    host: str, port: int, count: int, timeout: float, keepalive: float
) -> tuple[dict[int, "_Wire"], dict[str, Any]]:
    """Process 0: wait for the others; the connections to them, and what all must know."""
    deadline, wires, hellos = time.monotonic() + timeout, {}, {0: _hello(0, count)}
    try:
        server = _listen(host, port)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen at {host}:{port} ({os.strerror(error.errno or 0)}): another training may be "
            "there, or a second process with --process-id 0; choose another --coordinator port."
        ) from None
    with server:
        while len(hellos) < count:
            wire = _accept(server, deadline, keepalive)
            if wire is None:
                missing = ", ".join(str(i) for i in range(count) if i not in hellos)
                plural = "es" * (len(hellos) < count - 1)
                wrong = TimeoutError(
                    f"process{plural} {missing} of {count} did not come within {timeout:g} s; each process needs "
                    f"--coordinator {host}:{port} --num-processes {count} and its own --process-id."
                )
                raise _refused(wrong, wires.values())
            hello = wire.receive(GREETING_SECONDS)
            if not isinstance(hello, dict) or hello.keys() != hellos[0].keys():
                wire.close()  # somebody else's
                continue
            wrong = _misfit(hellos, hello)
            if wrong is not None:
                raise _refused(ValueError(wrong), [*wires.values(), wire])
            wires[hello["id"]], hellos[hello["id"]] = wire, hello
    who = [f"process {i} (pid {hellos[i]['pid']} on {hellos[i]['host']})" for i in range(count)]
    about = {"who": who, "hosts": [hellos[i]["host"] for i in range(count)], "port": _free_port()}
    for wire in wires.values():
        wire.send(about)
    return wires, about


def _accept(server: socket.socket, deadline: float, keepalive: float) -> "_Wire | None":
    server.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        return _Wire(server.accept()[0], keepalive)
    except TimeoutError:
        return None


def _refused(wrong: Exception, wires: Any) -> Exception:
    for wire in wires:
        wire.send({"end": str(wrong)})
        wire.close()
    return wrong


def _misfit(hellos: dict[int, dict], hello: dict) -> str | None:
    """Why a process cannot be one of these."""
    mine, i = hellos[0], hello["id"]
    if hello["of"] != mine["of"]:
        return f"process {i} was started with --num-processes {hello['of']}, and process 0 with {mine['of']}."
    if i in hellos:
        pids = " and ".join(f"pid {one['pid']} on {one['host']}" for one in (hellos[i], hello))
        return (
            f"two processes were started with --process-id {i}: {pids}; give each its own, from 0 to {mine['of'] - 1}."
        )
    for name, number in mine["versions"].items():
        if hello["versions"].get(name) != number:
            return (
                f"process {i} runs {name} {hello['versions'].get(name)}, and process 0 {number}; install one version."
            )
    return None


def _join(
    host: str, port: int, count: int, index: int, timeout: float, keepalive: float
) -> tuple[dict[int, "_Wire"], dict[str, Any]]:
    """Another process: come to process 0; the connection to it, and what all must know."""
    deadline = time.monotonic() + timeout
    wire = _connect(host, port, deadline, timeout, keepalive)
    wire.send(_hello(index, count))
    about = wire.receive(max(deadline - time.monotonic(), 0) + GREETING_SECONDS)  # process 0 has the first word
    if isinstance(about, dict) and "end" in about:
        raise ConnectionError(about["end"])
    if not isinstance(about, dict) or "who" not in about:
        raise ConnectionError(f"no answer from {host}:{port}: process 0 ended, or it is not what listens there.")
    return {0: wire}, about


def _connect(host: str, port: int, deadline: float, timeout: float, keepalive: float) -> "_Wire":
    while True:
        left = deadline - time.monotonic()
        try:
            return _Wire(socket.create_connection((host.strip("[]"), port), timeout=max(left, 0.1)), keepalive)
        except OSError as error:
            if left <= 0.2:
                raise TimeoutError(
                    f"process 0 was not reached at {host}:{port} within {timeout:g} s ({error.strerror or error}); is "
                    "it running, and is that port open to this machine?"
                ) from None
            time.sleep(min(0.2, left))


def _hello(index: int, count: int) -> dict[str, Any]:
    versions = {name: version(name) for name in LIBRARIES}
    return {"id": index, "of": count, "pid": os.getpid(), "host": socket.gethostname(), "versions": versions}


def _listen(host: str, port: int) -> socket.socket:
    if host == "localhost" or host.startswith("127."):
        return socket.create_server((host, port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class _Wire:
    """A connection that carries JSON, a line a message."""

    def __init__(self, connection: socket.socket, keepalive: float):
        self.connection, self.lines, self._lock = connection, connection.makefile("rb"), threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        every = max(int(keepalive / 4), 1)  # of silence: the fourth question that is not answered is the last
        for name, value in {"TCP_KEEPIDLE": every, "TCP_KEEPINTVL": every, "TCP_KEEPCNT": 3}.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(keepalive * 1000))

    def send(self, message: Any) -> None:
        """Send; that a connection is broken is noticed by whoever reads from it."""
        with self._lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> Any:
        """The next message; None where none comes."""
        self.connection.settimeout(seconds)
        try:
            return json.loads(self.lines.readline(1 << 20) or "null")
        except (OSError, ValueError):
            return None
        finally:
            self.connection.settimeout(None)

    def __iter__(self) -> Iterator[Any]:
        return (json.loads(line) for line in self.lines)

    def close(self) -> None:
        self.lines.close()
        self.connection.close()


# As long as they live.


class _Link:
    """The connections of this process: of number 0 to all others, of any other to number 0."""

    def __init__(self, index: int, count: int, wires: dict[int, _Wire], who: list[str]):
        self.index, self.count, self.wires, self.who = index, count, wires, who
        self.inbox = {i: queue.SimpleQueue() for i in wires}
        self.me, self.is_leaving = who[index], False
        self.depth, self.sections = 0, 0  # of `together`: how deep inside, and how many were begun
        self.gone_home: tuple[int, int] | None = None  # who has come to its end, after how many
        self.shared: BaseException | None = None  # the exception that all know of
        self._ending = threading.Lock()
        for i, wire in wires.items():
            threading.Thread(target=self._listen, args=(i, wire), name=f"hosts-{i}", daemon=True).start()

    def agree(self, what: str, value: Any) -> list[Any]:
        if self.index:
            self.wires[0].send({"at": what, "value": value})
            return self.inbox[0].get()["all"]
        if what == _BYE:
            self._tell({"leaving": value})
        said = [{"at": what, "value": value}, *(self.inbox[i].get() for i in range(1, self.count))]
        for i, other in enumerate(said):
            if other["at"] != what:
                self.end(
                    f"the processes are not doing the same: {self.who[0]} is at {what!r}, {self.who[i]} at "
                    f"{other['at']!r}. Call the same functions with the same arguments in all of them."
                )
        self.is_leaving = what == _BYE
        everything = [other["value"] for other in said]
        self._tell({"all": everything, "at": what})
        return everything

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        self.depth += 1
        self.sections += self.depth == 1
        self._look()
        try:
            yield
        finally:
            self.depth -= 1

    def _look(self) -> None:
        if self.depth and self.gone_home is not None and self.gone_home[1] < self.sections:
            self.end(f"{self.who[self.gone_home[0]]} came to its end while {self.me} was computing with it.")

    def end(self, sentence: str, to_others: str | None = None) -> NoReturn:
        """End this process with a sentence, and the others with theirs."""
        with self._ending:  # another thread that comes here waits for the end
            self._tell({"end": to_others or sentence})
            with contextlib.suppress(OSError, ValueError):  # a closed pipe must not keep it
                sys.stdout.flush()
                sys.stderr.write(sentence and f"{sentence}\n")
                sys.stderr.flush()
            os._exit(1)

    def _tell(self, message: Any) -> None:
        for wire in self.wires.values():
            wire.send(message)

    def _listen(self, i: int, wire: _Wire) -> None:
        """What process `i` says, until it says no more."""
        try:
            for message in wire:
                if "end" in message:
                    self.end(message["end"])
                if "leaving" in message or (self.index == 0 and message["at"] == _BYE):
                    self.gone_home = i, message.get("leaving", message.get("value"))
                    self._look()
                if "at" in message:
                    self.is_leaving = self.index > 0 and message["at"] == _BYE
                    self.inbox[i].put(message)
            why = "its connection closed: it was killed, or crashed"
        except OSError as error:
            why = f"its connection broke: {error.strerror or error}"
        if not self.is_leaving:
            self.end(f"{self.who[i]} is gone ({why}); {self.me} ends too.")


def _farewell() -> None:
    part_company()


def _install_hook(link: "_Link") -> None:
    """An exception that nobody caught ends the others too; and one that says that another process is gone waits for
    word of which."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, (jax.errors.JaxRuntimeError, PeerError)):
            time.sleep(2.0)  # the process whose fault it is has the first word, or its connection breaks: the listener
        if issubclass(kind, PeerError):
            link.end(str(error))
        before(kind, error, trace)
        link.end("", f"{link.me} ended: {kind.__name__}: {_first_line(error)}")

    sys.excepthook = hook


def _stay_when_jax_aborts() -> None:
    """Where process 0 is gone JAX aborts the others from a thread of its own (jaxlib takes no callback of Python's); as
    the signal's handler C's `sleep` keeps that thread for SIGABRT = 6 seconds, so that the listener's sentence and its
    status 1 are what comes of it. Any other abort comes 6 seconds late."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _first_line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[:1])


@contextlib.contextmanager
def _to_stderr() -> Iterator[None]:
    """Standard output goes where standard error goes, that of C++ too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _silence() -> None:
    """No standard output."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
