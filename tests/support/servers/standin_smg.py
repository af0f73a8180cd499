"""A stand-in for `trtllm-serve --grpc`: TrtllmService, answered by the reference runtime over an engine.

Its messages are made of upstream's own descriptor, kept in tests/contract/upstream/trtllm_service.toml, and
not of the client's. It is no TensorRT-LLM. The metadata `x-flaw` makes it wrong in just that way. Run as
``python -m tests.support.servers.standin_smg ENGINE [PORT]``; it prints its port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

ROOT = Path(__file__).parents[3]
UPSTREAM = ROOT / "tests" / "contract" / "upstream" / "trtllm_service.toml"


def upstream_messages() -> dict[str, Any]:
    """The classes of upstream's messages; fields of kinds that are not kept are left out."""
    told = tomllib.loads(UPSTREAM.read_text())
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="up.proto", package=told["package"], syntax="proto3")
    for name, fields in told["messages"].items():
        message = file.message_type.add(name=name)
        for field, (number, declared) in fields.items():
            bare = declared.removesuffix("*")
            is_message = bare in told["messages"]
            if not is_message and bare[0].isupper():
                continue
            label = kind.LABEL_REPEATED if declared.endswith("*") else kind.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            added.type = kind.TYPE_MESSAGE if is_message else kind.Type.Value(f"TYPE_{bare.upper()}")
            if is_message:
                added.type_name = f".{told['package']}.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{told['package']}.{name}") for name in told["messages"]}
    return {name: message_factory.GetMessageClass(one) for name, one in found.items()}


UP = upstream_messages()


class _Service:
    def __init__(self, engine: Path) -> None:
        from engines.reference import Scheduler

        self._scheduler = Scheduler(engine, num_threads=1)
        self._engine = engine

    @property
    def limits(self) -> Any:
        return self._scheduler.limits

    async def generate(self, raw: bytes, context: Any) -> AsyncIterator[bytes]:
        import grpc

        from engines.reference import Event, Sampling
        from engines.reference.sampling import RequestError

        request = UP["GenerateRequest"].FromString(raw)
        flaw = dict(context.invocation_metadata()).get("x-flaw", "")
        asked, ids = request.sampling_config, list(request.tokenized.input_token_ids)
        if not request.HasField("tokenized") or not ids:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Missing tokenized input")
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        sampling = Sampling(
            max_tokens=max(1, request.max_tokens - (flaw == "one token too few"))
            if request.max_tokens or flaw == "takes no max_tokens"
            else 0,
            end_id=-1 if request.ignore_eos else None,
            temperature=asked.temperature or 1.0,
            top_k=asked.top_k or (1 if not asked.temperature else 50),
            seed=7 if flaw == "ignores seed" else asked.seed or None,
            min_tokens=asked.min_tokens,
        )
        try:
            handle = self._scheduler.submit(ids, sampling, put)
        except RequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{error.field}: {error.message}")
            return
        ended, made = False, list[int]()
        try:
            while not ended:
                event = await events.get()
                if event.error is not None:
                    await context.abort(grpc.StatusCode.INTERNAL, event.error)
                made += event.token_ids
                ended = event.finished
                if request.streaming and event.token_ids:
                    again = made if flaw == "repeats tokens" else event.token_ids
                    yield self._chunk(request, again, ids, made)
            if flaw != "no end":
                yield self._complete(request, ids, made)
        finally:
            self._scheduler.cancel(handle)

    def _chunk(self, request: Any, tokens: Any, ids: list[int], made: list[int]) -> bytes:
        response = UP["GenerateResponse"](request_id=request.request_id)
        response.chunk.token_ids.extend(tokens)
        response.chunk.prompt_tokens, response.chunk.completion_tokens = len(ids), len(made)
        return bytes(response.SerializeToString())

    def _complete(self, request: Any, ids: list[int], made: list[int]) -> bytes:
        response = UP["GenerateResponse"](request_id=request.request_id)
        response.complete.output_token_ids.extend(made)
        response.complete.finish_reason = "length" if len(made) == request.max_tokens else "stop"
        response.complete.prompt_tokens, response.complete.completion_tokens = len(ids), len(made)
        return bytes(response.SerializeToString())

    async def health(self, _raw: bytes, _context: Any) -> bytes:
        return bytes(UP["HealthCheckResponse"](status="OK").SerializeToString())

    async def model_info(self, _raw: bytes, _context: Any) -> bytes:
        limits = self._scheduler.limits
        found = UP["GetModelInfoResponse"](
            model_id=str(self._engine), max_input_len=limits.max_input_len, max_seq_len=limits.max_seq_len
        )
        return bytes(found.SerializeToString())


async def serve(engine: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
    import grpc
    from grpc import aio

    service = _Service(engine)
    server = aio.server()
    handlers = {
        "Generate": grpc.unary_stream_rpc_method_handler(service.generate),
        "HealthCheck": grpc.unary_unary_rpc_method_handler(service.health),
        "GetModelInfo": grpc.unary_unary_rpc_method_handler(service.model_info),
    }
    told = tomllib.loads(UPSTREAM.read_text())
    name = f"{told['package']}.{told['service']}"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    taken = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    print(taken, flush=True)
    await server.wait_for_termination()


@contextmanager
def standin_smg(engine: Path) -> Iterator[str]:
    """HOST:PORT of a stand-in in a process of its own."""
    command = [sys.executable, "-m", "tests.support.servers.standin_smg", str(engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), port=int(sys.argv[2]) if len(sys.argv) > 2 else 0))
