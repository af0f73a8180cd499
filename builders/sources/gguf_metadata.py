"""Turns the metadata of a .gguf file into the Hugging Face config.json that it was made from.

It reads no weights, but for the rope factors, from which llama3's rope scaling is found again.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from builders.sources.json_files import shown
from tpforge.errors import InputRefused

_ARCHITECTURE = "llama"
# The published llama3 scalings: Llama 3.1 has factor 8, Llama 3.2 has 32; the rest is common.
_LOW_FREQ_FACTOR, _HIGH_FREQ_FACTOR = 1.0, 4.0
_ORIGINAL_LENGTHS = (8192, 4096, 16384)
_FACTOR_TOLERANCE = 1e-4
_REQUIRED_COUNTS = (
    "attention.head_count",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
)
_INTEGERS = ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64")
_NUMBERS = ("FLOAT32", "FLOAT64")
# A count's value is judged by itself; a list has a count for each layer, which is said as that.
_COUNT_KINDS = (*_INTEGERS, *_NUMBERS, "BOOL", "STRING", *(f"ARRAY of {kind}" for kind in _INTEGERS))
_KINDS = {
    "general.architecture": ("STRING",),
    "general.license": ("STRING",),
    "llama.attention.causal": ("BOOL",),
    "llama.attention.layer_norm_rms_epsilon": _NUMBERS,
    "llama.attention.value_length": _INTEGERS,
    "llama.expert_count": _INTEGERS,
    "llama.rope.freq_base": _NUMBERS,
    "llama.rope.scaling.factor": _NUMBERS,
    "llama.rope.scaling.type": ("STRING",),
    "tokenizer.chat_template": ("STRING",),
    "tokenizer.ggml.add_space_prefix": ("BOOL",),
    "tokenizer.ggml.bos_token_id": _INTEGERS,
    "tokenizer.ggml.eom_token_id": _INTEGERS,
    "tokenizer.ggml.eos_token_id": _INTEGERS,
    "tokenizer.ggml.eot_token_id": _INTEGERS,
    "tokenizer.ggml.merges": ("ARRAY of STRING",),
    "tokenizer.ggml.model": ("STRING",),
    "tokenizer.ggml.padding_token_id": _INTEGERS,
    "tokenizer.ggml.tokens": ("ARRAY of STRING",),
}
"""Of keys that are read, the types that they may have; counts are judged by their values."""
_INERT = (
    "expert_used_count",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
)
"""Keys of the model without effect beside what is read."""
_LARGEST_FLOAT32 = 3.4028235e38
_OPTIONAL_COUNTS = ("attention.head_count_kv", "attention.key_length", "rope.dimension_count")


def read_hf_config(
    fields: dict[str, Any],
    *,
    shapes: dict[str, tuple[int, ...]],
    rope_factors: list[float] | None,
    where: str,
) -> dict[str, Any]:
    """The values of a Hugging Face config.json.

    `fields` are gguf-py's; `rope_factors` the content of ``rope_freqs.weight``.

    Raises:
        InputRefused: another architecture, keys are missing, or something that cannot be expressed.
    """
    _check_kinds(fields, where=where)
    architecture = _value(fields, "general.architecture")
    if architecture != _ARCHITECTURE:
        raise InputRefused(
            f"{where}: found architecture {architecture!r}, which is not supported in a .gguf; known is "
            f"{_ARCHITECTURE!r}. Nothing was written; for others use the Hugging Face directory"
        )
    problems = [*_broken_counts(fields), *_broken_numbers(fields), *_broken_factors(rope_factors)]
    problems += _unread(fields)
    if _llama(fields, "expert_count", 0):
        problems.append(f"{_ARCHITECTURE}.expert_count: found a mixture of experts, expected a dense model")
    if problems:
        raise InputRefused.listing(f"{where}: its metadata cannot be used:", problems)
    return _config(fields, shapes=shapes, rope_factors=rope_factors, where=where)


def _config(
    fields: dict[str, Any],
    *,
    shapes: dict[str, tuple[int, ...]],
    rope_factors: list[float] | None,
    where: str,
) -> dict[str, Any]:
    num_heads = _llama(fields, "attention.head_count")
    head_size = _llama(fields, "attention.key_length", _llama(fields, "embedding_length") // num_heads)
    rotary = _llama(fields, "rope.dimension_count", head_size)
    base = shortest_float32(_llama(fields, "rope.freq_base", 10000.0))
    embedding = shapes.get("model.embed_tokens.weight", (None,))
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
        "bos_token_id": _value(fields, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_ids(fields),
        "head_dim": head_size,
        "hidden_act": "silu",
        "hidden_size": _llama(fields, "embedding_length"),
        "intermediate_size": _llama(fields, "feed_forward_length"),
        "max_position_embeddings": _llama(fields, "context_length"),
        "num_attention_heads": num_heads,
        "num_hidden_layers": _llama(fields, "block_count"),
        "num_key_value_heads": _llama(fields, "attention.head_count_kv", num_heads),
        "pad_token_id": _value(fields, "tokenizer.ggml.padding_token_id"),
        "partial_rotary_factor": rotary / head_size,
        "rms_norm_eps": shortest_float32(_llama(fields, "attention.layer_norm_rms_epsilon")),
        "rope_scaling": _rope_scaling(fields, rope_factors, base=base, head_size=head_size, where=where),
        "rope_theta": base,
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "vocab_size": embedding[0],
    }


def llama3_factors(*, base: float, head_size: int, factor: float, original_length: int) -> list[float]:
    """By how much each rotary frequency is divided under llama3's rope scaling.

    Source: transformers, modeling_rope_utils.py, _compute_llama3_parameters.
    """
    low_wavelength = original_length / _LOW_FREQ_FACTOR
    high_wavelength = original_length / _HIGH_FREQ_FACTOR
    factors = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * base ** (index / head_size)
        if wavelength < high_wavelength:
            factors.append(1.0)
        elif wavelength > low_wavelength:
            factors.append(factor)
        else:
            smooth = (original_length / wavelength - _LOW_FREQ_FACTOR) / (
                _HIGH_FREQ_FACTOR - _LOW_FREQ_FACTOR
            )
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def shortest_float32(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for 9.999999747378752e-06."""
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == struct.pack("<f", value):
            return candidate
    return value


