"""How they meet: process 0 listens, the others come and say who they are."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

LIBRARIES = ("dlwp-jax", "jax", "jaxlib", "flax", "optax")
GREETING_SECONDS = 10.0  # for a process that has connected to say who it is


def gather(
    host: str, port: int, count: int, timeout: float, keepalive: float
) -> tuple[dict[int, "Wire"], dict[str, Any]]:
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
    about = {
        "who": who,
        "hosts": [hellos[i]["host"] for i in range(count)],
        "port": _free_port(),
    }
    for wire in wires.values():
        wire.send(about)
    return wires, about


def _accept(server: socket.socket, deadline: float, keepalive: float) -> "Wire | None":
    server.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        return Wire(server.accept()[0], keepalive)
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
        return f"two processes were started with --process-id {i}: {pids}; give each its own, from 0 to {mine['of'] - 1}."
    for name, number in mine["versions"].items():
        if hello["versions"].get(name) != number:
            return f"process {i} runs {name} {hello['versions'].get(name)}, and process 0 {number}; install one version."
    return None


def join(
    host: str, port: int, count: int, index: int, timeout: float, keepalive: float
) -> tuple[dict[int, "Wire"], dict[str, Any]]:
    """Another process: come to process 0; the connection to it, and what all must know."""
    deadline = time.monotonic() + timeout
    wire = _connect(host, port, deadline, timeout, keepalive)
    wire.send(_hello(index, count))
    about = wire.receive(
        max(deadline - time.monotonic(), 0) + GREETING_SECONDS
    )  # process 0 has the first word
    if isinstance(about, dict) and "end" in about:
        raise ConnectionError(about["end"])
    if not isinstance(about, dict) or "who" not in about:
        raise ConnectionError(
            f"no answer from {host}:{port}: process 0 ended, or it is not what listens there."
        )
    return {0: wire}, about


def _connect(host: str, port: int, deadline: float, timeout: float, keepalive: float) -> "Wire":
    while True:
        left = deadline - time.monotonic()
        try:
            return Wire(
                socket.create_connection((host.strip("[]"), port), timeout=max(left, 0.1)),
                keepalive,
            )
        except OSError as error:
            if left <= 0.2:
                raise TimeoutError(
                    f"process 0 was not reached at {host}:{port} within {timeout:g} s ({error.strerror or error}); is "
                    "it running, and is that port open to this machine?"
                ) from None
            time.sleep(min(0.2, left))


def _hello(index: int, count: int) -> dict[str, Any]:
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "id": index,
        "of": count,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "versions": versions,
    }


def _listen(host: str, port: int) -> socket.socket:
    if host == "localhost" or host.startswith("127."):
        return socket.create_server((host, port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


class Wire:
    """A connection that carries JSON, a line a message."""

    def __init__(self, connection: socket.socket, keepalive: float):
        self.connection, self.lines, self._lock = (
            connection,
            connection.makefile("rb"),
            threading.Lock(),
        )
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        every = max(
            int(keepalive / 4), 1
        )  # of silence: the fourth question that is not answered is the last
        for name, value in {
            "TCP_KEEPIDLE": every,
            "TCP_KEEPINTVL": every,
            "TCP_KEEPCNT": 3,
        }.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(keepalive * 1000)
            )

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
        """Hang up."""
        self.lines.close()
        self.connection.close()
