"""What a quantization's declaration may say beside what a layout is made of; the rest is refused by name.

It reads no weights and knows no layout. Keys of calibration (damp_percent, observer, iters) are in no list:
they decided the numbers that are stored, and nothing after.
Source: transformers 5, utils/quantization_config.py; GPTQModel, quantization/config.py; AutoGPTQ 0.7; AutoAWQ
0.2; compressed-tensors 0.20, quant_config.py, quant_scheme.py and transform; auto-round 0.8, export.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builders.sources.json_files import shown

_NOTHING: tuple[Any, ...] = (None, False, {}, [], "")
_MAY_SAY: dict[str, dict[str, tuple[Any, ...]]] = {
    "gptq": {
        "act_bits": (16, 32),
        "adapter": (),
        "data_type": ("int", "int4"),
        "extra_config": (),
        "is_marlin_format": (),
        "super_bits": (),
    },
    "awq": {
        "act_bits": (16, 32),
        "adapter": (),
        "data_type": ("int", "int4"),
        "extra_config": (),
    },
    "compressed-tensors": {
        "moe_sparsity_config": (),
        "transform_config": (),
    },
    "fp8": {
        "expert_dtype": ("fp8",),
        "fmt": ("e4m3", "float8_e4m3fn"),
    },
    "modelopt": {
        "has_zero_point": (),
    },
}
"""By method, keys that decide what is computed, and values that change nothing beside `_NOTHING`."""
_WHY = {
    "adapter": "a LoRA adapter, which is added to the matrices",
    "extra_config": "settings of single modules",
    "transform_config": "rotations of what goes into and comes out of matrices",
}
_PACKED = ("pack-quantized",)
_BYTES = ("float-quantized", "int-quantized", "naive-quantized")
_FORMATS = {
    ("int", 4): _PACKED,
    ("float", 4): ("nvfp4-pack-quantized",),
    ("int", 8): _BYTES,
    ("float", 8): _BYTES,
}
"""compressed-tensors' formats by the type and bits of the weights."""


def declaration_problems(method: str, values: dict[str, Any]) -> Iterator[str]:
    """Keys of a declaration that say something with which other values would be computed, and which."""
    for key, harmless in _MAY_SAY.get(method, {}).items():
        found = values.get(key)
        if found not in _NOTHING and found not in harmless and not _is_empty(found):
            why = f" ({_WHY[key]})" if key in _WHY else ""
            yield f"{key}: found {shown(found)}{why}, with which other values are computed than are read here"
    if method == "compressed-tensors":
        yield from _compressed_problems(values)


def gptq_format(values: dict[str, Any]) -> object:
    """How zero points are stored: newer writers say `format`; of both the older key decides."""
    return _text(values.get("checkpoint_format") or values.get("format") or "gptq")


def awq_format(values: dict[str, Any]) -> object:
    """How words are packed: `version`, or `format` of newer writers; llm-awq is a backend."""
    if values.get("backend") == "llm-awq":
        return "llm-awq"
    return _text(values.get("version") or values.get("format") or "gemm")


def _text(found: object) -> object:
    return found.lower() if isinstance(found, str) else found


def _is_empty(found: object) -> bool:
    """An object of groups without one: compressed-tensors writes it so."""
    return isinstance(found, dict) and not any(found.values())


def _compressed_problems(values: dict[str, Any]) -> Iterator[str]:
    sparsity = values.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense"):
        yield f"sparsity_config: found format {shown(sparsity['format'])}, expected dense matrices"
    groups = values.get("config_groups")
    for scheme in groups.values() if isinstance(groups, dict) else ():
        if isinstance(scheme, dict):
            yield from _scheme_problems(scheme, whole=values.get("format"))


def _scheme_problems(scheme: dict[str, Any], *, whole: object) -> Iterator[str]:
    weights = scheme.get("weights")
    held = weights if isinstance(weights, dict) else {}
    kind, bits = held.get("type"), held.get("num_bits")
    known = _FORMATS.get((kind, bits), ()) if isinstance(kind, str) and isinstance(bits, int) else ()
    for found in (scheme.get("format"), whole):
        if known and found not in (None, "dense", "mixed-precision", *known):
            yield f"format: found {shown(found)}, expected {' or '.join(known)} of {kind}{bits} weights"
            break
    if scheme.get("output_activations"):
        yield "output_activations: what comes out of a matrix is quantized too, which is not read"
    if known and (kind, bits) != ("int", 4) and not scheme.get("input_activations"):
        yield (
            f"input_activations: found none with {kind}{bits} weights, and TensorRT-LLM's format rounds "
            "activations to the same type: another model than this checkpoint, which leaves them as they are"
        )
    if (kind, bits) == ("int", 4) and scheme.get("input_activations"):
        yield (
            "input_activations: found INT4 weights with quantized activations, and TensorRT-LLM's format "
            "computes INT4 with activations as they are"
        )
