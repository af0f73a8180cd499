"""From the sampling of inflight_batcher_llm to SamplingParams of the LLM API.

What the LLM API cannot give is refused, never left out without a word. It imports nothing of TensorRT-LLM.
Source: TensorRT-LLM 1.2, tensorrt_llm/sampling_params.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import RequestError

_SAME = ("max_tokens", "pad_id", "seed")
# Left out when they are what upstream's C++ backend takes for "not given": greedy, or no penalty.
_NEUTRAL = {
    "min_tokens": (0,),
    "temperature": (1.0,),
    "top_k": (0,),
    "top_p": (0.0,),
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
}
_FLOAT32_MAX, _INT32_MAX = 3.4028234663852886e38, 2**31 - 1
_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, _INT32_MAX),
    "min_tokens": (0, _INT32_MAX),
    "temperature": (0, _FLOAT32_MAX),
    "top_k": (0, _INT32_MAX),
    "top_p": (0, 1),
    "repetition_penalty": (1e-9, _FLOAT32_MAX),
    "presence_penalty": (-_FLOAT32_MAX, _FLOAT32_MAX),
    "frequency_penalty": (-_FLOAT32_MAX, _FLOAT32_MAX),
}
_FIELDS = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "max_tokens": "request_output_len"}


def sampling_keywords(
    sampling: Mapping[str, Any], *, end_ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """The keywords of SamplingParams; `decode` turns the tokens of a word to text.

    `end_ids` are the model's. The LLM API knows one end token; the others are given as tokens to stop at.

    Raises:
        RequestError: a value is impossible, or the LLM API has nothing for it.
    """
    _check(sampling)
    words = {name: sampling[name] for name in _SAME if sampling.get(name) is not None}
    for name, neutral in _NEUTRAL.items():
        value = sampling.get(name)
        if value is not None and value not in neutral:
            words[name] = value
    ends = ending_tokens(sampling, end_ids=end_ids)
    if sampling.get("end_id") == -1:
        words["ignore_eos"] = True
    elif ends:
        words["end_id"] = ends[0]
    for source, single, several in (
        ("stop_words", "stop_token_ids", "stop"),
        ("bad_words", "bad_token_ids", "bad"),
    ):
        given = sampling.get(source, ())
        if ids := [word[0] for word in given if len(word) == 1]:
            words[single] = ids
        if texts := [decode(word) for word in given if len(word) > 1]:
            words[several] = texts
    if words.keys() & {"stop", "stop_token_ids"}:
        # Upstream's C++ backend leaves the word that ended the answer in it.
        words["include_stop_str_in_output"] = True
    if ends[1:]:
        words["stop_token_ids"] = [*words.get("stop_token_ids", []), *ends[1:]]
    return words


def ending_tokens(sampling: Mapping[str, Any], *, end_ids: Sequence[int]) -> tuple[int, ...]:
    """The tokens that end a request: the model's `end_ids`, or the one that it names; none for -1."""
    asked = sampling.get("end_id")
    if asked is None:
        return tuple(end_ids)
    return () if asked == -1 else (asked,)


def _check(sampling: Mapping[str, Any]) -> None:
    if sampling.get("return_log_probs"):
        raise RequestError("return_log_probs", "is not offered over the LLM API; leave it out")
    for name, (low, high) in _RANGES.items():
        value = sampling.get(name)
        if value is not None and not low <= value <= high:
            span = f"{low:g} to {high:g}" if high < _INT32_MAX else f"{low:g} or more, and finite"
            raise RequestError(_FIELDS.get(name, name), f"found {value}, expected {span}")
