"""An OpenAI-compatible server by a script, on a virtual clock: the bytes of HTTP without a socket.

It stands where `triton_repo.load.openai_target` has its connection, so that all else of the client is real.
What it sends when is the truth that a test compares with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from tests.support.virtual_time import run_virtually
from tpforge.measure.runs.prompts import Prompt
from triton_repo.load import openai_target
from triton_repo.load.http_stream import Endpoint
from triton_repo.load.measuring import Measured, Plan, carry_out
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Message:
    """What is sent `at_s` after the request came: a chunk's delta, or text of a plain completion."""

    at_s: float
    content: str | dict[str, Any] = " w"
    usage: dict[str, int] | None = None


@dataclass(frozen=True)
class Answer:
    """What becomes of a request; `usage` is sent at the end, when there is one."""

    messages: Sequence[Message] = ()
    fate: Literal["whole", "refused", "unreachable", "broken", "hangs"] = "whole"
    usage: dict[str, int] | None = None
    finish: str | None = "length"


@dataclass(frozen=True)
class Asked:
    """A request as it came: its number from 0, when, and its body."""

    number: int
    at: float
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """How many it asks for."""
        return int(self.body["max_tokens"])


Script = Callable[[Asked], Answer]


def steadily(
    asked: Asked, *, ttft_s: float, itl_s: float, a_message: int = 1, usage: bool = True, wait_s: float = 0.0
) -> Answer:
    """A whole answer of `asked.num_tokens`: the first after `ttft_s`, then one every `itl_s`.

    With `a_message` tokens a message, a message goes when its last token is there; the first when its first
    would be, so that the time per token is `itl_s` still.
    """
    total = asked.num_tokens
    messages = [
        Message(wait_s + ttft_s + index * itl_s, " w" * min(a_message, total - index))
        for index in range(0, total, a_message)
    ]
    counts = {"prompt_tokens": 3, "completion_tokens": total}
    return Answer(messages, usage=counts if usage else None)


class Queue:
    """One worker that takes requests in their order, `service_s` for each."""

    def __init__(self, service_s: float) -> None:
        self.service_s, self._free_at = service_s, 0.0

    def __call__(self, asked: Asked) -> Answer:
        begin = max(asked.at, self._free_at)
        self._free_at = begin + self.service_s
        itl_s = self.service_s / asked.num_tokens
        return steadily(asked, ttft_s=itl_s, itl_s=itl_s, wait_s=begin - asked.at)


class _Server:
    """The script, and the count of what was asked of it."""

    def __init__(self, script: Script, *, dies_at: float) -> None:
        self.script, self.dies_at, self.num_asked = script, dies_at, 0

    def ask(self, body: dict[str, Any], at: float) -> Answer:
        if at >= self.dies_at:
            return Answer(fate="unreachable")
        self.num_asked += 1
        answer = self.script(Asked(self.num_asked - 1, at, body))
        in_time = [message for message in answer.messages if at + message.at_s < self.dies_at]
        if len(in_time) < len(answer.messages):
            return replace(answer, messages=in_time, fate="broken")
        return answer


def measure_virtually(
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    plan: Plan,
    *,
    dies_at: float = float("inf"),
    options: OpenAiOptions | None = None,
) -> Measured:
    """Carry out a plan against the script; the server is gone from `dies_at` on."""
    server = _Server(script, dies_at=dies_at)

    class Connection:
        def __init__(self, endpoint: Endpoint, *, arrivals: list[float], pieces: list[bytes]) -> None:
            self._arrivals, self._pieces = arrivals, pieces

        async def send(self, request: bytes) -> Answer:
            body = json.loads(request.partition(b"\r\n\r\n")[2])
            answer = server.ask(body, asyncio.get_running_loop().time())
            if answer.fate == "unreachable":
                raise ConnectionRefusedError("nobody listens")
            return answer

        async def receive(self, answer: Answer) -> None:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            if answer.fate == "refused":
                self._take(b"HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\nbusy")
                return
            self._take(_HEAD)
            for message in answer.messages:
                await asyncio.sleep(max(0.0, begun + message.at_s - loop.time()))
                self._take(_event(message.content, usage=message.usage))
            if answer.fate == "broken":
                # Until the server is gone, or at once where it only drops the connection.
                await asyncio.sleep(max(0.0, server.dies_at - loop.time()) % 1e9)
                raise ConnectionResetError("gone")
            if answer.fate == "hangs":
                await asyncio.sleep(1e6)
            if answer.finish is not None:
                self._take(_event("", finish=answer.finish))
            if answer.usage is not None:
                self._take(_chunk({"choices": [], "usage": answer.usage}))
            self._take(_raw(b"data: [DONE]\n\n") + b"0\r\n\r\n")

        def close(self) -> None: ...

        def _take(self, data: bytes) -> None:
            self._arrivals.append(asyncio.get_running_loop().time())
            self._pieces.append(data)

    monkeypatch.setattr(openai_target, "Connection", Connection)
    target = OpenAiTarget("http://virtual:1", "m", options=options or OpenAiOptions())
    return run_virtually(carry_out(target, plan))


def prompts_of(
    count: int, *, tokens: int, words: Callable[[int], int] = lambda number: 1
) -> tuple[Prompt, ...]:
    """Prompts that ask for so many tokens each; `words` says how long each is."""
    return tuple(
        Prompt(id=f"p{number}", text="x " * words(number), max_tokens=tokens) for number in range(count)
    )


def _event(
    content: str | dict[str, Any], *, usage: dict[str, int] | None = None, finish: str | None = None
) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    choice |= {"text": content} if isinstance(content, str) else {"delta": content}
    return _chunk({"choices": [choice], **({"usage": usage} if usage else {})})


def _chunk(value: dict[str, Any]) -> bytes:
    return _raw(b"data: " + json.dumps(value).encode() + b"\n\n")


def _raw(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
