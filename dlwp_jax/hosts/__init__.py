"""Many hosts, one training: how processes find each other, what they agree on, and how all end
when one does.

    hosts.start("node1:12345", num_processes=2, process_id=0)   # in each process, before JAX touches a device
    result = train.fit(learner, state, train_set, ...)           # the same call in each of them

Process 0 listens where the coordinator's address says. The others come there and say who they
are; when all have come, JAX's own engine (`jax.distributed`) is started between them. The
connections stay open as long as the processes live. Over them goes what the host decides and
all must decide alike (`agree`), and a connection that breaks tells that its process is gone, at
once and whatever the devices wait for. Then every process says so in a sentence, and ends.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import jax

from dlwp_jax.hosts.link import BYE as _BYE
from dlwp_jax.hosts.link import Link as _Link
from dlwp_jax.hosts.meeting import gather as _gather
from dlwp_jax.hosts.meeting import join as _join
from dlwp_jax.hosts.who import first_line as _first_line
from dlwp_jax.hosts.who import place as _place

Items = TypeVar("Items", bound=Sequence)
PyTree = Any


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

    What is not given is taken from Slurm, Open MPI, Kubernetes (an indexed Job) or a TPU pod,
    as JAX finds it. In all processes but number 0 standard output is silenced, and what the
    library writes is written by number 0 alone.

    Args:
      coordinator: `"HOST:PORT"`, where process 0 runs and a port that is free there.
      num_processes: how many there are; 1 says that there is one, wherever it runs.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the others.
      keepalive: seconds after which a host that does not answer (switched off, cut off) counts
        as gone. A process that ends on a host that is well is noticed at once.

    Raises:
      ValueError: where the three belong together and some are missing, or they contradict each
        other.
      RuntimeError: where JAX has touched devices already.
      OSError: where process 0 is not reached or others do not come in time (TimeoutError), or
        the port is in use.
    """
    global _link
    place = _place(coordinator, num_processes, process_id, timeout)
    if place is None:
        return
    if _link is not None:
        raise RuntimeError("hosts.start was called before; once in a process is enough.")
    if _devices_are_known():
        raise RuntimeError(
            "hosts.start must come before JAX touches a device: call it first in the program."
        )
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
        raise ConnectionError(
            f"JAX could not connect the {count} processes: {_first_line(error)}"
        ) from error
    _link = link
    _install_hook(link)
    _stay_when_jax_aborts()
    atexit.register(part_company)  # it runs before JAX's own, which was registered before
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
    """Whether this process is the one that prints and writes: number 0, and the only one where
    there is one.

    >>> is_writer()
    True
    """
    return index() == 0


def agree(what: str, value: Any) -> list[Any]:
    """What each process says, in the order of their numbers. All must call it, and in the same
    order.

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
    """What `function(*args)` gives in each process, as `agree`; an exception in one is one in
    all of them.

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
        told = next(
            (
                f"{who} ended: {told}"
                for who, (_, told) in zip(_link.who, said, strict=True)
                if told
            ),
            None,
        )
        wrong = PeerError(told) if told else None
    if wrong is not None:
        _link.shared = wrong
        raise wrong
    return [value for value, _ in said]


def by_writer(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` gives in the process that writes, which alone calls it; None in
    the others.

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
    """This process's part of a sequence (files, indices): every item is in one part, and they
    differ by one at most.

    Where the order of files matters for balance, note that process `i` of `n` has the items i,
    i + n, i + 2n, ...

    >>> part(["a.npz", "b.npz", "c.npz"])
    ['a.npz', 'b.npz', 'c.npz']
    """
    return items[index() :: count()]  # pyright: ignore[reportReturnType] (a slice of a sequence is one)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Where devices of all processes compute together: one that ends meanwhile would leave the
    others waiting.
    """
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
    """End this process with a sentence on standard error and status 1, and the others with word
    of it.
    """
    if _link is None:
        sys.exit(sentence)
    _link.end(sentence, f"{_link.me} ended: {sentence}")


_link: _Link | None = None


def _install_hook(link: _Link) -> None:
    """An exception that nobody caught ends the others too; and one that says that another
    process is gone waits for word of which."""
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, (jax.errors.JaxRuntimeError, PeerError)):
            time.sleep(
                2.0
            )  # the process whose fault it is has the first word, or its connection breaks: the listener
        if issubclass(kind, PeerError):
            link.end(str(error))
        before(kind, error, trace)
        link.end("", f"{link.me} ended: {kind.__name__}: {_first_line(error)}")

    sys.excepthook = hook


def _stay_when_jax_aborts() -> None:
    """Where process 0 is gone JAX aborts the others from a thread of its own (jaxlib takes no
    callback of Python's); as the signal's handler C's `sleep` keeps that thread for SIGABRT = 6
    seconds, so that the listener's sentence and its status 1 are what comes of it. Any other
    abort comes 6 seconds late."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


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


def _devices_are_known() -> bool:
    from jax._src.xla_bridge import backends_are_initialized

    return backends_are_initialized()
