"""The OpenAI-compatible server under test, what is known of its engine, and its answers as checks read them.

It checks nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from tpforge.manifest import GoldenAnswer, Manifest
from triton_repo.client.openai import CHAT, DONE, PLAIN, HttpRefused, OpenAiClient, OpenAiStream, text_of
from triton_repo.smoke.check import CANARY_TOKENS, DEFAULT_PROMPTS, Failed, Skipped, counted_golden
from triton_repo.smoke.openai.running import Running

APIS = {"completions": PLAIN, "chat": CHAT}


class PromptTokens(Protocol):
    """Counts by the engine's tokenizer, apart from the server's."""

    def in_prompt(self, text: str) -> int:
        """How many a plain prompt has, with the special tokens that the tokenizer adds."""

    def in_conversation(self, messages: Sequence[dict[str, str]]) -> int | None:
        """How many a conversation has in the chat template, applied once; None without a template."""


@dataclass(frozen=True)
class Usage:
    """What the server counted."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Reply:
    """The only choice of a whole answer, or of a stream that ended; `value` is all of it as it came."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    pieces: tuple[str, ...]
    value: dict[str, Any]


@dataclass(frozen=True)
class OpenAiTarget:
    """A model of a server; `running` counts its requests where it tells."""

    client: OpenAiClient
    model: str
    manifest: Manifest | None = None
    tokens: PromptTokens | None = None
    running: Running | None = None
    num_clients: int = 8

    @cached_property
    def _counted(self) -> tuple[tuple[GoldenAnswer, int], ...]:
        return counted_golden(self.manifest)

    @property
    def golden(self) -> tuple[GoldenAnswer, ...]:
        """The engine's golden answers whose first token at least rounding cannot change."""
        return tuple(answer for answer, _count in self._counted)

    @property
    def prompt(self) -> str:
        """A prompt that the model has something to say to."""
        return self.prompts[0]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Several prompts, all different."""
        return tuple(answer.prompt for answer in self.golden) or DEFAULT_PROMPTS

    def num_decisive(self, prompt: str, most: int) -> int:
        """How many greedy tokens of a prompt do not depend on rounding, at most `most`."""
        known = {answer.prompt: count for answer, count in self._counted}
        return min(most, known.get(prompt, most))

    def body(self, api: str, prompt: str, *, max_tokens: int, **fields: Any) -> dict[str, Any]:
        """A greedy request; `fields` are added or replace."""
        asked: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens, "temperature": 0}
        asked |= {"messages": messages_of(prompt)} if api == "chat" else {"prompt": prompt}
        return asked | fields

    def ask(self, api: str, prompt: str, *, max_tokens: int, **fields: Any) -> Reply:
        """The answer to a request that is not streamed.

        Raises:
            HttpRefused, ServerUnreachable, DeadlineExceeded: there is none.
        """
        return read_reply(self.client.ask(APIS[api], self.body(api, prompt, max_tokens=max_tokens, **fields)))

    def open(self, api: str, prompt: str, *, max_tokens: int, **fields: Any) -> OpenAiStream:
        """The answer to a request that is streamed; to be closed.

        Raises:
            HttpRefused, ServerUnreachable, DeadlineExceeded: there is none.
        """
        fields = {"stream_options": {"include_usage": True}, **fields}
        return self.client.stream(APIS[api], self.body(api, prompt, max_tokens=max_tokens, **fields))

    @cached_property
    def canary(self) -> str:
        """The answer to the canary prompt, as it was when first asked for."""
        return self.ask("completions", self.prompt, max_tokens=CANARY_TOKENS).text

    def alone(self, api: str, prompt: str, *, max_tokens: int) -> str:
        """The answer to a prompt that nothing else runs beside; asked once."""
        known = self._alone
        if (api, prompt, max_tokens) not in known:
            known[api, prompt, max_tokens] = self.ask(api, prompt, max_tokens=max_tokens).text
        return known[api, prompt, max_tokens]

    @cached_property
    def _alone(self) -> dict[tuple[str, str, int], str]:
        return {}

    def require(self, api: str) -> None:
        """Skip what asks chat of a model without a chat template.

        Raises:
            Skipped: it has none.
        """
        if api == "chat" and not self._has_chat:
            raise Skipped("the tokenizer has no chat template, and the server refuses a sound chat request")

    @cached_property
    def _has_chat(self) -> bool:
        if self.tokens is not None:
            return self.tokens.in_conversation(messages_of(self.prompt)) is not None
        try:
            self.ask("chat", self.prompt, max_tokens=1)
        except HttpRefused:
            return False
        return True


def messages_of(prompt: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": prompt}]


def read_reply(value: dict[str, Any]) -> Reply:
    """A whole answer.

    Raises:
        Failed: it has not one choice.
        KeyError, TypeError: it is not of OpenAI's form.
    """
    choices = value["choices"]
    if len(choices) != 1:
        raise Failed(f"{len(choices)} choices in an answer to a request for 1")
    text = text_of(choices[0])
    return Reply(text, choices[0]["finish_reason"], usage_of(value), (text,) if text else (), value)


def usage_of(value: dict[str, Any]) -> Usage | None:
    """The usage in an answer or a chunk; None when there is none."""
    found = value.get("usage")
    return None if found is None else Usage(found["prompt_tokens"], found["completion_tokens"])


def read_stream(events: Sequence[str]) -> Reply:
    """A stream that came to its end: its chunks in order, the finish reason once, then [DONE] as the last.

    Raises:
        Failed: it is something else.
        KeyError, TypeError, ValueError: a chunk is not of OpenAI's form.
    """
    if not events or events[-1] != DONE:
        raise Failed(f"the stream ended with {events[-1] if events else 'nothing'!r}, expected {DONE}")
    if (count := events.count(DONE)) != 1:
        raise Failed(f"{DONE} came {count} times, expected once")
    chunks = [json.loads(event) for event in events[:-1]]
    pieces, finish, usage = [], None, None
    for chunk in chunks:
        usage = usage_of(chunk) or usage
        for choice in chunk["choices"]:
            text = text_of(choice)
            if finish is not None and text:
                raise Failed(f"text {text!r} came after the finish reason {finish!r}")
            pieces += [text] if text else []
            reason = choice.get("finish_reason")
            if reason is not None and finish is not None:
                raise Failed(f"two finish reasons in one stream: {finish!r}, {reason!r}")
            finish = reason or finish
    return Reply("".join(pieces), finish, usage, tuple(pieces), {"chunks": chunks})
