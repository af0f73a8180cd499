"""In which format a checkpoint holds each of its matrices, by what it declares; some of them stay floats.

It reads declarations, no weights. A declaration that TensorRT-LLM does not load is refused with the reason.
Sources: transformers 5.23, utils/quantization_config.py; nvidia-modelopt 0.47, hf_quant_config.json;
TensorRT-LLM, tensorrt_llm/_torch/model_config.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tpforge.architectures.compressed_groups import compressed_groups
from tpforge.architectures.declared import Declared, Tensor
from tpforge.architectures.module_names import from_layers, kept_by_name, kept_modules, modules_of
from tpforge.errors import InputRefused

AS_FLOATS = "floats"
_INSTEAD = "give a checkpoint in FP8, NVFP4 or MXFP4, or the unquantized one"
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
    of = _formats(declared, model=model, where=where)
    counts: Counter[str] = Counter()
    for layer in model.layers:
        for tensor in layer.tensors:
            counts[of(tensor)] += tensor.num_elements
    formats = [name for name, _ in counts.most_common() if name != AS_FLOATS]
    if not formats:
        _refuse_whole_mxfp8(declared, where=where)
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
    inner = _modelopt_values(values)
    if inner is None or (inner.get("quant_algo") is None and not inner.get("quantized_layers")):
        return None
    return {"quant_method": "modelopt", **inner}


def declared_kv(config: Mapping[str, Any], *, modelopt: Mapping[str, Any] | None) -> str | None:
    """The format of the KV cache that a checkpoint declares, which TensorRT-LLM takes unless told otherwise.

    ModelOpt names it; compressed-tensors, and ModelOpt's newer files, describe its numbers.
    """
    for one in (_modelopt_values(modelopt), _declared(config)):
        scheme = one.get("kv_cache_scheme") if one else None
        algorithm = one.get("kv_cache_quant_algo") if one else None
        if isinstance(algorithm, str):
            return algorithm.lower()
        if isinstance(scheme, Mapping) and isinstance(scheme.get("num_bits"), int):
            prefix = {"float": "fp", "int": "int"}.get(str(scheme.get("type")), str(scheme.get("type")))
            return f"{prefix}{scheme['num_bits']}"
    return None


def _modelopt_values(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What ModelOpt's file says, nested as it was or flat as it is today."""
    inner = values.get("quantization", values) if values else None
    return inner if isinstance(inner, Mapping) else None


def _formats(declared: Mapping[str, Any], *, model: Declared, where: str) -> Callable[[Tensor], str]:
    method = declared.get("quant_method") or ("modelopt" if declared.get("quant_algo") else None)
    if method == "fp8" and declared.get("quant_algo") != "MIXED_PRECISION":
        return _fp8(declared, expert_dtype=model.config.get("expert_dtype"), where=where)
    if method == "fp8":
        experts = _algorithm(declared.get("moe_quant_algo"), where=where)
        return _all_linears("fp8_block", experts=experts, kept=kept_modules({}))
    if method in ("modelopt", "nvfp4"):
        return _of_modelopt(declared, where=where)
    if method == "mxfp4":
        kept = kept_modules(declared, "*.shared_expert*")
        return lambda tensor: "mxfp4" if _is_expert(tensor) and not kept(tensor) else AS_FLOATS
    if method == "compressed-tensors":
        return _of_compressed(declared, model=model, where=where)
    if method == "mxfp8":
        raise InputRefused(_of_mxfp8(where))
    raise InputRefused(
        f"{where}: its weights are quantized by {_called(method, declared)}, which TensorRT-LLM's PyTorch "
        f"backend does not load; {_INSTEAD}"
    )


def _refuse_whole_mxfp8(declared: Mapping[str, Any], *, where: str) -> None:
    """Of some matrices MXFP8 counts as 16 bits; a checkpoint of nothing else is none of 16 bits."""
    if declared.get("quant_algo") == "MXFP8":
        raise InputRefused(_of_mxfp8(where))


def _called(method: object, declared: Mapping[str, Any]) -> str:
    """The method by its name, or by what it declares."""
    if method is not None:
        return str(method)
    if "load_in_4bit" in declared or "load_in_8bit" in declared:
        return "bitsandbytes"
    if {"bits", "group_size"} <= declared.keys():
        return "MLX"
    return (
        f"a method without a name ({', '.join(sorted(map(str, declared))) or 'nothing'} in its declaration)"
    )


def _of_mxfp8(where: str) -> str:
    return (
        f"{where}: its weights are MXFP8, which TensorRT-LLM dequantizes to 16 bits when it loads MiniMax-M3 "
        f"and says nothing of for other models; plan the unquantized checkpoint, or {_INSTEAD}"
    )


def _fp8(declared: Mapping[str, Any], *, expert_dtype: Any, where: str) -> Callable[[Tensor], str]:
    """FP8 in blocks, or one scale per tensor; the routed experts of DeepSeek-V4 in MXFP4."""
    block = declared.get("weight_block_size")
    if block not in (None, [], [128, 128]):
        raise InputRefused(
            f"{where}: its weights are FP8 in blocks of {block}, expected 128 x 128, which alone "
            f"TensorRT-LLM loads; {_INSTEAD}"
        )
    if not block and declared.get("activation_scheme") != "static":
        raise InputRefused(
            f"{where}: its weights are FP8 with one scale for a matrix and dynamic activations, which "
            f"TensorRT-LLM's PyTorch backend does not load; {_INSTEAD}"
        )
    name, kept = "fp8_block" if block else "fp8", kept_modules(declared)
    return _all_linears(name, experts="mxfp4" if expert_dtype == "fp4" else name, kept=kept)


def _of_modelopt(declared: Mapping[str, Any], *, where: str) -> Callable[[Tensor], str]:
    algorithm, layers = declared.get("quant_algo"), declared.get("quantized_layers")
    if algorithm is None and not layers and declared_kv({"quantization_config": declared}, modelopt=None):
        return lambda tensor: AS_FLOATS
    if algorithm != "MIXED_PRECISION" and not (algorithm is None and layers):
        name = _algorithm(algorithm, where=where)
        return _all_linears(name, experts=name, kept=kept_modules(declared))
    if not isinstance(layers, Mapping):
        raise InputRefused(
            f"{where}: MIXED_PRECISION without quantized_layers, which says the format of each"
        )
    named = {
        from_layers(module): _algorithm(
            one.get("quant_algo") if isinstance(one, Mapping) else None, where=where
        )
        for module, one in layers.items()
    }

    def of(tensor: Tensor) -> str:
        around = (from_layers(one) for one in modules_of(tensor))
        return next((named[one] for one in around if one in named), AS_FLOATS)

    return of


def _of_compressed(declared: Mapping[str, Any], *, model: Declared, where: str) -> Callable[[Tensor], str]:
    tensors = (*model.outer, *(one for layer in model.layers for one in layer.tensors))
    matrices = [one for one in tensors if one.is_linear]
    held, kept = compressed_groups(declared, matrices=matrices, where=where), kept_by_name(declared)
    takes_head = len(declared["config_groups"]) > 1

    def of(tensor: Tensor) -> str:
        is_head = tensor.name.startswith("lm_head.") and not takes_head
        return AS_FLOATS if not tensor.is_linear or is_head or kept(tensor) else held(tensor) or AS_FLOATS

    return of


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


def _is_expert(tensor: Tensor) -> bool:
    return tensor.cut in ("experts", "experts in")
