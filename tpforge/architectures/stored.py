"""In which format a checkpoint holds each of its matrices, by what it declares; some of them stay floats.

It reads declarations, no weights. A declaration that TensorRT-LLM does not load is refused with the reason.
Sources: transformers 5.23, utils/quantization_config.py; nvidia-modelopt 0.47, hf_quant_config.json;
TensorRT-LLM, tensorrt_llm/_torch/model_config.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from tpforge.architectures.declared import Declared, Tensor
from tpforge.errors import InputRefused

AS_FLOATS = "floats"
_ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_rowwise",
    "FP8_BLOCK_SCALES": "fp8_block",
    "FP8_PB_WO": "fp8_block",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A8_MXFP4_MXFP8": "mxfp4",
    "MXFP4": "mxfp4",
    "W4A16_AWQ": "int4_awq",
    "W4A8_AWQ": "w4a8_awq",
    # Dequantized when it is loaded: docs/source/models/supported-models.md, footnote on MiniMax-M3.
    "MXFP8": AS_FLOATS,
}
"""The rows of quantization.toml by ModelOpt's names."""


_NUMBERED = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


@dataclass(frozen=True)
class StoredFormats:
    """How a checkpoint is quantized: `main` is the format of most of its bytes, `of` that of one tensor."""

    main: str
    title: str
    of: Callable[[Tensor], str]


def stored_formats(
    model: Declared, *, config: Mapping[str, Any], modelopt: Mapping[str, Any] | None, where: str
) -> StoredFormats | None:
    """The formats that config.json declares, or hf_quant_config.json beside it; None: floats.

    Raises:
        InputRefused: TensorRT-LLM loads no such checkpoint.
    """
    declared = _declared(config) or _modelopt(modelopt)
    if declared is None:
        return None
    of = _formats(declared, config=model.config, where=where)
    counts: Counter[str] = Counter()
    for layer in model.layers:
        for tensor in layer.tensors:
            counts[of(tensor)] += tensor.num_elements
    formats = [name for name, _ in counts.most_common() if name != AS_FLOATS]
    if not formats:
        return None
    return StoredFormats(formats[0], ", ".join(formats), of)


