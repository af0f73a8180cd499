"""What an error of Triton is for a client of OpenAI's API: its own fault, by the field's name, or ours.

It raises nothing: `worker` turns the kind into an exception of Dynamo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from triton_repo.render.contract import expected_tensors

Kind = Literal["request", "busy", "lost", "server"]
"""Wrong in the request; no place for it now; the server is gone, another may answer; anything else."""

_FIELD = re.compile(
    r"(?:batch item \d+: )?(?P<public>[a-z_]+)(?: \((?P<own>[A-Za-z_]+)\))?: (?P<message>.*)", re.DOTALL
)
_NEXT = re.compile(r"; (?=[a-z_]+(?: \([A-Za-z_]+\))?: )")
"""Between two fields that are refused at once."""
_NAMES = {
    "text_input": "prompt",
    "input_ids": "prompt",
    "input_lengths": "prompt",
    "request_output_len": "max_tokens",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "stop_words": "stop",
    "stop_words_list": "stop",
    "return_log_probs": "logprobs",
    "guided_decoding_guide_type": "response_format",
    "guided_decoding_guide": "response_format",
}
"""OpenAI's name of a field that tensorrt_llm or the ensemble calls otherwise."""

_BUSY = ("maximum queue size of", "exceeds maximum queue size")
_LOST = ("unavailable", "cancelled", "unloaded", "is not ready", "not found", "stub process", "shutting down")


@dataclass(frozen=True)
class Refusal:
    """An error, its kind, and what the client is told."""

    kind: Kind
    message: str


def refusal_of(text: str) -> Refusal:
    """The refusal of an error that a model sent in a response."""
    lowered = text.lower()
    if any(word in lowered for word in _BUSY):
        return Refusal("busy", text)
    if (message := _of_fields(text)) is not None:
        return Refusal("request", message)
    if any(word in lowered for word in _LOST):
        return Refusal("lost", text)
    return Refusal("server", text)


def _of_fields(text: str) -> str | None:
    """What is wrong with which fields, by OpenAI's names, each once; None where it is said of no field."""
    said: list[str] = []
    for part in _NEXT.split(text):
        found = _FIELD.fullmatch(part)
        own = (found["own"] or found["public"]) if found is not None else ""
        if found is not None and own in _fields():
            said.append(
                f"{_NAMES.get(own, _NAMES.get(found['public'], found['public']))}: {found['message']}"
            )
        elif said:
            said[-1] += f"; {part}"
        else:
            return None
    return "; ".join(dict.fromkeys(said))


@cache
def _fields() -> frozenset[str]:
    """The fields of a request, as the models call them."""
    return frozenset(item.name for item in expected_tensors("tensorrt_llm").inputs)
