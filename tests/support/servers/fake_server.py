"""A server that keeps the contract, in a few lines of Python, that can be told to break it in one way.

Its model says the words w0 ... w99: what it answers depends on the prompt alone, or on the seed. It stands
below `Client`, so that the client's own logic is used as it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2

from triton_repo.client.client import (
    Client,
    ModelMetadata,
    ModelState,
    RequestRefused,
    Stream,
    TensorMetadata,
)
from triton_repo.client.wire import Parameter, Response, Tensor, tensor
from triton_repo.render.contract import MODELS, TensorContract, expected_tensors

SECONDS_A_TOKEN = 0.05
MAX_INPUT_LEN = 64
MAX_SEQ_LEN = 2048
_NUM_WORDS = 100


class Clock:
    """Time that passes only when someone waits or a token is made."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def encode(text: str) -> tuple[int, ...]:
    """A token a word; a word of ours is its number, another one some number above."""
    return tuple(
        int(word[1:]) if word[:1] == "w" and word[1:].isdigit() else 1000 + len(word) for word in text.split()
    )


def decode(tokens: Sequence[int]) -> str:
    return "".join(f" w{token}" for token in tokens)


def greedy(prompt_ids: Sequence[int], count: int) -> list[int]:
    """Different for different prompts, without repetition at the start."""
    start = (sum(prompt_ids) + len(prompt_ids)) % _NUM_WORDS
    return [(start + 7 * index) % _NUM_WORDS for index in range(count)]


class FakeStream(Stream):
    """Responses as they are made; cancelling frees the slot unless the server is flawed."""

    def __init__(self, server: FakeServer, responses: Iterator[Response], *, reaches_generator: bool) -> None:
        self._server, self._responses, self._reaches = server, responses, reaches_generator

    def __iter__(self) -> Iterator[Response]:
        return self._responses

    def cancel(self) -> None:
        if self._reaches and self._server.flaw not in ("ignores cancellation", "too fast to tell"):
            self._server.active = 0


