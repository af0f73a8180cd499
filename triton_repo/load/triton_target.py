"""Load over Triton's gRPC: one stream per request, its responses stamped as raw bytes and decoded afterwards.

It knows the four forms of model: text (ensemble, tensorrt_llm_bls), token ids (tensorrt_llm), and llmapi.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from tpforge.errors import UsageError
from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt
from triton_repo.client.channel import Tls
from triton_repo.client.client import Client, timeout_us
from triton_repo.client.wire import Response, Tensor, decode_response, encode_request, tensor
from triton_repo.load.exchange import Exchange, Failure, Piece, Reading
from triton_repo.load.grpc_stream import Streams

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
NUM_INPUT, NUM_OUTPUT = "num_input_tokens", "num_output_tokens"
LLMAPI = "llmapi"
LLMAPI_MODEL = "tensorrt_llm"
"""The name that TensorRT-LLM's llmapi repository gives its model."""

Form = Literal["text", "tokens", "llmapi"]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class TritonModel:
    """A model as the server describes it: its form, its inputs with their types, its batch dimension.

    `is_cumulative`: each response repeats the text so far.
    """

    name: str
    form: Form
    inputs: Mapping[str, str]
    batched: bool
    is_cumulative: bool
    max_batch_size: int
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class TritonOptions:
    """How the server is asked; `sampling` are inputs of the model by name, alike for every request."""

    deadline_s: float = 60.0
    streaming: bool = True
    sampling: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None


def describe_model(client: Client, name: str) -> TritonModel:
    """What kind of model `name` is, by the server's metadata; ``llmapi`` is upstream's name too.

    Raises:
        RequestRefused: the server has no such model.
        UsageError: it takes neither text_input nor input_ids.
        ServerUnreachable: nothing answers.
    """
    if name == LLMAPI and LLMAPI not in {model.name for model in client.models()}:
        name = LLMAPI_MODEL
    config = client.config(name)
    inputs = {item.name: item.datatype for item in client.metadata(name).inputs}
    if "sampling_param_max_tokens" in inputs:
        form: Form = "llmapi"
    elif "text_input" in inputs:
        form = "text"
    elif "input_ids" in inputs:
        form = "tokens"
    else:
        raise UsageError(
            f"model {name} takes neither text_input nor input_ids, only {', '.join(sorted(inputs))}; "
            "give --model ensemble, tensorrt_llm_bls, tensorrt_llm or llmapi"
        )
    parameters = {key: str(value.string_value) for key, value in config.parameters.items()}
    accumulates = parameters.get("accumulate_tokens", "").lower() in ("true", "1")
    return TritonModel(
        name=name,
        form=form,
        inputs=inputs,
        batched=config.max_batch_size > 0,
        is_cumulative=form == "llmapi" or accumulates,
        max_batch_size=int(config.max_batch_size),
        parameters=parameters,
    )


