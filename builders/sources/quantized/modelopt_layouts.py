"""Which layout a checkpoint of NVIDIA ModelOpt declares: its algorithm, and the format of its KV cache.

It reads no weights; `compressed` and `nvfp4_reading` do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from builders.sources.quantized import compressed, nvfp4_reading
from builders.sources.quantized.companions import BYTES, E4M3, INT8, ONE, ROWS, companion
from builders.sources.quantized.layout import INSTEAD, Layout, group_of, group_of_16, rows, tensor_fp8
from tpforge.errors import InputRefused


def modelopt_layout(values: dict[str, Any]) -> Layout:
    """The layout that ModelOpt's hf_quant_config.json, or its form in config.json, declares.

    Raises:
        InputRefused: it is not read; with the reason, and what to give instead.
    """
    inner = values.get("quantization")
    held = inner if isinstance(inner, dict) else values
    kv_cache = _kv_algorithm(held)
    if kv_cache not in (None, "FP8"):
        raise InputRefused(
            f"a ModelOpt checkpoint with kv_cache_quant_algo {kv_cache} is not read, expected FP8; "
            "--runtime pytorch loads it as it is; for rank files quantize the original without a KV cache "
            "(`tpforge quantize`), and give --kv-cache here"
        )
    return replace(_modelopt_weights(held), kv_cache="fp8" if kv_cache else None)


def _kv_algorithm(held: dict[str, Any]) -> object:
    """ModelOpt's name of the cache's format; its newer files describe the numbers instead."""
    scheme = held.get("kv_cache_scheme")
    if held.get("kv_cache_quant_algo") is not None or not isinstance(scheme, dict):
        return held.get("kv_cache_quant_algo")
    kind, bits = scheme.get("type"), scheme.get("num_bits")
    return "FP8" if (kind, bits) == ("float", 8) else f"of {kind}{bits}"


def _modelopt_weights(held: dict[str, Any]) -> Layout:
    match held.get("quant_algo"):
        case "FP8":
            return tensor_fp8()
        case "FP8_PER_CHANNEL_PER_TOKEN":
            return rows("fp8_rowwise")
        case "W8A8_SQ_PER_CHANNEL":
            return _smooth_int8()
        case "NVFP4":
            return _nvfp4(held)
        case "W4A16_AWQ":
            return _int4_awq(held)
    raise InputRefused(f"ModelOpt's {held.get('quant_algo')} is not read; {INSTEAD}")


def _smooth_int8() -> Layout:
    return Layout(
        format="int8_sq",
        group=0,
        weight="weight",
        packed=INT8,
        beside={"weight_scale": ROWS, "input_scale": ONE, "pre_quant_scale": companion("in")},
        shape=lambda shape: shape,
        components=compressed.read_smooth,
    )


def _nvfp4(held: dict[str, Any]) -> Layout:
    return Layout(
        format="nvfp4",
        group=group_of_16(held),
        weight="weight",
        packed=BYTES,
        beside={
            "weight_scale": companion("out", "in/16", dtypes=E4M3),
            "weight_scale_2": ONE,
            "input_scale": ONE,
        },
        shape=lambda shape: (shape[0], shape[1] * 2),
        components=nvfp4_reading.read_modelopt,
    )


def _int4_awq(held: dict[str, Any]) -> Layout:
    group = group_of(held)
    return Layout(
        format="int4_awq",
        group=group,
        weight="weight",
        packed=BYTES,
        beside={"weight_scale": companion("out", "in/group")},
        optional={"pre_quant_scale": companion("in")},
        shape=lambda shape: (shape[0] * 2, shape[1]),
        components=partial(compressed.read_modelopt_awq, group=group),
    )
