"""What a request of the llmapi contract asks for; it imports neither Triton nor TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Tensors that become fields of SamplingParams under the same name.
_SAMPLING = (
    "best_of",
    "temperature",
    "top_k",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "seed",
)
_RETURNED = ("finish_reason", "stop_reason", "cumulative_logprob")
_PREFIX = "sampling_param_"
_FLOAT32_MAX, _INT32_MAX = 3.4028234663852886e38, 2**31 - 1


class RequestRefused(ValueError):
    """The request cannot be served; the message names the tensor."""


@dataclass(frozen=True)
class Asked:
    """One prompt: its sampling as keywords of SamplingParams, and what is to be returned beside the text."""

    text: str
    streaming: bool
    sampling: dict[str, Any]
    exclude_input: bool
    returned: tuple[str, ...]
    perf_metrics: bool

    @property
    def num_sequences(self) -> int:
        """How many answers are generated for it."""
        return int(self.sampling.get("best_of", 1))


def read_request(tensor: Callable[[str], Any], *, decoupled: bool, exclude_input: bool) -> Asked:
    """The request whose tensors `tensor` gives by name as arrays, or as None where there is none.

    Raises:
        RequestRefused: a tensor has a wrong size or an impossible value.
    """
    prompts = tensor("text_input")
    if prompts is None or prompts.size != 1:
        raise RequestRefused("text_input: expected one prompt")
    streaming = bool(_scalar(tensor, "streaming") or False)
    if streaming and not decoupled:
        raise RequestRefused("streaming: is only supported in decoupled mode; render with --decoupled")
    sampling = {name: value for name in _SAMPLING if (value := _scalar(tensor, _PREFIX + name)) is not None}
    _check(sampling)
    stop = tensor(f"{_PREFIX}stop")
    if stop is not None and stop.size:
        sampling["stop"] = [_text(one, "sampling_param_stop") for one in stop.reshape(-1) if one]
    perf_metrics = bool(_scalar(tensor, f"{_PREFIX}return_perf_metrics"))
    if perf_metrics:
        sampling["return_perf_metrics"] = True
    excluded = _scalar(tensor, f"{_PREFIX}exclude_input_from_output")
    return Asked(
        text=_text(prompts.reshape(-1)[0], "text_input"),
        streaming=streaming,
        sampling=sampling,
        exclude_input=exclude_input if excluded is None else bool(excluded),
        returned=tuple(name for name in _RETURNED if _scalar(tensor, f"return_{name}")),
        perf_metrics=perf_metrics,
    )


def asks_to_stop(tensor: Callable[[str], Any]) -> bool:
    """Whether the request ends the earlier one of its id, instead of asking for an answer."""
    return bool(_scalar(tensor, "stop"))


def _check(sampling: dict[str, Any]) -> None:
    """Refuse what would end the engine rather than the request (TensorRT-LLM 6329)."""
    limits: tuple[tuple[str, float, float], ...] = (
        ("max_tokens", 1, _INT32_MAX),
        ("top_k", 0, _INT32_MAX),
        ("top_p", 0, 1),
        ("temperature", 0, _FLOAT32_MAX),
        ("best_of", 1, _INT32_MAX),
        ("presence_penalty", -_FLOAT32_MAX, _FLOAT32_MAX),
        ("frequency_penalty", -_FLOAT32_MAX, _FLOAT32_MAX),
    )
    for name, low, high in limits:
        if name in sampling and not low <= sampling[name] <= high:
            span = f"{low:g} to {high:g}" if high < _INT32_MAX else f"{low:g} or more, and finite"
            raise RequestRefused(f"{_PREFIX}{name}: found {sampling[name]}, expected {span}")


def _scalar(tensor: Callable[[str], Any], name: str) -> Any:
    values = tensor(name)
    if values is None:
        return None
    if values.size != 1:
        raise RequestRefused(f"{name}: expected one value, found {values.size}")
    return values.reshape(-1)[0].item() if hasattr(values.reshape(-1)[0], "item") else values.reshape(-1)[0]


def _text(value: Any, name: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestRefused(f"{name}: is not valid UTF-8 ({error.reason})") from error