class TritonTarget:
    """A model of a Triton server; `encode` gives a prompt's token ids, which only the form "tokens" needs.

    Raises:
        UsageError: a name of `options.sampling` is no input of the model, or the tokenizer is missing.
    """

    def __init__(
        self, url: str, model: TritonModel, *, options: TritonOptions, encode: Encode | None = None
    ) -> None:
        if unknown := sorted(set(options.sampling) - set(model.inputs)):
            raise UsageError(
                f"{model.name} has no input {', '.join(unknown)}; it has {', '.join(sorted(model.inputs))}"
            )
        if model.form == "tokens" and encode is None:
            raise UsageError(f"{model.name} takes token ids: give the tokenizer with --engine or --tokenizer")
        self.model, self.options, self._encode = model, options, encode
        self._streams = Streams(
            url, METHOD, deadline_s=options.deadline_s, headers=options.headers, tls=options.tls
        )
        self.url = self._streams.url
        self._requests: dict[str, bytes] = {}

    async def open(self) -> None:
        """Connect; an address where nothing listens shows at the first request."""
        await self._streams.open()

    async def close(self) -> None:
        """Close the channel."""
        await self._streams.close()

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Serialize a request for every prompt."""
        for prompt in prompts:
            message = encode_request(
                self.model.name,
                self._tensors(prompt),
                parameters={"timeout": timeout_us(self.options.deadline_s)},
            )
            self._requests[prompt.id] = message.SerializeToString()

    async def run(self, exchange: Exchange) -> None:
        """A stream of its own: one request, then responses until the server closes it."""
        # Messages that are put in a row are one message: the id is added without encoding all again.
        request_id = service_pb2.ModelInferRequest(id=uuid.uuid4().hex).SerializeToString()
        request = self._requests[exchange.prompt.id] + request_id
        await self._streams.put_on(request, exchange)

    def read(self, exchange: Exchange) -> Reading:
        """Decode the responses of a stream that is over."""
        pieces: list[Piece] = []
        said: dict[str, Any] = {}
        failure, final, whole = exchange.failure, False, ""
        for at, raw in zip(exchange.arrivals, exchange.pieces, strict=True):
            try:
                response = decode_response(service_pb2.ModelStreamInferResponse.FromString(raw))
                text, token_ids = self._content(response)
            except (DecodeError, ValueError, KeyError, UnicodeDecodeError) as error:
                failure = failure or Failure("malformed", f"{type(error).__name__}: {error}")
                break
            if response.error is not None:
                failure = failure or Failure("refused", response.error)
                break
            final = final or response.final
            if self.model.is_cumulative and text:
                text, whole = text.removeprefix(whole), text
            # Of this response alone, streamed or not: TensorRT-LLM, triton_backend/inflight_batcher_llm/src/
            # model_instance_state.cc, fillTritonResponse.
            pieces.append(Piece(at, text, token_ids, num_tokens=_number(response.outputs, NUM_OUTPUT)))
            said.update(response.outputs)
        found = tuple(piece for piece in pieces if not piece.is_empty)
        counts = [piece.num_tokens for piece in pieces if piece.num_tokens is not None]
        if failure is None and not final:
            failure = Failure("incomplete", "the stream ended without its final response")
        return Reading(
            pieces=found,
            text="".join(piece.text for piece in found),
            failure=failure,
            input_tokens=_number(said, NUM_INPUT),
            output_tokens=sum(counts) if counts else None,
            finish_reason=_word(said, "finish_reason"),
        )

    def _content(self, response: Response) -> tuple[str, tuple[int, ...] | None]:
        """Text and token ids of a response; neither when it is an error or only carries the flag."""
        if not response.outputs:
            return "", None
        if self.model.form == "tokens":
            length = int(response.outputs["sequence_length"].reshape(-1)[0])
            ids = response.outputs["output_ids"].reshape(-1)[:length]
            return "", tuple(int(token) for token in ids)
        pieces = response.outputs["text_output"].reshape(-1)
        return b"".join(pieces).decode("utf-8", errors="replace"), None

    def _tensors(self, prompt: Prompt) -> list[Tensor]:
        """The inputs of one request, with a batch dimension of one where the model has it."""
        values: dict[str, Any] = dict(self.options.sampling)
        max_tokens = prompt.max_tokens or DEFAULT_MAX_TOKENS
        if self.model.form == "tokens":
            assert self._encode is not None
            ids = list(self._encode(prompt.text))
            values |= {"input_ids": ids, "input_lengths": len(ids), "request_output_len": max_tokens}
            values |= {"streaming": True} if self.options.streaming else {}
        elif self.model.form == "llmapi":
            values |= {"text_input": prompt.text, "sampling_param_max_tokens": max_tokens}
            values |= {"sampling_param_exclude_input_from_output": True, "return_finish_reason": True}
            values |= {"streaming": True} if self.options.streaming else {}
        else:
            values |= {"text_input": prompt.text, "max_tokens": max_tokens}
            values |= {"stream": True} if self.options.streaming else {}
            # So many the server made, which a tokenizer cannot tell of their text.
            values |= {f"return_{NUM_INPUT}": True, f"return_{NUM_OUTPUT}": True}
        if self.model.form != "llmapi":
            values.setdefault("exclude_input_in_output", True)
        if prompt.min_tokens and "min_tokens" in self.model.inputs:
            values["min_tokens"] = prompt.min_tokens
        known = self.model.inputs
        return [self._tensor(name, value) for name, value in values.items() if name in known]

    def _tensor(self, name: str, value: Any) -> Tensor:
        row = list(value) if isinstance(value, list | tuple) else [value]
        return tensor(name, self.model.inputs[name], [row] if self.model.batched else row)


def _number(outputs: Mapping[str, Any], name: str) -> int | None:
    return int(outputs[name].reshape(-1)[0]) if name in outputs else None


def _word(outputs: Mapping[str, Any], name: str) -> str | None:
    if name not in outputs:
        return None
    value = outputs[name].reshape(-1)[0]
    return value.decode("utf-8", errors="replace") or None
