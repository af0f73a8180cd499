"""Checks of requests that are wrong: each gets an error that names the field, and the server lives on.

The table says what is wrong; one function sends it and asks the canary afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from triton_repo.client.client import RequestRefused
from triton_repo.client.wire import Tensor, tensor
from triton_repo.smoke.check import Skipped, Target, expect, expect_equal

_MAX_TOKENS = 4
_BIG_PROMPT_BYTES = 10_000_000


@dataclass(frozen=True)
class Malformed:
    """A wrong request: what is wrong, the field its error must name, and how it is made."""

    name: str
    field: str
    what: str
    make: Callable[[Target], list[Tensor]]


def run_malformed(target: Target, case: Malformed, model: str) -> None:
    """Send the wrong request; pass when it is refused by name and the next request is answered as before."""
    expected = target.canary
    tensors = case.make(target)
    try:
        responses = target.client.infer(model, tensors)
    except RequestRefused as error:
        message = str(error)
    else:
        texts = [str(response.outputs.get("text_output")) for response in responses]
        expect(
            False, f"{case.what}: answered ({', '.join(texts)}), expected an error that names {case.field}"
        )
    named = re.search(rf"\b{re.escape(case.field)}\b", message)
    expect(named is not None, f"{case.what}: the error does not name {case.field}: {message}")
    expect_equal(target.canary_again.answer(), expected, what="the canary's answer afterwards")


def _request(**changes: Tensor | None) -> Callable[[Target], list[Tensor]]:
    """A sound request with some tensors replaced, added, or (None) left out."""

    def make(target: Target) -> list[Tensor]:
        sound: dict[str, Tensor | None] = {
            "text_input": tensor("text_input", "BYTES", [[target.prompt]]),
            "max_tokens": tensor("max_tokens", "INT32", [[_MAX_TOKENS]]),
        }
        return [item for item in (sound | changes).values() if item is not None]

    return make


def _with(name: str, datatype: str, values: Any) -> Callable[[Target], list[Tensor]]:
    return _request(**{name: tensor(name, datatype, values)})


def _over_long(target: Target) -> list[Tensor]:
    if target.manifest is None:
        raise Skipped("no engine is known (--engine), and so no max_input_len")
    # No tokenizer makes fewer tokens of it than words... but one may merge repeated ones: these differ.
    words = " ".join(str(number * 7919) for number in range(target.manifest.limits.max_input_len + 1))
    return _with("text_input", "BYTES", [[words]])(target)


def _big(target: Target) -> list[Tensor]:
    return _with("text_input", "BYTES", [[b"word " * (_BIG_PROMPT_BYTES // 5)]])(target)


CASES = (
    Malformed("missing_input", "max_tokens", "max_tokens left out", _request(max_tokens=None)),
    Malformed("wrong_type", "max_tokens", "max_tokens as FP32", _with("max_tokens", "FP32", [[4.0]])),
    Malformed("wrong_shape", "max_tokens", "three max_tokens", _with("max_tokens", "INT32", [[4, 4, 4]])),
    Malformed("empty_prompt", "text_input", "an empty prompt", _with("text_input", "BYTES", [[""]])),
    Malformed("long_prompt", "text_input", "a prompt over max_input_len", _over_long),
    Malformed("negative_max_tokens", "max_tokens", "max_tokens -1", _with("max_tokens", "INT32", [[-1]])),
    Malformed("zero_max_tokens", "max_tokens", "max_tokens 0", _with("max_tokens", "INT32", [[0]])),
    Malformed("negative_top_k", "top_k", "top_k -1", _with("top_k", "INT32", [[-1]])),
    Malformed(
        "negative_temperature", "temperature", "temperature -0.5", _with("temperature", "FP32", [[-0.5]])
    ),
    Malformed(
        "invalid_utf8",
        "text_input",
        "a prompt that is not UTF-8",
        _with("text_input", "BYTES", [[b"\xff\xfe"]]),
    ),
    Malformed("huge_prompt", "text_input", "a prompt of 10 MB", _big),
)