def _declared(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """`quantization_config` of config.json, or of the language model within."""
    for one in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        found = one.get("quantization_config") or one.get("compression_config")
        if isinstance(found, Mapping):
            return found
    return None


def _modelopt(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    inner = values.get("quantization") if values else None
    if not isinstance(inner, Mapping) or inner.get("quant_algo") is None:
        return None
    return {"quant_method": "modelopt", **inner}


def _formats(
    declared: Mapping[str, Any], *, config: Mapping[str, Any], where: str
) -> Callable[[Tensor], str]:
    method = declared.get("quant_method") or ("modelopt" if declared.get("quant_algo") else None)
    if method == "fp8" and declared.get("quant_algo") != "MIXED_PRECISION":
        return _fp8(declared, expert_dtype=config.get("expert_dtype"))
    if method == "fp8":
        experts = _algorithm(declared.get("moe_quant_algo"), where=where)
        return _all_linears("fp8_block", experts=experts, kept=_matcher([]))
    if method in ("modelopt", "nvfp4"):
        return _of_modelopt(declared, where=where)
    if method == "mxfp4":
        kept = _matcher([*_texts(declared, "modules_to_not_convert"), "*.shared_expert*"])
        return lambda tensor: "mxfp4" if _is_expert(tensor) and not kept(tensor) else AS_FLOATS
    if method == "compressed-tensors":
        return _of_compressed(declared, where=where)
    raise InputRefused(
        f"{where}: its weights are quantized by {method}, which TensorRT-LLM's PyTorch backend does not "
        "load; give a checkpoint in FP8, NVFP4 or MXFP4, or the unquantized one"
    )


def _fp8(declared: Mapping[str, Any], *, expert_dtype: Any) -> Callable[[Tensor], str]:
    """FP8 in blocks, or one scale per tensor; the routed experts of DeepSeek-V4 in MXFP4."""
    name = "fp8_block" if declared.get("weight_block_size") else "fp8"
    kept = _matcher(_texts(declared, "modules_to_not_convert"))
    return _all_linears(name, experts="mxfp4" if expert_dtype == "fp4" else name, kept=kept)


def _of_modelopt(declared: Mapping[str, Any], *, where: str) -> Callable[[Tensor], str]:
    kept = _matcher([*_texts(declared, "exclude_modules"), *_texts(declared, "ignore")])
    if declared.get("quant_algo") != "MIXED_PRECISION":
        name = _algorithm(declared.get("quant_algo"), where=where)
        return _all_linears(name, experts=name, kept=kept)
    layers = declared.get("quantized_layers")
    if not isinstance(layers, Mapping):
        raise InputRefused(
            f"{where}: MIXED_PRECISION without quantized_layers, which says the format of each"
        )
    named = {
        _from_layers(module): _algorithm(
            one.get("quant_algo") if isinstance(one, Mapping) else None, where=where
        )
        for module, one in layers.items()
    }

    def of(tensor: Tensor) -> str:
        around = (_from_layers(one) for one in _modules(tensor))
        return next((named[one] for one in around if one in named), AS_FLOATS)

    return of


def _of_compressed(declared: Mapping[str, Any], *, where: str) -> Callable[[Tensor], str]:
    groups = declared.get("config_groups")
    weights = [one.get("weights") for one in groups.values()] if isinstance(groups, Mapping) else []
    if len(weights) != 1 or not isinstance(weights[0], Mapping):
        raise InputRefused(
            f"{where}: compressed-tensors with {len(weights)} groups of matrices, expected one: "
            "TensorRT-LLM refuses groups that select by class"
        )
    name = _compressed_name(weights[0])
    if name is None:
        bits, kind = weights[0].get("num_bits"), weights[0].get("type")
        raise InputRefused(
            f"{where}: its weights are {kind}{bits} of compressed-tensors, which TensorRT-LLM's PyTorch "
            "backend does not load; give a checkpoint in FP8, NVFP4 or MXFP4, or the unquantized one"
        )
    return _all_linears(name, experts=name, kept=_matcher(_texts(declared, "ignore")))


def _compressed_name(weights: Mapping[str, Any]) -> str | None:
    match weights.get("type"), weights.get("num_bits"), weights.get("strategy"), weights.get("group_size"):
        case "float", 8, "channel", _:
            return "fp8_rowwise"
        case "float", 8, "block", _:
            return "fp8_block"
        case "float", 4, _, 16:
            return "nvfp4"
        case "float", 4, _, 32:
            return "mxfp4"
        case "int", 8, _, _:
            return "int8_w8a8"
    return None


def _all_linears(name: str, *, experts: str, kept: Callable[[Tensor], bool]) -> Callable[[Tensor], str]:
    def of(tensor: Tensor) -> str:
        if not tensor.is_linear or tensor.name.startswith("lm_head.") or kept(tensor):
            return AS_FLOATS
        return experts if _is_expert(tensor) else name

    return of


def _algorithm(name: object, *, where: str) -> str:
    found = _ALGORITHMS.get(str(name))
    if found is None:
        raise InputRefused(f"{where}: ModelOpt's {name} is not known; known are {', '.join(_ALGORITHMS)}")
    return found


def _texts(values: Mapping[str, Any], key: str) -> list[str]:
    found = values.get(key)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _is_expert(tensor: Tensor) -> bool:
    return tensor.cut in ("experts", "experts in")


def _modules(tensor: Tensor) -> list[str]:
    """The module of a tensor, and the modules around it: ``experts.0.up_proj``, ``experts.0``, ...

    Mixtral, MiniMax and DeepSeek-V4 name the matrices of an expert by numbers.
    """
    parts = tensor.name.removesuffix(".weight").split(".")
    numbered = [".".join((*parts[:-1], _NUMBERED[parts[-1]]))] if parts[-1] in _NUMBERED else []
    return [*numbered, *(".".join(parts[:count]) for count in range(len(parts), 0, -1))]


def _matcher(patterns: list[str]) -> Callable[[Tensor], bool]:
    """Whether a tensor's module is named: exactly, by ``*``, by a part of its path, or as ``re:`` says.

    A checkpoint's names may have another root than the table's (``model.``, ``language_model.``), so that an
    exact name is compared by what follows ``layers.``.
    """
    exact, globs = set(), []
    for one in patterns:
        if one.startswith("re:"):
            globs.append(f"(?:{one.removeprefix('re:')})\\Z")
        elif "*" in one:
            globs.append(translate(f"*{_from_layers(one)}"))
            globs.append(translate(f"*{_from_layers(one)}.*"))
        else:
            exact.add(_from_layers(one))
    wild = re.compile("|".join(globs)) if globs else None

    def matches(tensor: Tensor) -> bool:
        name = tensor.name.removesuffix(".weight")
        parts = name.split(".")
        around = (_from_layers(one) for one in _modules(tensor))
        if any(one in exact for one in around) or any(one in exact for one in parts):
            return True
        return wild is not None and wild.match(name) is not None

    return matches


def _from_layers(name: str) -> str:
    """``model.layers.3.mlp`` and ``language_model.model.layers.3.mlp`` as ``layers.3.mlp``."""
    _, found, rest = name.partition("layers.")
    return f"layers.{rest}" if found else name
