"""Answers of an OpenAI-compatible server by the reference runtime, over an engine's rank files.

Requests are refused as trtllm-serve refuses them: {"error": TEXT} for a body that does not fit its fields,
{"message", "type", "code"} for values that its sampling does not take. It is no TensorRT-LLM. A flaw, asked
for by the header `x-flaw`, makes it wrong in just that way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engines.chat import find_template, render_chat
from engines.reference import Event, Sampling, Scheduler
from engines.reference.sampling import RequestError

_TYPES: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,), "max_completion_tokens": (int,), "temperature": (int, float), "top_p": (int, float),
    "n": (int,), "seed": (int,), "stream": (bool,), "ignore_eos": (bool,), "min_tokens": (int,),
    "stream_options": (dict,), "model": (str,), "messages": (list,), "prompt": (str, list),
}  # fmt: skip


class Refused(Exception):
    """What is answered instead; `status` is the HTTP status."""

    def __init__(self, value: dict[str, Any], *, status: int = 400) -> None:
        super().__init__(str(value))
        self.value, self.status = value, status


@dataclass
class Piece:
    """Text as it became complete, with the tokens so far; `finish` is given once, at the end."""

    text: str
    num_tokens: int
    finish: str | None = None


class EngineAnswers:
    """One engine folder, loaded once."""

    def __init__(self, engine: Path) -> None:
        self._tokenizer_dir = engine / "tokenizer"
        self._tokenizer = Tokenizer.from_file(str(self._tokenizer_dir / "tokenizer.json"))
        self._scheduler = Scheduler(engine, num_threads=1)

    @property
    def num_running(self) -> int:
        counts = self._scheduler.counts()
        return counts.active + counts.waiting

    def read(self, body: bytes, *, is_chat: bool) -> dict[str, Any]:
        """The request in a body.

        Raises:
            Refused: it does not fit the fields.
        """
        try:
            value = json.loads(body)
        except ValueError as error:
            raise Refused(
                {"error": f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}]"}
            ) from None
        if not isinstance(value, dict):
            raise Refused({"error": "[{'loc': ('body',), 'msg': 'Input should be a valid dictionary'}]"})
        needed = "messages" if is_chat else "prompt"
        problems = [f"{needed}: Field required"] if needed not in value else []
        for name, kinds in _TYPES.items():
            given = value.get(name)
            wrong = isinstance(given, bool) and bool not in kinds
            if given is not None and (wrong or not isinstance(given, kinds)):
                problems.append(f"{name}: Input should be a valid {kinds[0].__name__}")
        stop = value.get("stop")
        if stop is not None and not isinstance(stop, str | list):
            problems.append("stop: Input should be a valid string or list")
        if is_chat and isinstance(value.get("messages"), list):
            problems += ["messages: role: Field required" for one in value["messages"] if "role" not in one]
        if problems:
            raise Refused({"error": str(problems)})
        return value

    def prompt_ids(self, asked: dict[str, Any], *, is_chat: bool, flaw: str = "") -> list[int]:
        """The prompt's tokens.

        Raises:
            Refused: there is no chat template, or the template refuses.
        """
        if not is_chat:
            # No token is so long: the prompt need not be tokenized to be refused.
            if len(asked["prompt"]) > 100 * self._scheduler.limits.max_seq_len:
                raise _bad("prompt: is longer than max_seq_len tokens can be")
            return list(self._tokenizer.encode(asked["prompt"]).ids)
        if find_template(self._tokenizer_dir) is None:
            raise _bad("the tokenizer has no chat template")
        text = render_chat(self._tokenizer_dir, asked["messages"])
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return [257, *ids] if flaw == "begin token doubled" else ids

    async def pieces(self, asked: dict[str, Any], ids: list[int], *, flaw: str = "") -> AsyncIterator[Piece]:
        """The answer as it becomes text; closing the iterator cancels the request.

        Raises:
            Refused: the sampling does not take a value.
        """
        sampling, stop = _sampling(asked, flaw=flaw)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            handle = self._scheduler.submit(ids, sampling, put)
        except RequestError as error:
            name = {"request_output_len": "max_tokens", "input_ids": "prompt"}.get(error.field, error.field)
            raise _bad(f"{name}: {error.message}") from None
        ended = False
        try:
            tokens: list[int] = []
            said = ""
            while not ended:
                event = await events.get()
                if event.error is not None:
                    raise _bad(event.error)
                tokens += event.token_ids
                text = self._tokenizer.decode(tokens)
                cuts = [text.find(word) for word in stop if word in text]
                finish = None
                if cuts and flaw != "ignores stop":
                    ended, finish, text = True, "stop", text[: min(cuts)]
                elif event.finished:
                    ended, finish = True, "length" if len(tokens) == sampling.max_tokens else "stop"
                elif text.endswith("\ufffd"):
                    continue  # A character that is not whole yet.
                new, said = text[len(said) :], text
                yield Piece(new, len(tokens), finish)
        finally:
            # A stop word ends it for the client; the runtime must be told.
            if flaw != "goes on alone":
                self._scheduler.cancel(handle)


def _sampling(asked: dict[str, Any], *, flaw: str) -> tuple[Sampling, list[str]]:
    count = asked.get("max_completion_tokens") or asked.get("max_tokens", 16)
    temperature = asked.get("temperature")
    temperature = 1.0 if temperature is None else float(temperature)
    top_p = asked.get("top_p")
    for name, value, is_right in (
        ("max_tokens", count, count > 0),
        ("temperature", temperature, temperature >= 0),
        ("top_p", top_p, top_p is None or 0 <= top_p <= 1),
        ("n", asked.get("n", 1), asked.get("n", 1) > 0),
    ):
        if not is_right and flaw != f"takes any {name}":
            raise _bad(f"{name} {value} is out of range")
    stop = asked.get("stop") or []
    seed = asked.get("seed") if flaw != "ignores seed" else 7
    greedy = temperature == 0
    return Sampling(
        max_tokens=max(1, count - (flaw == "one token too few")),
        end_id=-1 if asked.get("ignore_eos") else None,
        temperature=1.0 if greedy else temperature,
        top_k=1 if greedy else 50,
        seed=seed,
        min_tokens=asked.get("min_tokens") or 0,
    ), [stop] if isinstance(stop, str) else list(stop)


def _bad(message: str) -> Refused:
    return Refused({"object": "error", "message": message, "type": "BadRequestError", "code": 400})