class FakeServer(Client):
    """A client whose server is itself; `flaw` names the one way in which it is wrong."""

    def __init__(self, flaw: str = "", *, clock: Clock | None = None, compute_dtype: str = "auto") -> None:
        self.flaw, self.clock, self.compute_dtype = flaw, clock or Clock(), compute_dtype
        self.active = 0
        self.stopped: set[str] = set()
        self.num_requests = 0
        self.broken = False
        self.deadline_s = 1.0

    def close(self) -> None:
        pass

    def is_live(self) -> bool:
        return self.flaw != "not live"

    def is_ready(self) -> bool:
        return self.flaw != "not ready"

    def is_model_ready(self, model: str) -> bool:
        return self.flaw != "model not ready"

    def models(self) -> tuple[ModelState, ...]:
        names = MODELS[:-1] if self.flaw == "model missing" else MODELS
        state = "UNAVAILABLE" if self.flaw == "model unavailable" else "READY"
        return tuple(ModelState(name, state, "") for name in names)

    def metadata(self, model: str) -> ModelMetadata:
        contract = expected_tensors(model)
        inputs = [_described(item) for item in contract.inputs]
        outputs = [_described(item) for item in contract.outputs]
        if self.flaw == "tensor missing":
            inputs.pop()
        elif self.flaw == "tensor too many":
            outputs.append(TensorMetadata("extra", "INT32", (-1, 1)))
        elif self.flaw == "tensor type":
            inputs[0] = TensorMetadata(inputs[0].name, "UINT8", inputs[0].shape, inputs[0].optional)
        elif self.flaw == "tensor shape":
            inputs[0] = TensorMetadata(inputs[0].name, inputs[0].datatype, (1,), inputs[0].optional)
        elif self.flaw == "tensor optional":
            inputs[0] = TensorMetadata(inputs[0].name, inputs[0].datatype, inputs[0].shape, True)
        return ModelMetadata(tuple(inputs), tuple(outputs))

    def config(self, model: str) -> Any:
        """No parameter says that postprocessing notices abandoned streams, so the check asks to stop them."""
        config = model_config_pb2.ModelConfig(name=model)
        if self.compute_dtype and model == "tensorrt_llm":
            config.parameters["compute_dtype"].string_value = self.compute_dtype
        return config

    def max_batch_size(self, model: str) -> int:
        return 1 if self.flaw == "no batches" else 8

    def open(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        request_id: str = "",
        deadline_s: float | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Stream:
        given = {item.name: item for item in tensors}
        self.num_requests += 1
        answer = {
            "preprocessing": self._preprocess,
            "postprocessing": self._postprocess,
            "tensorrt_llm": self._generate_tokens,
        }.get(model, self._generate_text)
        responses = answer(given, request_id)
        return FakeStream(self, responses, reaches_generator=model != "ensemble")

    def _preprocess(self, given: dict[str, Tensor], _id: str) -> Iterator[Response]:
        ids = encode(given["QUERY"].values[0, 0].decode())
        words = (
            [word.decode() for word in given["STOP_WORDS_DICT"].values[0]]
            if "STOP_WORDS_DICT" in given
            else []
        )
        stop_ids = [token for word in words for token in encode(word)] or [0]
        ends = [len(stop_ids), *[-1] * (len(stop_ids) - 1)]
        yield _response(INPUT_ID=("INT32", [ids]), STOP_WORDS_IDS=("INT32", [[stop_ids, ends]]))

    def _postprocess(self, given: dict[str, Tensor], _id: str) -> Iterator[Response]:
        length = int(given["SEQUENCE_LENGTH"].values[0, 0])
        yield _response(OUTPUT=("BYTES", [decode(given["TOKENS_BATCH"].values[0, 0, :length].tolist())]))

    def _generate_tokens(self, given: dict[str, Tensor], request_id: str) -> Iterator[Response]:
        if "stop" in given:
            if self.flaw != "ignores stop":
                self.stopped.add(request_id)
                self.active = 0
            yield Response(outputs={}, final=True)
            return
        count = int(given["request_output_len"].values[0, 0])
        tokens = self._random_after(greedy([int(token) for token in given["input_ids"].values[0]], count))
        if self.flaw == "wrong tokens":
            tokens[-1] += 1
        if "streaming" in given:
            yield from self._streamed(tokens, request_id, index=0)
            return
        yield _response(output_ids=("INT32", [[tokens]]), sequence_length=("INT32", [[len(tokens)]]))

    def _generate_text(self, given: dict[str, Tensor], request_id: str) -> Iterator[Response]:
        if self.flaw == "refuses everything" or (message := _refusal(given)):
            yield self._refuse("no" if self.flaw == "refuses everything" else message)
            return
        if self.broken:
            raise RequestRefused("Stub process is not healthy")
        prompts = [row[0].decode() for row in given["text_input"].values]
        for index, prompt in enumerate(prompts):
            tokens = self._tokens(given, prompt)
            place = 0 if self.flaw == "one batch index" else index
            if "stream" in given:
                yield from self._streamed(tokens, request_id, index=place)
            else:
                is_last = index == len(prompts) - 1
                yield from self._whole(tokens, index=place, final=is_last)

    def _refuse(self, message: str) -> Response:
        if self.flaw == "answers malformed requests":
            return _text("fine", index=0, final=True)
        if self.flaw == "breaks on malformed requests":
            self.broken = True
        if self.flaw == "does not name the field":
            message = "invalid argument"
        return Response(outputs={}, final=True, error=message)

    def _tokens(self, given: dict[str, Tensor], prompt: str) -> list[int]:
        count = int(given["max_tokens"].values[0, 0])
        tokens = greedy(encode(prompt), count)
        if "seed" in given and self.flaw != "ignores seed":
            seed = int(given["seed"].values[0, 0]) + (
                self.num_requests if self.flaw == "seed forgotten" else 0
            )
            tokens = random.Random(seed).choices(range(_NUM_WORDS), k=count)
        if self.flaw == "random":
            tokens[0] = self.num_requests % _NUM_WORDS
        tokens = self._random_after(tokens)
        if self.flaw == "mixes concurrent clients" and self.num_requests % 2:
            tokens = greedy([self.num_requests], count)
        if "end_id" in given and self.flaw != "ignores end_id":
            end = int(given["end_id"].values[0, 0])
            tokens = tokens[: tokens.index(end)] if end in tokens else tokens
        if "stop_words" in given and self.flaw != "ignores stop words":
            word = encode(given["stop_words"].values[0, 0].decode())[0]
            tokens = tokens[: tokens.index(word) + 1] if word in tokens else tokens
            tokens = tokens[:2] if self.flaw == "stops anywhere" else tokens
        if self.flaw == "one token too many":
            tokens = [*tokens, 5]
        return tokens

    def _random_after(self, tokens: list[int]) -> list[int]:
        if not self.flaw.startswith("random after "):
            return tokens
        count = int(self.flaw.removeprefix("random after "))
        others = random.Random(self.num_requests).choices(range(_NUM_WORDS), k=len(tokens))
        return [*tokens[:count], *others[count:]]

    def _whole(self, tokens: list[int], *, index: int, final: bool) -> Iterator[Response]:
        if self.flaw == "streams unasked":
            middle = len(tokens) // 2
            yield _text(decode(tokens[:middle]), index=index, final=False)
            tokens = tokens[middle:]
        text = decode(tokens).strip() if self.flaw == "strips whole answers" else decode(tokens)
        yield _text(text, index=index, final=final and self.flaw != "no final flag")

    def _seconds(self, place: int) -> float:
        if self.flaw == "read late":  # All was made long ago; the client took its time over the first ones.
            return SECONDS_A_TOKEN if place < 10 else 0.0
        return 0.0001 if self.flaw.startswith("too fast") else SECONDS_A_TOKEN

    def _streamed(self, tokens: list[int], request_id: str, *, index: int) -> Iterator[Response]:
        pieces = [decode([token]) for token in tokens]
        if self.flaw == "wrong order":
            pieces[1], pieces[2] = pieces[2], pieces[1]
        elif self.flaw == "loses spaces":
            pieces = [piece.strip() for piece in pieces]
        elif self.flaw == "one chunk":
            pieces = ["".join(pieces)]
        elif self.flaw == "loses a chunk":
            pieces.pop(3)
        self.active = 0 if self.flaw in ("active not counted", "read late") else 1
        for place, piece in enumerate(pieces):
            self.clock.sleep(self._seconds(place))
            is_last = place == len(pieces) - 1 or request_id in self.stopped
            final = is_last or (self.flaw == "final twice" and place == 1)
            if self.flaw == "final too early":
                final = place == len(pieces) - 2
            separate = self.flaw in ("no final flag", "empty final response")
            yield _text(piece, index=index, final=final and not separate)
            if is_last:
                break
        self.active = 0
        if self.flaw == "empty final response":  # Not a flaw: upstream's BLS does it.
            yield Response(outputs={}, final=True)


class FakeMetrics:
    """The gauge of active requests of a fake server."""

    url = "http://fake/metrics"

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def read(self) -> int | None:
        return None if self._server.flaw == "no metrics" else self._server.active


def _described(item: TensorContract) -> TensorMetadata:
    return TensorMetadata(item.name, item.datatype, (-1, *item.dims), item.optional)


def _response(**tensors: tuple[str, Any]) -> Response:
    outputs = {name: tensor(name, datatype, values).values for name, (datatype, values) in tensors.items()}
    return Response(outputs=outputs, final=True)


def _text(text: str, *, index: int, final: bool) -> Response:
    outputs = {
        "text_output": tensor("text_output", "BYTES", [text]).values,
        "batch_index": tensor("batch_index", "INT32", [[index]]).values,
    }
    return Response(outputs=outputs, final=final)


def _refusal(given: dict[str, Tensor]) -> str:
    """What the server says to a malformed request; empty for a sound one."""
    if "max_tokens" not in given:
        return "missing required input(s): ['max_tokens']"
    if given["max_tokens"].datatype != "INT32":
        return "inference input 'max_tokens' data-type is 'FP32', expected 'INT32'"
    if given["max_tokens"].values.shape[1] != 1:
        return "unexpected shape for input 'max_tokens'"
    for name in ("max_tokens", "top_k", "temperature"):
        if name in given and (value := given[name].values[0, 0]) < (name == "max_tokens"):
            return f"{name}: {value} is too small"
    for row in given["text_input"].values:
        try:
            words = row[0].decode().split()
        except UnicodeDecodeError:
            return "text_input: is not UTF-8"
        if not 0 < len(words) <= MAX_INPUT_LEN:
            return f"text_input: {len(words)} tokens"
    return ""
