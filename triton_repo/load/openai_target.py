"""Load on an OpenAI-compatible server (trtllm-serve, vLLM, ...): streamed completions, chat or plain.

So that alternatives are measured by the same tool. Only what these servers have in common is used.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt
from triton_repo.load.exchange import Exchange, Failure, Piece, Reading
from triton_repo.load.http_stream import Connection, Endpoint, MalformedAnswer, parse_answer

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
_DONE = "[DONE]"
_MAX_ERROR = 500


@dataclass(frozen=True)
class OpenAiOptions:
    """How the server is asked; `sampling` are fields of the request's body, alike for every request.

    With `chat`, a prompt is the user's message; else it is sent as it is.
    """

    deadline_s: float = 60.0
    streaming: bool = True
    chat: bool = False
    sampling: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    root_certificates: str | None = None


class OpenAiTarget:
    """A model of an OpenAI-compatible server at http://HOST:PORT.

    Raises:
        UsageError: `url` is something else.
    """

    def __init__(self, url: str, model: str, *, options: OpenAiOptions) -> None:
        self.url, self.model, self.options = url, model, options
        path = CHAT if options.chat else PLAIN
        self._endpoint = Endpoint.parse(url, path=path, root_certificates=options.root_certificates)
        self._requests: dict[str, bytes] = {}

    async def open(self) -> None:
        """Nothing: every request has a connection of its own."""

    async def close(self) -> None:
        """Nothing."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Serialize a request for every prompt."""
        for prompt in prompts:
            body = json.dumps(self._body(prompt), ensure_ascii=False).encode()
            self._requests[prompt.id] = self._endpoint.encode(body, headers=self.options.headers)

    async def run(self, exchange: Exchange) -> None:
        """Connect, send, and read until the server closes."""
        connection = Connection(self._endpoint, arrivals=exchange.arrivals, pieces=exchange.pieces)
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self.options.deadline_s):
                reader = await connection.send(self._requests[exchange.prompt.id])
                exchange.sent = now()
                await connection.receive(reader)
        except TimeoutError:
            message = f"no complete answer within {self.options.deadline_s:g} s"
            exchange.failure = Failure("timeout", message)
        except OSError as error:
            kind = "unreachable" if exchange.sent is None else "broken"
            exchange.failure = Failure(kind, f"{type(error).__name__}: {error}")  # type: ignore[arg-type]
        except asyncio.CancelledError:
            exchange.failure = Failure("cancelled", "this client gave up")
            raise
        finally:
            exchange.ended = now()
            connection.close()

    def read(self, exchange: Exchange) -> Reading:
        """Parse the answer of a request that is over."""
        failure = exchange.failure
        if not exchange.pieces:
            return Reading((), "", failure or Failure("broken", "the server closed without an answer"))
        try:
            answer = parse_answer(exchange.arrivals, exchange.pieces)
        except MalformedAnswer as error:
            return Reading((), "", failure or Failure("malformed", str(error)))
        if answer.status != 200:
            said = answer.body.decode("utf-8", errors="replace")[:_MAX_ERROR]
            return Reading((), "", failure or Failure("refused", f"HTTP {answer.status}: {said}"))
        if not answer.is_whole:
            failure = failure or Failure("broken", "the connection ended in the middle of the answer")
        return self._read_body(answer.pieces, failure)

    def _read_body(self, parts: Sequence[tuple[float, bytes]], failure: Failure | None) -> Reading:
        events = events_of(parts) if self.options.streaming else _whole_body(parts)
        pieces: list[Piece] = []
        usage: dict[str, Any] = {}
        finish, ended, counted, thought = None, not self.options.streaming, 0, False
        try:
            for at, data in events:
                if data == _DONE:
                    ended = True
                    break
                value = json.loads(data)
                if error := value.get("error"):
                    failure = failure or Failure("refused", json.dumps(error, ensure_ascii=False))
                    break
                usage = value.get("usage") or usage
                text = ""
                for choice in value.get("choices") or ():
                    finish = choice.get("finish_reason") or finish
                    thought = thought or bool(_thinking(_message(choice)))
                    text += text_of(choice)
                if text:
                    # Servers that count in every message say how many there are so far.
                    so_far = (value.get("usage") or {}).get("completion_tokens") or 0
                    pieces.append(Piece(at, text, num_tokens=max(0, so_far - counted) or None))
                    counted = max(counted, so_far)
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            failure = failure or Failure("malformed", f"{type(error).__name__}: {error}")
        if failure is None and not ended and finish is None:
            failure = Failure("incomplete", "the stream ended without a finish reason or [DONE]")
        if failure is None and not pieces and finish is None:
            failure = Failure("incomplete", "the answer holds no token and no finish reason")
        return Reading(
            pieces=tuple(pieces),
            text="".join(piece.text for piece in pieces),
            failure=failure,
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            hidden_tokens=0 if thought else _thoughts_told(usage),
            finish_reason=finish,
        )

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        options = self.options
        body: dict[str, Any] = {"model": self.model, "stream": options.streaming}
        if options.chat:
            body["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        body["max_tokens"] = prompt.max_tokens or DEFAULT_MAX_TOKENS
        if options.streaming:
            body["stream_options"] = {"include_usage": True}
        if prompt.min_tokens:
            # Extensions that trtllm-serve and vLLM share.
            body |= {"min_tokens": prompt.min_tokens, "ignore_eos": True}
        return body | dict(options.sampling)


def events_of(parts: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, str]]:
    """The data of every server-sent event, with the stamp of the read that completed it.

    An event without its blank line is dropped.

    Source: WHATWG HTML, server-sent events, "parsing an event stream"
    """
    waiting, data = b"", []
    for at, part in parts:
        *lines, waiting = (waiting + part).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", errors="replace")
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif not text and data:
                yield at, "\n".join(data)
                data = []


def _whole_body(parts: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, str]]:
    if parts:
        yield parts[-1][0], b"".join(part for _, part in parts).decode("utf-8", errors="replace")


def text_of(choice: dict[str, Any]) -> str:
    """The text of a choice: of a streamed or whole chat message, or of a plain completion.

    What a model thinks, calls or refuses is its answer as well. Servers name its thinking in two ways, and
    some send it under both names.
    Source: vLLM 0.11.2, reasoning outputs: ``reasoning``, once ``reasoning_content``; OpenAI's chunk object
    """
    message = _message(choice)
    parts = [_thinking(message), message.get("content"), message.get("refusal"), message.get("text")]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts += [function.get("name"), function.get("arguments")]
    return "".join(part for part in parts if isinstance(part, str))


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = choice.get("delta") or choice.get("message") or choice
    return found


def _thinking(message: dict[str, Any]) -> str:
    """What the model thinks in this message, once though it may be there twice."""
    named = dict.fromkeys((message.get("reasoning_content"), message.get("reasoning")))
    return "".join(part for part in named if isinstance(part, str))


def _thoughts_told(usage: dict[str, Any]) -> int:
    """How many of the tokens were thoughts, as far as the server tells."""
    return (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
