"""A gRPC server with Triton's protocol that answers by a script, in a process of its own.

It writes the monotonic stamp of every token it sends, so that what a client measured can be held against
what really happened, on a machine however busy. Run as
``python -m tests.support.servers.scripted_server SCRIPT``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from tests.support.servers.scripted import Running, running

INPUTS = {"text_input": "BYTES", "max_tokens": "INT32", "min_tokens": "INT32", "stream": "BOOL"}


@dataclass(frozen=True)
class Script:
    """How every request is answered.

    During the stall nothing is sent to anyone; its times count from the first request. `refuse_every` n
    answers every nth request with an error, `answer_every` n all but every nth, `empty_every` n ends every
    nth at once, `die_after` ends the process at that many tokens, `silent` never answers, `no_final` leaves
    the final flag out.
    """

    ttft_s: float = 0.05
    itl_s: float = 0.01
    stall_at_s: float = -1.0
    stall_s: float = 0.0
    refuse_every: int = 0
    answer_every: int = 0
    empty_every: int = 0
    die_after: int = 0
    silent: bool = False
    no_final: bool = False
    log: str = ""


def scripted_server(folder: Path, script: Script | None = None) -> AbstractContextManager[Running]:
    return running(__name__, script or Script(), folder=folder, host="localhost")


class _Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, script: Script) -> None:
        self.script = script
        self.num_requests = self.num_tokens = 0
        self.begun: float | None = None

    async def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="scripted", version="1.0")

    async def ModelMetadata(self, request: Any, _context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelMetadataResponse(name=request.name)
        for name, datatype in INPUTS.items():
            answer.inputs.add(name=name, datatype=datatype, shape=[-1, 1])
        return answer

    async def ModelConfig(self, request: Any, _context: Any) -> Any:  # noqa: N802
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=8)
        config.model_transaction_policy.decoupled = True
        return service_pb2.ModelConfigResponse(config=config)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        async for request in requests:
            await self._answer(request, context)

    async def _answer(self, request: Any, context: Any) -> None:
        script, received = self.script, time.monotonic()
        self.begun = self.begun or received
        self.num_requests += 1
        if script.silent:
            await asyncio.sleep(3600)
        is_refused = script.refuse_every and self.num_requests % script.refuse_every == 0
        if is_refused or (script.answer_every and self.num_requests % script.answer_every):
            await context.write(service_pb2.ModelStreamInferResponse(error_message="not this one"))
            return
        names = [item.name for item in request.inputs]
        raw = request.raw_input_contents[names.index("max_tokens")]
        num_tokens, stamps = int.from_bytes(raw, "little"), []
        if script.empty_every and self.num_requests % script.empty_every == 0:
            num_tokens = 0
            await context.write(response("", final=True))
        for token in range(num_tokens):
            await self._wait_until(received + script.ttft_s + token * script.itl_s)
            final = token == num_tokens - 1 and not script.no_final
            message = response(f" w{token}", final=final)
            stamps.append(time.monotonic())
            await context.write(message)
            self.num_tokens += 1
            if script.die_after and self.num_tokens >= script.die_after:
                os._exit(1)
        with Path(script.log).open("a") as log:
            log.write(json.dumps(stamps) + "\n")

    async def _wait_until(self, due: float) -> None:
        script, now = self.script, time.monotonic()
        assert self.begun is not None
        stall = self.begun + script.stall_at_s, self.begun + script.stall_at_s + script.stall_s
        if script.stall_s and stall[0] <= max(now, due) < stall[1]:
            due = stall[1]
        await asyncio.sleep(max(0.0, due - now))


def response(text: str, *, final: bool) -> Any:
    message = service_pb2.ModelStreamInferResponse()
    answer = message.infer_response
    answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    answer.raw_output_contents.append(len(text).to_bytes(4, "little") + text.encode())
    answer.parameters["triton_final_response"].bool_param = final
    return message


async def _serve(script: Script) -> None:
    server = aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Server(script), server)
    port = server.add_insecure_port("localhost:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(Script(**json.loads(sys.argv[1]))))
