"""The names of request fields, and the fields that the reference runtime refuses rather than ignores.

A user of the ensemble knows a field by another name than the model that checks it: errors say both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Inputs = Mapping[str, npt.NDArray[Any]]

# The member's tensor, and what the ensemble and tensorrt_llm_bls call it.
_PUBLIC_NAMES = {
    "QUERY": "text_input",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
    "IMAGE_BYTES": "image_bytes_input",
    "IMAGE_URL": "image_url_input",
    "VIDEO_BYTES": "video_bytes_input",
    "input_ids": "text_input",
    "decoder_input_ids": "decoder_text_input",
    "request_output_len": "max_tokens",
    "embedding_bias": "embedding_bias_words",
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "stop_words_list": "stop_words",
    "bad_words_list": "bad_words",
    "prompt_table_extra_ids": "prompt_table_extra_id",
}


class FieldError(ValueError):
    """Fields of a request are refused; `str` names each and says what was found and expected."""


def field_error(field: str, message: str) -> FieldError:
    """The refusal of one field."""
    return FieldError(describe(field, message))


def describe(field: str, message: str) -> str:
    """``max_tokens (request_output_len): message``; one name alone where both are the same."""
    public = _PUBLIC_NAMES.get(field, field)
    name = field if public == field else f"{public} ({field})"
    return f"{name}: {message}"


def _shown(value: Any) -> str:
    """A value as a client of any protocol would say it."""
    return "an empty text" if value == b"" else repr(value)


@dataclass(frozen=True)
class _Unsupported:
    """What a field asks for, and the values that ask for nothing, as do `harmless_size` values or fewer."""

    feature: str
    harmless: tuple[Any, ...] = ()
    harmless_size: int = 0

    @property
    def refusal(self) -> str:
        """What the user is told."""
        remedy = "leave it out"
        if self.harmless:
            remedy += f", or give {' or '.join(map(_shown, self.harmless))}"
        return f"{self.feature} is not supported by the reference runtime; {remedy}"


_BEAM = _Unsupported("beam search", (1,))
_LOGITS = _Unsupported("returning logits", (False,))
_DRAFT = _Unsupported("speculative decoding", (0,))
_ENCODER = _Unsupported("encoder-decoder models", (0, b""))
# Upstream's preprocessing sends the pad token, and 1 for its length, to models without an encoder too.
_DECODER_START = _Unsupported("encoder-decoder models", (0, 1), harmless_size=1)
_BIAS = _Unsupported("embedding bias", (0, b""))
_PROMPT_TABLE = _Unsupported("prompt tuning", ())
_IMAGES = _Unsupported("image and video input", (b"",))
_LORA = _Unsupported("LoRA", ())
_RETENTION = _Unsupported("KV cache retention", ())
_GUIDED = _Unsupported("guided decoding", (b"",))
_LOOKAHEAD = _Unsupported("lookahead decoding", ())

# len_penalty, early_stopping and beam_search_diversity_rate shape beam search alone, so they have no
# effect at the only beam_width that is accepted; likewise runtime_top_p_reset_ids without a decay.
_UNSUPPORTED = {
    "beam_width": _BEAM,
    "return_context_logits": _LOGITS,
    "return_generation_logits": _LOGITS,
    "draft_input_ids": _DRAFT,
    "draft_logits": _DRAFT,
    "draft_acceptance_threshold": _DRAFT,
    "num_draft_tokens": _DRAFT,
    "use_draft_logits": _DRAFT,
    "encoder_input_features": _ENCODER,
    "encoder_output_lengths": _ENCODER,
    "decoder_input_ids": _DECODER_START,
    "decoder_input_lengths": _DECODER_START,
    "DECODER_QUERY": _ENCODER,
    "decoder_text_input": _ENCODER,
    "cross_attention_mask": _ENCODER,
    "skip_cross_attn_blocks": _ENCODER,
    "embedding_bias": _BIAS,
    "EMBEDDING_BIAS_WORDS": _BIAS,
    "EMBEDDING_BIAS_WEIGHTS": _BIAS,
    "embedding_bias_words": _BIAS,
    "embedding_bias_weights": _BIAS,
    "runtime_top_p_decay": _Unsupported("decaying top_p", (1,)),
    "runtime_top_p_min": _Unsupported("decaying top_p", (0, 1e-6)),
    "prompt_embedding_table": _PROMPT_TABLE,
    "prompt_table_extra_ids": _PROMPT_TABLE,
    "prompt_table_extra_id": _PROMPT_TABLE,
    "PROMPT_TABLE_EXTRA_ID": _PROMPT_TABLE,
    "prompt_vocab_size": _Unsupported("prompt tuning", (0,)),
    "mrope_rotary_cos_sin": _IMAGES,
    "mrope_position_deltas": _IMAGES,
    "IMAGE_BYTES": _IMAGES,
    "IMAGE_URL": _IMAGES,
    "IMAGES": _IMAGES,
    "VIDEO_BYTES": _IMAGES,
    "image_input": _IMAGES,
    "image_bytes_input": _IMAGES,
    "image_url_input": _IMAGES,
    "video_bytes_input": _IMAGES,
    "lora_task_id": _LORA,
    "lora_weights": _LORA,
    "lora_config": _LORA,
    "context_phase_params": _Unsupported("disaggregated serving"),
    "retention_token_range_starts": _RETENTION,
    "retention_token_range_ends": _RETENTION,
    "retention_token_range_priorities": _RETENTION,
    "retention_token_range_durations_ms": _RETENTION,
    "retention_decode_priority": _RETENTION,
    "retention_decode_duration_ms": _RETENTION,
    "guided_decoding_guide_type": _GUIDED,
    "guided_decoding_guide": _GUIDED,
    "lookahead_window_size": _LOOKAHEAD,
    "lookahead_ngram_size": _LOOKAHEAD,
    "lookahead_verification_set_size": _LOOKAHEAD,
}


def refuse_unsupported(inputs: Inputs) -> None:
    """Refuse the fields that ask for what the reference runtime has not, all at once.

    Raises:
        FieldError: names each of them; empty tensors and harmless values ask for nothing.
    """
    problems = sorted(
        describe(name, _UNSUPPORTED[name].refusal)
        for name, values in inputs.items()
        if name in _UNSUPPORTED and not _is_harmless(_UNSUPPORTED[name], values)
    )
    if problems:
        raise FieldError("; ".join(problems))


def _is_harmless(unsupported: _Unsupported, values: npt.NDArray[Any]) -> bool:
    if values.size <= unsupported.harmless_size:
        return True
    return all(any(_same(value, harmless) for harmless in unsupported.harmless) for value in values.flat)


def _same(value: Any, harmless: Any) -> bool:
    if isinstance(value, bytes) or isinstance(harmless, bytes):
        return bool(value == harmless)
    return bool(abs(float(value) - float(harmless)) < 1e-9)
