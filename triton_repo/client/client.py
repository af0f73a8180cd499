"""A client of the contract over Triton's gRPC: prompts in, answers out, whole or streamed.

It works with a decoupled deployment and with one that is not, because every request goes through a stream
of its own: that gives each a deadline, errors that cannot be mistaken for another's, and a way to cancel.
One client may be used by any number of threads at once. For load tests it is not meant: see `load`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tpforge.closing import Closing
from tpforge.errors import TpforgeError, UsageError
from triton_repo.client.answers import Answer, Chunk, ModelMetadata, ModelState, TensorMetadata
from triton_repo.client.channel import (
    DeadlineExceeded,
    RequestCancelled,
    RequestRefused,
    ServerUnreachable,
    Tls,
    check_url,
    open_channel,
    translate,
)
from triton_repo.client.wire import Parameter, Response, Tensor, decode_response, encode_request, tensor
from triton_repo.render.contract import expected_tensors

__all__ = [
    "Answer",
    "Chunk",
    "Client",
    "DeadlineExceeded",
    "ModelMetadata",
    "ModelState",
    "RequestCancelled",
    "RequestRefused",
    "ServerUnreachable",
    "Stream",
    "TensorMetadata",
    "Tls",
    "new_request_id",
    "prompt_tensors",
    "text_of",
]

DEFAULT_DEADLINE_S = 60.0
STOP_MODEL = "tensorrt_llm"
"""The model that ends a request when asked to by its id."""

_PASSES_NO_CANCELLATION = "ensemble"
_STOP_DEADLINE_S = 2.0

Scalar = bool | int | float | str | bytes
Sampling = Scalar | Sequence[str]


class Stream:
    """The responses to one request, as they come; to be read by one thread, cancelled by any."""

    def __init__(self, call: Any, *, url: str, deadline_s: float) -> None:
        self._call, self._url, self._deadline_s = call, url, deadline_s

    def __iter__(self) -> Iterator[Response]:
        """Every response until the server closes the stream, those that hold an error included.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestCancelled, RequestRefused: the stream broke.
        """
        try:
            for message in self._call:
                yield decode_response(message)
        except grpc.RpcError as error:
            raise translate(error, url=self._url, deadline_s=self._deadline_s) from None

    def cancel(self) -> None:
        """Tell the server that nobody waits any more."""
        self._call.cancel()


class Client(Closing):
    """A connection to one server, used as a context manager or closed by hand.

    `deadline_s` bounds every request that names none of its own. `headers` go with every request
    (authorization, ``triton-grpc-protocol-KEY``).
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.url = check_url(url)
        self.deadline_s = deadline_s
        self._headers = tuple((key.lower(), value) for key, value in (headers or {}).items())
        self._channel = open_channel(self.url, tls=tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Drop the connection; requests in flight are cancelled."""
        self._channel.close()

    def is_live(self) -> bool:
        """Whether the server's process answers."""
        return bool(self._ask("ServerLive", service_pb2.ServerLiveRequest()).live)

    def is_ready(self) -> bool:
        """Whether the server says that all its models are ready, which only a request can prove."""
        return bool(self._ask("ServerReady", service_pb2.ServerReadyRequest()).ready)

    def is_model_ready(self, model: str) -> bool:
        """Whether the server says that one model is ready."""
        return bool(self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model)).ready)

    def server_id(self) -> str:
        """The server's name for itself: ``--id``."""
        return str(self._ask("ServerMetadata", service_pb2.ServerMetadataRequest()).name)

    def models(self) -> tuple[ModelState, ...]:
        """Every model of the server's repository, loaded or not."""
        index = self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest())
        return tuple(ModelState(model.name, model.state, model.reason) for model in index.models)

    def unload(self, model: str) -> None:
        """Ask the server to unload a model, which it does only under explicit model control.

        Raises:
            RequestRefused: model control is off, as it is unless asked for.
        """
        self._ask("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name=model))

    def metadata(self, model: str) -> ModelMetadata:
        """The tensors of a model."""
        found = self._ask("ModelMetadata", service_pb2.ModelMetadataRequest(name=model))
        config = self.config(model)
        optional = {item.name for item in config.input if item.optional}
        return ModelMetadata(inputs=_tensors(found.inputs, optional), outputs=_tensors(found.outputs, set()))

    def max_batch_size(self, model: str) -> int:
        """How many prompts one request may hold, by the model's config."""
        return int(self.config(model).max_batch_size)

    def config(self, model: str) -> Any:
        """A model's config as the server has it: the ModelConfig protobuf."""
        return self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model)).config

    def server_version(self) -> str:
        """The version of Triton that answers."""
        return str(self._ask("ServerMetadata", service_pb2.ServerMetadataRequest()).version)

    def open(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        request_id: str = "",
        deadline_s: float | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Stream:
        """Send any tensors to any model, sound or not, and read the responses as they come."""
        deadline = self.deadline_s if deadline_s is None else deadline_s
        request = encode_request(model, tensors, request_id=request_id, parameters=parameters)
        call = self._stub.ModelStreamInfer(iter([request]), timeout=deadline, metadata=self._headers)
        return Stream(call, url=self.url, deadline_s=deadline)

    def infer(
        self, model: str, tensors: Sequence[Tensor], *, request_id: str = "", deadline_s: float | None = None
    ) -> tuple[Response, ...]:
        """Send any tensors to any model and wait for all responses.

        Raises:
            RequestRefused: the first error among them.
        """
        responses = tuple(self.open(model, tensors, request_id=request_id, deadline_s=deadline_s))
        for response in responses:
            if response.error is not None:
                raise RequestRefused(response.error)
        return responses

    def generate(
        self,
        prompt: str | bytes,
        *,
        max_tokens: int,
        model: str = "ensemble",
        stream: bool = False,
        request_id: str = "",
        deadline_s: float | None = None,
        **sampling: Sampling,
    ) -> Answer:
        """Ask one prompt and wait for all of the answer.

        `sampling` names the model's other inputs: temperature, top_k, top_p, seed, stop_words, end_id, ...
        The answer is without the prompt, unless ``exclude_input_in_output=False`` is among them.

        Raises:
            RequestRefused: the server refused it.
            DeadlineExceeded, ServerUnreachable: no answer, or not all of it.
        """
        chunks = tuple(
            self.chunks(
                prompt,
                max_tokens=max_tokens,
                model=model,
                stream=stream,
                request_id=request_id,
                deadline_s=deadline_s,
                **sampling,
            )
        )
        return Answer(text="".join(chunk.text for chunk in chunks), chunks=chunks)

    def chunks(
        self,
        prompt: str | bytes,
        *,
        max_tokens: int,
        model: str = "ensemble",
        stream: bool = True,
        request_id: str = "",
        deadline_s: float | None = None,
        **sampling: Sampling,
    ) -> Iterator[Chunk]:
        """The answer to one prompt piece by piece; leaving the loop early ends the request.

        The server is told of the deadline too, and ends a request whose client could not say any more.
        """
        tensors = prompt_tensors([prompt], max_tokens=max_tokens, model=model, stream=stream, **sampling)
        request_id = request_id or new_request_id()
        started = time.monotonic()
        opened = self.open(
            model,
            tensors,
            request_id=request_id,
            deadline_s=deadline_s,
            parameters={"timeout": timeout_us(self.deadline_s if deadline_s is None else deadline_s)},
        )
        is_over = False
        try:
            for response in opened:
                is_over = response.final or response.error is not None
                if response.error is not None:
                    raise RequestRefused(response.error)
                yield Chunk(text_of(response), time.monotonic() - started, response.final)
        except TpforgeError as error:
            # A request that was refused or never arrived is over; one past its deadline may go on.
            is_over = not isinstance(error, DeadlineExceeded)
            raise
        finally:
            opened.cancel()
            if not is_over and model == _PASSES_NO_CANCELLATION:
                self._stop_quietly(request_id)

    def generate_batch(
        self,
        prompts: Sequence[str | bytes],
        *,
        max_tokens: int,
        model: str = "ensemble",
        deadline_s: float | None = None,
        **sampling: Sampling,
    ) -> tuple[str, ...]:
        """Ask several prompts in one request; their answers in the prompts' order.

        Raises:
            RequestRefused: one of them was refused.
        """
        tensors = prompt_tensors(prompts, max_tokens=max_tokens, model=model, stream=False, **sampling)
        texts = [""] * len(prompts)
        for response in self.infer(model, tensors, deadline_s=deadline_s):
            if not response.is_empty:
                index = response.outputs.get("batch_index")
                texts[0 if index is None else int(index.reshape(-1)[0])] += text_of(response)
        return tuple(texts)

    def stop(self, request_id: str, *, model: str = STOP_MODEL, deadline_s: float | None = None) -> None:
        """End a request of that id, whoever sent it; an unknown id is no error.

        Cancelling a request to the ensemble does not reach its generating member; this does.
        """
        tensors = [
            tensor("input_ids", "INT32", [[0]]),
            tensor("input_lengths", "INT32", [[1]]),
            tensor("request_output_len", "INT32", [[1]]),
            tensor("stop", "BOOL", [[True]]),
        ]
        self.infer(model, tensors, request_id=request_id, deadline_s=deadline_s)

    def _stop_quietly(self, request_id: str) -> None:
        """Stop a request that nobody waits for any more; a server that cannot has its own ways to notice."""
        with suppress(TpforgeError):
            self.stop(request_id, deadline_s=_STOP_DEADLINE_S)

    def _ask(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=self.deadline_s, metadata=self._headers)
        except grpc.RpcError as error:
            raise translate(error, url=self.url, deadline_s=self.deadline_s) from None


def timeout_us(deadline_s: float) -> int:
    """A deadline as the request parameter `timeout`: whole microseconds, at least one."""
    return max(1, round(deadline_s * 1e6))


def new_request_id() -> str:
    """An id that no other request has; needed to stop a request."""
    return uuid.uuid4().hex


def prompt_tensors(
    prompts: Sequence[str | bytes], *, max_tokens: int, model: str, stream: bool, **sampling: Sampling
) -> list[Tensor]:
    """The inputs of `ensemble` or `tensorrt_llm_bls` for a batch of prompts, all with the same sampling.

    Answers are asked for without their prompts, which a server gives unless it is told otherwise.

    Raises:
        UsageError: the model has no such input.
    """
    datatypes = {item.name: item.datatype for item in expected_tensors(model).inputs}
    values: dict[str, Sampling] = {"max_tokens": max_tokens, "exclude_input_in_output": True, **sampling}
    if stream:
        values["stream"] = True
    tensors = [tensor("text_input", "BYTES", [[prompt] for prompt in prompts])]
    for name, value in values.items():
        if name not in datatypes:
            raise UsageError(f"{model} has no input {name!r}; it has {', '.join(sorted(datatypes))}")
        row = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        tensors.append(tensor(name, datatypes[name], [row] * len(prompts)))
    return tensors


def text_of(response: Response) -> str:
    """The text of a response; empty when it only carries the final flag.

    Raises:
        RequestRefused: it has outputs, but none of them is text_output.
    """
    if response.is_empty:
        return ""
    if "text_output" not in response.outputs:
        raise RequestRefused(f"the response has no text_output, only {', '.join(response.outputs)}")
    pieces = response.outputs["text_output"].reshape(-1)
    return b"".join(pieces).decode("utf-8", errors="replace")


def _tensors(described: Any, optional: set[str]) -> tuple[TensorMetadata, ...]:
    return tuple(
        TensorMetadata(item.name, item.datatype, tuple(item.shape), item.name in optional)
        for item in described
    )
