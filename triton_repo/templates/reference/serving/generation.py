"""What one tensorrt_llm request asks for: prompts, sampling and what to return, item by item.

It does not decode; ranges of sampling values are the scheduler's to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .fields import Inputs, field_error, refuse_unsupported
from .words import unpack_words

# The scheduler's name of each scalar, and the tensor that holds it.
_SAMPLING_FIELDS = {
    "max_tokens": "request_output_len",
    "end_id": "end_id",
    "pad_id": "pad_id",
    "temperature": "temperature",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "min_tokens": "min_tokens",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "return_log_probs": "return_log_probs",
}


@dataclass(frozen=True)
class Defaults:
    """What holds for a request that does not say, and the limits it must keep.

    `decoupled` is whether a request may have several responses; `default_end_id` the end token that
    preprocessing gives when the user gives none: all end tokens of the model are meant then.
    """

    exclude_input_in_output: bool
    decoupled: bool
    vocab_size: int
    default_end_id: int | None
    max_sequences: int
    offers_perf_metrics: bool = True


@dataclass(frozen=True)
class Item:
    """One prompt of a request; `sampling` are the arguments of the scheduler's Sampling."""

    input_ids: list[int]
    sampling: dict[str, Any]
    num_return_sequences: int
    streaming: bool
    exclude_input_in_output: bool
    return_log_probs: bool
    return_perf_metrics: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool

    def sampling_of(self, sequence_index: int) -> dict[str, Any]:
        """The sampling of one of the returned sequences; each has a seed of its own."""
        if sequence_index == 0:
            return self.sampling
        seed = (self.sampling.get("seed") or 0) + sequence_index
        return {**self.sampling, "seed": seed % 2**64}


def batch_size(inputs: Inputs) -> int:
    """The number of prompts of a request."""
    return int(inputs["input_lengths"].shape[0])


def parse_item(inputs: Inputs, *, defaults: Defaults) -> Item:
    """The one item that `inputs` hold.

    Raises:
        FieldError: names the field that cannot be served.
    """
    refuse_unsupported(inputs)
    scalars = {name: _scalar(values) for name, values in inputs.items() if values.size == 1}
    streaming = bool(scalars.get("streaming", False))
    if streaming and not defaults.decoupled:
        raise field_error(
            "streaming", "Streaming is only supported if model is deployed using decoupled mode."
        )
    if scalars.get("return_perf_metrics") and not defaults.offers_perf_metrics:
        raise field_error("return_perf_metrics", "is not offered over the LLM API; leave it out")
    return Item(
        input_ids=_input_ids(inputs),
        sampling=_sampling(inputs, scalars, defaults),
        num_return_sequences=_num_return_sequences(scalars, defaults),
        streaming=streaming,
        exclude_input_in_output=bool(
            scalars.get("exclude_input_in_output", defaults.exclude_input_in_output)
        ),
        return_log_probs=bool(scalars.get("return_log_probs", False)),
        return_perf_metrics=bool(scalars.get("return_perf_metrics", False)),
        return_num_input_tokens=bool(scalars.get("return_num_input_tokens", False)),
        return_num_output_tokens=bool(scalars.get("return_num_output_tokens", False)),
    )


def _input_ids(inputs: Inputs) -> list[int]:
    if "input_ids" not in inputs:
        raise field_error("input_ids", "is missing, expected the tokens of the prompt")
    row: npt.NDArray[np.int32] = inputs["input_ids"][0]
    length = int(inputs["input_lengths"].flat[0])
    if not 0 <= length <= len(row):
        raise field_error("input_lengths", f"found {length}, expected 0 to the {len(row)} input_ids given")
    return [int(token) for token in row[:length].tolist()]


def _sampling(inputs: Inputs, scalars: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    sampling = {name: scalars[field] for name, field in _SAMPLING_FIELDS.items() if field in scalars}
    end_id = sampling.get("end_id")
    if end_id is not None and not -1 <= end_id < defaults.vocab_size:
        raise field_error(
            "end_id", f"found {end_id}, expected a token below {defaults.vocab_size}, or -1 for none"
        )
    if end_id == defaults.default_end_id:
        sampling.pop("end_id", None)
    for name, field in (("stop_words", "stop_words_list"), ("bad_words", "bad_words_list")):
        if field in inputs and inputs[field].size:
            sampling[name] = unpack_words(inputs[field][0], field=field)
    return sampling


def _num_return_sequences(scalars: Mapping[str, Any], defaults: Defaults) -> int:
    count = int(scalars.get("num_return_sequences", 1))
    limit = defaults.max_sequences if defaults.decoupled else 1
    if not 1 <= count <= limit:
        hint = "" if defaults.decoupled else " (more than one needs the decoupled mode)"
        raise field_error("num_return_sequences", f"found {count}, expected 1 to {limit}{hint}")
    return count


def _scalar(values: npt.NDArray[Any]) -> Any:
    return values.reshape(-1)[0].item() if values.dtype != np.object_ else values.reshape(-1)[0]