def _rope_scaling(
    fields: dict[str, Any],
    rope_factors: list[float] | None,
    *,
    base: float,
    head_size: int,
    where: str,
) -> dict[str, Any] | None:
    kind = _llama(fields, "rope.scaling.type", "none")
    if kind not in ("none", "linear") or (kind == "linear" and rope_factors is not None):
        raise InputRefused(
            f"{where}: found rope scaling {kind!r}{' with rope factors' if rope_factors else ''}, "
            "which a .gguf does not describe exactly; use the Hugging Face directory"
        )
    if rope_factors is not None:
        return _find_llama3_scaling(rope_factors, base=base, head_size=head_size, where=where)
    factor = _llama(fields, "rope.scaling.factor", 1.0)
    return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1.0 else None


def _find_llama3_scaling(found: list[float], *, base: float, head_size: int, where: str) -> dict[str, Any]:
    """The llama3 scaling that gives exactly these factors."""
    factor = shortest_float32(max(found, default=1.0))
    for original_length in _ORIGINAL_LENGTHS:
        expected = llama3_factors(
            base=base, head_size=head_size, factor=factor, original_length=original_length
        )
        if len(found) == len(expected) and all(
            math.isclose(one, other, rel_tol=_FACTOR_TOLERANCE)
            for one, other in zip(found, expected, strict=True)
        ):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW_FREQ_FACTOR,
                "high_freq_factor": _HIGH_FREQ_FACTOR,
                "original_max_position_embeddings": original_length,
            }
    raise InputRefused(
        f"{where}: rope_freqs.weight holds factors that are not those of llama3's rope scaling; "
        "use the Hugging Face directory, whose config.json states them"
    )


def _end_ids(fields: dict[str, Any]) -> list[int]:
    """End of sequence first, then the end of a turn or message."""
    ids: list[int] = []
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        one = _value(fields, f"tokenizer.ggml.{key}")
        if one is not None and one not in ids:
            ids.append(one)
    return ids


