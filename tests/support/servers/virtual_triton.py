"""Triton's gRPC by a script, on a virtual clock: its messages as bytes, without a socket.

It stands where `triton_repo.load.grpc_stream` has its channel, so that all else of the client is real.
What it sends when is the truth that a test compares with, to the digit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2

from tests.support.servers.scripted_server import INPUTS, Script, response
from tests.support.virtual_time import run_virtually
from triton_repo.load import grpc_stream
from triton_repo.load.measuring import Measured, Plan, carry_out
from triton_repo.load.triton_target import TritonModel, TritonOptions, TritonTarget

MODEL = TritonModel(
    name="ensemble",
    form="text",
    inputs=INPUTS,
    batched=True,
    is_cumulative=False,
    max_batch_size=8,
    parameters={},
)


@dataclass
class VirtualTriton:
    """A server: `sent` are the stamps of its tokens, request by request, in the order of their beginning."""

    script: Script
    sent: list[list[float]] = field(default_factory=list)
    num_tokens: int = 0
    is_dead: bool = False
    begun: float | None = None

    def stream_stream(self, _method: str) -> Any:
        """As a channel's: what begins a call."""
        return lambda timeout, metadata: _Call(self, deadline=_now() + timeout)

    def get_state(self, *, try_to_connect: bool) -> None:
        """There is nothing to connect."""

    async def close(self) -> None:
        """There is nothing to close."""


class _Call:
    """One request and the messages that answer it; as a call of grpc.aio."""

    def __init__(self, server: VirtualTriton, *, deadline: float) -> None:
        self._server, self._deadline = server, deadline
        self._stamps: list[float] = []
        self._num_tokens, self._received, self._is_refused = 0, 0.0, False
        self._status = (grpc.StatusCode.OK, "")

    async def write(self, data: bytes) -> None:
        server, script = self._server, self._server.script
        if server.is_dead:
            self._fail(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
        request = service_pb2.ModelInferRequest.FromString(data)
        names = [item.name for item in request.inputs]
        self._num_tokens = int.from_bytes(request.raw_input_contents[names.index("max_tokens")], "little")
        self._received = _now()
        server.begun = self._received if server.begun is None else server.begun
        server.sent.append(self._stamps)
        self._is_refused = script.refuse_every > 0 and len(server.sent) % script.refuse_every == 0

    async def done_writing(self) -> None: ...

    async def read(self) -> Any:
        server, script, token = self._server, self._server.script, len(self._stamps)
        if self._is_refused:
            self._is_refused, self._num_tokens = False, 0
            return service_pb2.ModelStreamInferResponse(error_message="not this one").SerializeToString()
        if token == self._num_tokens:
            return aio.EOF
        await self._wait(self._received + script.ttft_s + token * script.itl_s)
        if server.is_dead:
            self._fail(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        self._stamps.append(_now())
        server.num_tokens += 1
        server.is_dead = 0 < script.die_after <= server.num_tokens
        final = token == self._num_tokens - 1 and not script.no_final
        return response(f" w{token}", final=final).SerializeToString()

    async def code(self) -> grpc.StatusCode:
        return self._status[0]

    async def details(self) -> str:
        return self._status[1]

    def cancel(self) -> None: ...

    def _fail(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self._status = (code, details)
        raise aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=details)

    async def _wait(self, due: float) -> None:
        """Until a token is due, or the deadline is over."""
        script, begun = self._server.script, self._server.begun
        assert begun is not None
        if script.stall_s and begun + script.stall_at_s <= max(_now(), due):
            due = max(due, begun + script.stall_at_s + script.stall_s)
        if script.silent or due > self._deadline:
            await asyncio.sleep(self._deadline - _now())
            self._fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        await asyncio.sleep(max(0.0, due - _now()))


def measure_virtually(
    monkeypatch: pytest.MonkeyPatch, script: Script, plan: Plan, *, deadline_s: float = 10.0
) -> tuple[Measured, VirtualTriton]:
    """Carry out a plan against the script; what was measured, and what was true."""
    server = VirtualTriton(script)
    monkeypatch.setattr(grpc_stream, "aio_channel", lambda _url, *, tls: server)
    target = TritonTarget("virtual:1", MODEL, options=TritonOptions(deadline_s=deadline_s))
    return run_virtually(carry_out(target, plan)), server


def _now() -> float:
    return asyncio.get_running_loop().time()
