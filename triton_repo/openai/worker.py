"""A worker of Dynamo's front: passes token ids to a running Triton server and its tokens back.

It runs in Dynamo's own environment (`environment`), as ``python -m triton_repo.openai.worker SETTINGS``.
It generates nothing itself, and renders no template: the front has done that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from dynamo.common.backend import EngineConfig, LLMEngine, LlmRegistration, WorkerConfig
from dynamo.common.backend.run import run
from dynamo.llm.exceptions import EngineShutdown, InvalidArgument, Unknown
from tritonclient.grpc import service_pb2, service_pb2_grpc

from triton_repo.client.channel import Tls, aio_channel
from triton_repo.client.wire import decode_response, encode_request, tensor
from triton_repo.openai.answers import Chunk, Counted
from triton_repo.openai.refusals import Refusal, refusal_of
from triton_repo.openai.requests import RequestProblem, max_tokens, request_tensors
from triton_repo.openai.settings import WorkerSettings, read_settings

MODEL = "tensorrt_llm"
NAMESPACE, COMPONENT, ENDPOINT = "tpforge", "triton", "generate"
BLOCK_SIZE = 16
"""Tokens of a block by which a KV-aware router compares prompts; Triton's server has no say in it."""
_STOP_TIMEOUT_S = 5.0


class TritonEngine(LLMEngine):  # type: ignore[misc]
    """One Triton server as an engine of Dynamo."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._channel: Any = None
        self._stub: Any = None
        self._calls: dict[str, tuple[str, Any]] = {}
        self._stopped: set[str] = set()
        self._stops: set[asyncio.Task[None]] = set()

    @classmethod
    async def from_args(cls, argv: list[str] | None = None) -> tuple[TritonEngine, WorkerConfig]:
        """The engine of the settings in the file that the command line names, and how it is registered."""
        (place,) = sys.argv[1:] if argv is None else argv
        settings = read_settings(Path(place))
        config = WorkerConfig(
            namespace=NAMESPACE,
            component=COMPONENT,
            endpoint=ENDPOINT,
            model_name=settings.card,
            served_model_name=settings.model,
            endpoint_types=settings.endpoint_types,
            discovery_backend="file",
            request_plane="tcp",
            event_plane="zmq",
            tool_call_parser=settings.tool_call_parser,
            reasoning_parser=settings.reasoning_parser,
            enable_kv_routing=False,  # Triton tells nobody what it caches: a KV-aware front predicts it.
        )
        return cls(settings), config

    async def start(self, worker_id: int) -> EngineConfig:
        """Connect; what the front must know of the engine.

        Raises:
            EngineShutdown: the server does not answer, or has no such model.
        """
        settings = self._settings
        self._channel = aio_channel(settings.url, tls=_tls(settings))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            ready = await self._stub.ModelReady(service_pb2.ModelReadyRequest(name=MODEL), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise EngineShutdown(f"{settings.url}: {error.details()}") from error
        if not ready.ready:
            raise EngineShutdown(f"{settings.url}: the model {MODEL} is not ready")
        return EngineConfig(
            model=settings.card,
            served_model_name=settings.model,
            llm=LlmRegistration(
                context_length=settings.max_seq_len,
                kv_cache_block_size=BLOCK_SIZE,
                total_kv_blocks=settings.max_batch_size * settings.max_seq_len // BLOCK_SIZE,
                max_num_seqs=settings.max_batch_size,
                max_num_batched_tokens=settings.max_batch_size * settings.max_input_len,
            ),
        )

    async def generate(self, request: Any, context: Any) -> AsyncIterator[Chunk]:
        """The chunks of one request; closed early, it frees the request's place on the server.

        Raises:
            InvalidArgument: the request is refused.
            EngineShutdown: the server is gone; another worker may go on.
        """
        try:
            tensors = request_tensors(request, settings=self._settings)
            answer = Counted(
                num_prompt=len(request["token_ids"]),
                max_tokens=max_tokens(request, settings=self._settings),
            )
        except RequestProblem as error:
            raise InvalidArgument(str(error)) from error
        key, request_id = context.id(), uuid.uuid4().hex
        call = self._stub.ModelStreamInfer(_once(encode_request(MODEL, tensors, request_id=request_id)))
        self._calls[key] = (request_id, call)
        is_over = False
        try:
            async for message in call:
                response = decode_response(message)
                is_over = response.final or response.error is not None
                if response.error is not None:
                    raise _exception(refusal_of(response.error))
                if (chunk := answer.read(response)) is not None:
                    yield chunk
                if is_over:
                    break
            yield answer.end()
        except grpc.aio.AioRpcError as error:
            is_over = error.code() is grpc.StatusCode.UNAVAILABLE
            raise EngineShutdown(f"{self._settings.url}: {error.details()}") from error
        except asyncio.CancelledError:
            if key not in self._stopped:
                raise
            yield answer.end("cancelled")
        finally:
            del self._calls[key]
            self._stopped.discard(key)
            if not is_over:
                self._stop_soon(request_id, call)

    async def abort(self, context: Any) -> None:
        """End a request whose client is gone, or whose stop string the front has found."""
        found = self._calls.get(context.id())
        if found is not None:
            self._stopped.add(context.id())
            self._stop_soon(*found)

    async def cleanup(self) -> None:
        """Close the connection, once requests that were stopped are told of."""
        if self._stops:
            await asyncio.wait(self._stops, timeout=_STOP_TIMEOUT_S)
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    def _stop_soon(self, request_id: str, call: Any) -> None:
        """Free the place of a request at once: a cancelled call alone is noticed when the server looks."""
        call.cancel()
        task = asyncio.get_running_loop().create_task(self._stop(request_id))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stop(self, request_id: str) -> None:
        tensors = [
            tensor("input_ids", "INT32", [[0]]),
            tensor("input_lengths", "INT32", [[1]]),
            tensor("request_output_len", "INT32", [[1]]),
            tensor("stop", "BOOL", [[True]]),
        ]
        request = encode_request(MODEL, tensors, request_id=request_id)
        with suppress(grpc.aio.AioRpcError):
            async for _ in self._stub.ModelStreamInfer(_once(request), timeout=_STOP_TIMEOUT_S):
                pass


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


def _tls(settings: WorkerSettings) -> Tls | None:
    files = settings.tls
    if files is None:
        return None
    paths = (files.root_certificates, files.private_key, files.certificate_chain)
    roots, key, chain = (None if path is None else Path(path) for path in paths)
    return Tls(
        root_certificates=roots, private_key=key, certificate_chain=chain, server_name=files.server_name
    )


def _exception(refusal: Refusal) -> Any:
    """Dynamo's exception of a refusal: 400 for the client, tried elsewhere, or 500."""
    match refusal.kind:
        case "request":
            return InvalidArgument(refusal.message)
        case "lost" | "busy":
            return EngineShutdown(refusal.message)
        case "server":
            return Unknown(refusal.message)


if __name__ == "__main__":
    os.chdir("/")  # Nothing is read by a relative path, and no folder is kept from being removed.
    run(TritonEngine)
