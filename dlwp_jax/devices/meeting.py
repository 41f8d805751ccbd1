"""Before JAX joins the processes: who has come, and do they belong together?

JAX ends a process with a stack trace if another one does not come, and does not say which. So
process 0 first answers the others over XML-RPC (Python's own), at the coordinator's address.
When all are there it closes that server, and JAX's service takes its place at the same port.
"""

import http.client
import os
import secrets
import socket
import time
import xmlrpc.client
from importlib.metadata import version
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

LIBRARIES = ("dlwp-jax", "jax", "jaxlib", "flax", "optax")
ALL_HERE = "all are here"
POLL_SECONDS = 0.1
GOODBYE_SECONDS = 5.0  # how long process 0 waits until every other one has heard the outcome

Hello = dict[str, Any]


def meet(host: str, port: int, count: int, index: int, timeout: float) -> None:
    """Wait until every process has come to process 0.

    Args:
      host, port: where process 0 listens.
      count, index: how many processes there are, and which one this is.
      timeout: seconds to wait.

    Raises:
      TimeoutError: if process 0 is not reached, or if others do not come; it names them.
      OSError: if the port is in use.
      ConnectionError: if the processes do not belong together.
    """
    who = f"pid {os.getpid()} on {socket.gethostname()}"
    versions = {name: version(name) for name in LIBRARIES}
    hello = {"id": index, "count": count, "who": who, "versions": versions}
    hello["token"] = secrets.token_hex(8)
    if index == 0:
        _receive(host, port, hello, timeout)
    else:
        _come(host, port, hello, timeout)


def _receive(host: str, port: int, mine: Hello, timeout: float) -> None:
    """Process 0 answers each process that asks until all have heard the same outcome."""
    here: dict[int, Hello] = {0: mine}
    waiting: set[str] = set()
    outcome = ""

    def join(hello: Any) -> str:
        nonlocal outcome
        outcome = outcome or _misfit(here, hello)
        here.setdefault(hello["id"], hello)
        if not outcome and len(here) == mine["count"]:
            outcome = ALL_HERE
        if outcome:
            waiting.discard(hello["token"])
        else:
            waiting.add(hello["token"])
        return outcome

    try:
        server = _Server(host, port)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen at {host}:{port} ({os.strerror(error.errno or 0)}): "
            "another training may be there, or a second process with --process-id 0; choose "
            "another port for --coordinator."
        ) from None
    with server:
        server.register_function(join)
        deadline = time.monotonic() + timeout
        while not outcome:
            server.handle_request()
            if not outcome and time.monotonic() > deadline:
                outcome = _missing(here, mine["count"], f"{host}:{port}", timeout)
        deadline = time.monotonic() + GOODBYE_SECONDS
        while waiting and time.monotonic() < deadline:
            server.handle_request()
    if outcome != ALL_HERE:
        raise _error(outcome)


def _come(host: str, port: int, hello: Hello, timeout: float) -> None:
    """Another process asks process 0 again and again until there is an outcome."""
    deadline = time.monotonic() + timeout
    process_0 = xmlrpc.client.ServerProxy(f"http://{host}:{port}", _Transport())
    outcome = ""
    while not outcome:
        try:
            outcome = str(process_0.join(hello))
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"process 0 was not reached at {host}:{port} within {timeout:g} s "
                    f"({getattr(error, 'strerror', None) or error}); is it running, and is "
                    "that port open to this machine?"
                ) from None
        if not outcome:
            time.sleep(POLL_SECONDS)
    if outcome != ALL_HERE:
        raise _error(outcome)


def _misfit(here: dict[int, Hello], hello: Hello) -> str:
    """Why a process cannot be one of these, or an empty string."""
    mine, i = here[0], hello["id"]
    if hello["count"] != mine["count"]:
        return (
            f"process {i} was started with --num-processes {hello['count']}, and "
            f"process 0 with {mine['count']}."
        )
    if i in here and here[i]["token"] != hello["token"]:
        return (
            f"two processes were started with --process-id {i}: {here[i]['who']} and "
            f"{hello['who']}; give each its own, from 0 to {mine['count'] - 1}."
        )
    for name, number in mine["versions"].items():
        other = hello["versions"].get(name)
        if other != number:
            return (
                f"process {i} runs {name} {other}, and process 0 {number}; install one version."
            )
    return ""


def _missing(here: dict[int, Hello], count: int, address: str, timeout: float) -> str:
    missing = [str(i) for i in range(count) if i not in here]
    noun = "process" if len(missing) == 1 else "processes"
    return (
        f"{noun} {', '.join(missing)} of {count} did not come within {timeout:g} s; "
        f"each process needs --coordinator {address} --num-processes {count} "
        "and its own --process-id."
    )


def _error(outcome: str) -> OSError:
    return TimeoutError(outcome) if "did not" in outcome else ConnectionError(outcome)


class _Handler(SimpleXMLRPCRequestHandler):
    timeout = 5.0  # seconds for a caller to say something


class _Server(SimpleXMLRPCServer):
    timeout = POLL_SECONDS

    def __init__(self, host: str, port: int):
        is_local = host == "localhost" or host.startswith("127.")
        if not is_local and socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        address = (host if is_local else "", port)
        super().__init__(address, _Handler, logRequests=False, allow_none=True)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Transport(xmlrpc.client.Transport):
    """A connection on which process 0 answers within seconds or not at all."""

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = _Handler.timeout
        return connection
