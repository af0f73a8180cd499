"""One gRPC address before two servers: every request goes to the active one, and finishes where it began.

Bytes are passed on as they are, so it knows no message of Triton's. ``python -m`` this file is the router's
process; `Router` starts, asks, turns and stops it. On a cluster a Service does this work.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from pydantic import ValidationError

from tpforge.errors import EnvironmentUnusable, TpforgeError, UsageError
from tpforge.outputs.atomic import os_errors
from tpforge.records import Record
from triton_repo.client.channel import CHANNEL_OPTIONS, Tls, aio_channel
from triton_repo.serve import processes
from triton_repo.serve.guard import module_command, module_environment
from triton_repo.serve.private import (
    make_private,
    open_log,
    private_folder,
    read_private,
    write_private,
)

MAX_REQUEST_BYTES = 64 << 20
"""Of one message of a client; Triton itself takes any size over gRPC."""
STATUS_METHOD = "/tpforge.Router/Status"
_STATE, _ROUTE, _LOG, _LOCK = "router.json", "route.json", "router.log", ".lock"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_START_S, _STOP_S, _DRAIN_S = 15.0, 60.0, 30.0

_started: dict[int, subprocess.Popen[bytes]] = {}
"""The routers that this process started and that outlive it; kept so that they can be reaped."""


class Route(Record):
    """Which server is the active one, the engine that it serves, and the files of its TLS."""

    target: str
    engine: str
    tls: Tls | None = None


class RouterState(Record):
    """The router's process, and where it listens."""

    url: str
    process: processes.ProcessId


class RouterStatus(Record):
    """Requests by server since the router started: begun, and not ended yet."""

    active: Route
    begun: dict[str, int]
    in_flight: dict[str, int]


class Router:
    """The router of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._kept = folder, private_folder(folder)

    @property
    def state(self) -> RouterState | None:
        """Its process, if it runs."""
        try:
            found = RouterState.model_validate_json(read_private(self._kept / _STATE) or b"")
        except ValidationError:
            return None
        ours = processes.is_alive(found.process) and processes.has_open(found.process, self._kept / _LOCK)
        return found if ours else None

    @property
    def route(self) -> Route | None:
        """Where requests go."""
        return read_route(self._folder)

    def turn(self, route: Route) -> None:
        """Send requests that begin from now on to another server."""
        with os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_private(make_private(self._folder) / _ROUTE, route.model_dump_json() + "\n")

    def start(self, *, host: str, port: int) -> RouterState:
        """Start it, unless it runs; `turn` has said where to.

        Raises:
            EnvironmentUnusable: it does not come up, since the port is in use.
        """
        if (found := self.state) is not None:
            return found
        (self._kept / _STATE).unlink(missing_ok=True)
        command = module_command("triton_repo.promote.router", str(self._folder.absolute()), f"{host}:{port}")
        with open_log(self._folder / _LOG) as log:
            child = subprocess.Popen(
                command,
                env=module_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _START_S
        while time.monotonic() < end and child.poll() is None:
            if (found := self.state) is not None and found.process.pid == child.pid:
                _started[child.pid] = child
                return found
            time.sleep(0.05)
        child.kill()
        child.wait()
        raise EnvironmentUnusable(f"the router does not listen on {host}:{port}; see {self._folder / _LOG}")

    def status(self) -> RouterStatus:
        """What it says of itself.

        Raises:
            EnvironmentUnusable: it does not run, or does not answer.
        """
        found = self.state
        if found is None:
            raise EnvironmentUnusable(f"{self._folder}: no router runs here")
        with grpc.insecure_channel(found.url, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                return RouterStatus.model_validate_json(channel.unary_unary(STATUS_METHOD)(b"", timeout=5))
            except grpc.RpcError as error:
                raise EnvironmentUnusable(f"{found.url}: the router does not answer") from error

    def stop(self) -> bool:
        """End it once the requests in flight have ended; whether it ran."""
        found = self.state
        if found is None:
            return False
        processes.send_signal(found.process, signal.SIGTERM)
        if not processes.wait_gone(found.process, timeout_s=_STOP_S):
            processes.send_signal(found.process, signal.SIGKILL)
        if child := _started.pop(found.process.pid, None):
            child.wait()
        (self._kept / _STATE).unlink(missing_ok=True)
        return True


def refuse_exposed(host: str, *, wants_tls: bool) -> None:
    """Refuse to pass plain text from other machines on to a server that wants TLS.

    Raises:
        UsageError: the router would listen on more than this machine.
    """
    if wants_tls and host not in _LOOPBACK:
        raise UsageError(
            f"--host {host}: the servers want TLS and the router's own clients have none, so it listens on "
            f"this machine only ({', '.join(_LOOPBACK)}); end TLS at a proxy before it"
        )


def read_route(folder: Path) -> Route | None:
    """The active route of a folder."""
    try:
        return Route.model_validate_json(read_private(private_folder(folder) / _ROUTE) or b"")
    except ValidationError:
        return None


class _Relay(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Passes every call on to the active server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._channels: dict[tuple[str, Tls | None], Any] = {}
        self._begun: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()

    def service(self, details: Any) -> Any:
        if details.method == STATUS_METHOD:
            return grpc.unary_unary_rpc_method_handler(self._status)
        # Unary calls look alike on the wire: one message each way.
        return grpc.stream_stream_rpc_method_handler(partial(self._relay, details.method))

    async def _status(self, _request: bytes, _context: Any) -> bytes:
        route = read_route(self._folder)
        assert route is not None
        counts = {"begun": dict(self._begun), "in_flight": dict(self._in_flight)}
        return json.dumps({"active": route.model_dump(mode="json"), **counts}).encode()

    async def _relay(self, method: str, requests: Any, context: Any) -> AsyncIterator[bytes]:
        route = read_route(self._folder)
        assert route is not None
        target = route.target
        try:
            channel = self._channel(route)
        except TpforgeError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        self._begun[target] += 1
        self._in_flight[target] += 1
        metadata = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
        call = channel.stream_stream(method)(requests, timeout=context.time_remaining(), metadata=metadata)
        try:
            async for response in call:
                yield response
        except aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            call.cancel()
            self._in_flight[target] -= 1

    def _channel(self, route: Route) -> Any:
        """The connection to the active server, kept: its files are read once."""
        key = (route.target, route.tls)
        if key not in self._channels:
            self._channels[key] = aio_channel(route.target, tls=route.tls)
        return self._channels[key]


async def _serve(folder: Path, url: str) -> None:
    limit = ("grpc.max_receive_message_length", MAX_REQUEST_BYTES)
    kept = [option for option in CHANNEL_OPTIONS if option[0] != limit[0]]
    server = aio.server(options=[*kept, limit, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Relay(folder),))
    server.add_insecure_port(url)
    await server.start()
    own = make_private(folder)
    # Open while the process lives: it proves that the process of the state is ours.
    lock = os.open(own / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    me = processes.identify(os.getpid())
    assert me is not None
    write_private(own / _STATE, RouterState(url=url, process=me).model_dump_json() + "\n")
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop(_DRAIN_S)
    os.close(lock)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
