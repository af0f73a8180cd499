"""Checks of HTTP requests that are wrong: each gets an error that names the field, and the server lives on.

The table says what is wrong; one function sends it and asks the canary afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triton_repo.client.openai import HttpRefused
from triton_repo.smoke.check import CANARY_TOKENS, Failed, Skipped, expect, expect_equal
from triton_repo.smoke.openai.target import APIS, OpenAiTarget

_BIG_PROMPT_BYTES = 10_000_000
Make = Callable[[OpenAiTarget, str], "dict[str, Any] | bytes"]


@dataclass(frozen=True)
class Malformed:
    """A wrong request: what is wrong, the words one of which its error must say, and how it is made.

    Servers call a field by its name, or by that of what they make of it: words are compared without regard
    to case, with a space for an underscore.
    """

    name: str
    what: str
    words: tuple[str, ...]
    make: Make
    apis: tuple[str, ...] = ("completions",)


def run_malformed(target: OpenAiTarget, case: Malformed, api: str) -> None:
    """Send the wrong request; pass when it is refused by name and the next request is answered as before."""
    target.require(api)
    expected = target.canary
    body = case.make(target, api)
    try:
        value = target.client.ask(APIS[api], body)
    except HttpRefused as error:
        refused = error
    else:
        raise Failed(f"{case.what}: answered ({json.dumps(value)[:300]}), expected an error of HTTP 4xx")
    expect(400 <= refused.status < 500, f"{case.what}: HTTP {refused.status}, expected 4xx: {refused}")
    said = error_message(refused.body)
    if said is None:
        raise Failed(f"{case.what}: the error is no JSON with a message: {refused}")
    plain = said.lower().replace("_", " ")
    named = any(re.search(rf"\b{re.escape(word.replace('_', ' '))}s?\b", plain) for word in case.words)
    expect(named, f"{case.what}: the error does not name {' or '.join(case.words)}: {said}")
    found = target.ask("completions", target.prompt, max_tokens=CANARY_TOKENS).text
    expect_equal(found, expected, what="the canary's answer afterwards")


def error_message(body: str) -> str | None:
    """All that an error says; None when it is of none of the forms that OpenAI's client shows.

    They are OpenAI's {"error": {"message", "param"}}, trtllm-serve's {"message"} and {"error": TEXT}, and
    FastAPI's {"detail"}.
    """
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    error = value.get("error", value)
    if isinstance(error, str):
        return error
    if not isinstance(error, dict) or not (error.get("message") or error.get("detail")):
        return None
    return " ".join(str(error[key]) for key in ("message", "param", "detail") if error.get(key))


def _with(**fields: Any) -> Make:
    """A sound request with some fields replaced or added."""
    return lambda target, api: {**target.body(api, target.prompt, max_tokens=CANARY_TOKENS), **fields}


def _without(field: str) -> Make:
    def make(target: OpenAiTarget, api: str) -> dict[str, Any]:
        sound = target.body(api, target.prompt, max_tokens=CANARY_TOKENS)
        return {key: value for key, value in sound.items() if key != field}

    return make


def _raw(data: bytes) -> Make:
    return lambda _target, _api: data


def _over_long(target: OpenAiTarget, api: str) -> dict[str, Any]:
    if target.manifest is None:
        raise Skipped("no engine is known (--engine), and so no max_seq_len")
    # No tokenizer makes fewer tokens of it than words... but one may merge repeated ones: these differ.
    words = " ".join(str(number * 7919) for number in range(target.manifest.limits.max_seq_len + 1))
    return target.body(api, words, max_tokens=CANARY_TOKENS)


def _big(target: OpenAiTarget, api: str) -> dict[str, Any]:
    return target.body(api, "word " * (_BIG_PROMPT_BYTES // 5), max_tokens=CANARY_TOKENS)


BOTH = ("completions", "chat")
_JSON = ("json", "body", "expected", "parsing", "input")
_LENGTH = ("max_tokens", "max_new_tokens", "max_completion_tokens")
_PROMPT = (
    "prompt",
    "max_seq_len",
    "input",
    "context length",
    "max_num_tokens",
    "message",
    "body",
    "too large",
)
CASES = (
    Malformed("no_json", "a body that is no JSON", _JSON, _raw(b'{"model": '), BOTH),
    Malformed("no_object", "a body that is a list", (*_JSON, "dictionary", "object"), _raw(b"[1, 2]")),
    Malformed("no_prompt", "prompt left out", ("prompt",), _without("prompt")),
    Malformed("no_messages", "messages left out", ("messages",), _without("messages"), ("chat",)),
    Malformed("no_role", "a message without role", ("role", "messages"),
              _with(messages=[{"content": "Hello"}]), ("chat",)),
    Malformed("messages_text", "messages that are text", ("messages",), _with(messages="Hello"), ("chat",)),
    Malformed("max_tokens_text", "max_tokens that is a word", _LENGTH, _with(max_tokens="four"), BOTH),
    Malformed("negative_max_tokens", "max_tokens -1", _LENGTH, _with(max_tokens=-1), BOTH),
    Malformed("negative_temperature", "temperature -0.5", ("temperature",), _with(temperature=-0.5), BOTH),
    Malformed("top_p_above_1", "top_p 2", ("top_p",), _with(top_p=2, temperature=1)),
    Malformed("zero_n", "n 0", ("n",), _with(n=0)),
    Malformed("stream_text", "stream that is a word", ("stream",), _with(stream="perhaps")),
    Malformed("stop_object", "stop that is an object", ("stop",), _with(stop={"word": "x"})),
    Malformed("seed_text", "seed that is a word", ("seed",), _with(seed="one")),
    Malformed("long_prompt", "a prompt over max_seq_len", _PROMPT, _over_long, BOTH),
    Malformed("huge_prompt", "a prompt of 10 MB", _PROMPT, _big),
)  # fmt: skip