def _unread(fields: dict[str, Any]) -> Iterator[str]:
    """Keys of the model that are not read, and with which llama.cpp may compute otherwise."""
    prefix = f"{_ARCHITECTURE}."
    counts = (*_REQUIRED_COUNTS, *_OPTIONAL_COUNTS)
    known = {*_KINDS, *(prefix + key for key in (*counts, *_INERT))}
    for key in sorted(fields):
        if key.startswith(prefix) and key not in known:
            yield (
                f"{key}: found {_shown(fields[key])}, which is not read; llama.cpp may compute otherwise "
                "with it: use the Hugging Face directory"
            )
    if _llama(fields, "attention.causal", True) is not True:
        yield f"{prefix}attention.causal: found a model that sees what follows, expected a causal one"
    key_length = _llama(fields, "attention.key_length")
    value_length = _llama(fields, "attention.value_length", key_length)
    if key_length is not None and value_length != key_length:
        yield f"{prefix}attention.value_length: found {value_length!r}, expected key_length {key_length!r}"
    scaling = _llama(fields, "rope.scaling.factor", 1.0)
    if scaling not in (0.0, 1.0) and _llama(fields, "rope.scaling.type") is None:
        yield (
            f"{prefix}rope.scaling.factor: found {scaling!r} without rope.scaling.type, which llama.cpp "
            "takes for linear and transformers for none; use the Hugging Face directory"
        )


def _shown(field: Any) -> str:
    """A number as it is, anything else by its type: texts of unread keys need not be UTF-8."""
    kind = field.types[0].name if field.types else "nothing"
    return shown(field.contents()) if kind in (*_INTEGERS, *_NUMBERS, "BOOL") else f"a value of type {kind}"


def _broken_counts(fields: dict[str, Any]) -> Iterator[str]:
    for key in _REQUIRED_COUNTS + _OPTIONAL_COUNTS:
        value = _llama(fields, key)
        if value is None:
            if key in _REQUIRED_COUNTS:
                yield f"{_ARCHITECTURE}.{key}: missing"
        elif isinstance(value, list):
            yield f"{_ARCHITECTURE}.{key}: differs between layers"
        elif type(value) is not int or value < 1:
            yield f"{_ARCHITECTURE}.{key}: found {value!r}, expected a count"
    hidden, heads = _llama(fields, "embedding_length"), _llama(fields, "attention.head_count")
    if type(hidden) is int and type(heads) is int and heads > hidden:
        yield f"{_ARCHITECTURE}.attention.head_count: found {heads} heads of {hidden} hidden values"


def _broken_numbers(fields: dict[str, Any]) -> Iterator[str]:
    epsilon = f"{_ARCHITECTURE}.attention.layer_norm_rms_epsilon"
    if epsilon not in fields:
        yield f"{epsilon}: missing"
    for key in (epsilon, *(f"{_ARCHITECTURE}.{one}" for one in ("rope.freq_base", "rope.scaling.factor"))):
        value = _value(fields, key, 1.0)
        if not 0 < value <= _LARGEST_FLOAT32:
            yield f"{key}: found {value!r}, expected a number above 0"


def _broken_factors(rope_factors: object) -> Iterator[str]:
    held = rope_factors if isinstance(rope_factors, list) else []
    if any(not isinstance(one, float) or not 0 < one < math.inf for one in held):
        yield "rope_freqs.weight: found values that are no factors of frequencies, expected numbers above 0"


def _check_kinds(fields: dict[str, Any], *, where: str) -> None:
    """Refuse keys that are read here and hold something of another type, or text that is not UTF-8."""
    problems = []
    counts = {f"{_ARCHITECTURE}.{key}": _COUNT_KINDS for key in _REQUIRED_COUNTS + _OPTIONAL_COUNTS}
    for key, kinds in (_KINDS | counts).items():
        if (field := fields.get(key)) is None:
            continue
        found = tuple(kind.name for kind in field.types)
        if " of ".join(found) not in kinds:
            words = {_INTEGERS: "an integer", _NUMBERS: "a number of floating point"}.get(kinds, kinds[0])
            problems.append(f"{key}: found {' of '.join(found)}, expected {words}")
            continue
        try:
            if found == ("STRING",):
                field.contents()
        except UnicodeDecodeError as error:
            problems.append(f"{key}: its text is not UTF-8 ({error.reason})")
    if problems:
        raise InputRefused.listing(f"{where}: its metadata cannot be read:", problems)


def _llama(fields: dict[str, Any], key: str, default: Any = None) -> Any:
    return _value(fields, f"{_ARCHITECTURE}.{key}", default)


def _value(fields: dict[str, Any], key: str, default: Any = None) -> Any:
    field = fields.get(key)
    return default if field is None else field.contents()
