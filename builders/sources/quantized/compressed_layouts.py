"""Which layout a checkpoint of compressed-tensors declares: bits, type and strategy of its only group.

It reads no weights; `compressed` and `nvfp4_reading` do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from builders.sources.quantized import compressed, nvfp4_reading
from builders.sources.quantized.companions import BYTES, E4M3, ONE, WORDS, companion
from builders.sources.quantized.layout import INSTEAD, Layout, blocks, group_of, group_of_16, rows, tensor_fp8
from tpforge.errors import InputRefused


def compressed_layout(values: dict[str, Any]) -> Layout:
    """The layout that `quantization_config` of compressed-tensors declares.

    Raises:
        InputRefused: it is not read; with the reason, and what to give instead.
    """
    groups = _object(values, "config_groups")
    if len(groups) != 1:
        raise InputRefused(f"compressed-tensors with {len(groups)} config_groups is not read; expected one")
    scheme = _object(groups, next(iter(groups)))
    if values.get("kv_cache_scheme"):
        raise InputRefused("compressed-tensors with a kv_cache_scheme is not read; give --kv-cache instead")
    weights = _object(scheme, "weights")
    bits, kind, strategy = weights.get("num_bits"), weights.get("type"), weights.get("strategy")
    if weights.get("actorder") not in (None, False, "static", "weight"):
        raise InputRefused(
            f"compressed-tensors with actorder {weights['actorder']}: its groups cannot be cut"
        )
    symmetric = weights.get("symmetric", True) is not False
    if not symmetric and (bits, kind, strategy) != (4, "int", "group"):
        raise InputRefused(
            f"compressed-tensors {kind}{bits} by {strategy} with zero points is not read; "
            "expected symmetric weights, or INT4 in groups"
        )
    match bits, kind, strategy:
        case 4, "int", "group":
            return _packed_int4(weights, symmetric=symmetric)
        case 4, "float", "tensor_group":
            return _packed_fp4(weights, with_inputs=bool(scheme.get("input_activations")))
        case 8, "int", "channel":
            return rows("int8_w8a8")
        case 8, "float", "channel":
            return rows("fp8_rowwise")
        case 8, "float", "block":
            return blocks(weights.get("block_structure"), suffix="weight_scale")
        case 8, "float", "tensor":
            return tensor_fp8()
    raise InputRefused(f"compressed-tensors {kind}{bits} by {strategy} is not read; {INSTEAD}")


def _packed_int4(weights: dict[str, Any], *, symmetric: bool) -> Layout:
    group = group_of(weights)
    zero_points = {"weight_zero_point": companion("out/8", "in/group", dtypes=WORDS)}
    return Layout(
        format="gptq",
        group=group,
        weight="weight_packed",
        packed=WORDS,
        beside={
            "weight_scale": companion("out", "in/group"),
            "weight_shape": companion("2", dtypes=("I32", "I64")),
            **({} if symmetric else zero_points),
        },
        shape=lambda shape: (shape[0], shape[1] * 8),
        components=partial(compressed.read_packed, group=group, symmetric=symmetric),
    )


def _packed_fp4(weights: dict[str, Any], *, with_inputs: bool) -> Layout:
    return Layout(
        format="nvfp4",
        group=group_of_16(weights),
        weight="weight_packed",
        packed=BYTES,
        beside={
            "weight_scale": companion("out", "in/16", dtypes=E4M3),
            "weight_global_scale": ONE,
            **({"input_global_scale": ONE} if with_inputs else {}),
        },
        shape=lambda shape: (shape[0], shape[1] * 2),
        components=partial(nvfp4_reading.read_compressed, has_inputs=with_inputs),
    )


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; empty when there is none."""
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise InputRefused(f"compressed-tensors' {key}: found {str(found)[:60]}, expected an object")
    return found
