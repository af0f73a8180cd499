"""Which layout a quantized checkpoint declares, out of its configuration; what cannot be read is refused.

It reads no weights; `gptq`, `awq` and `compressed` do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from builders.sources.quantized import awq, gptq
from builders.sources.quantized.companions import WORDS, companion
from builders.sources.quantized.compressed_layouts import compressed_layout
from builders.sources.quantized.declaration import awq_format, declaration_problems, gptq_format
from builders.sources.quantized.layout import INSTEAD, Layout, blocks, group_of
from builders.sources.quantized.modelopt_layouts import modelopt_layout
from tpforge.errors import InputRefused


def find_layout(method: str, values: dict[str, Any]) -> Layout:
    """The layout of a checkpoint whose quantization is `method`, declared by `values`.

    Raises:
        InputRefused: it is not read; with the reason, and what to give instead.
    """
    if problem := next(declaration_problems(method, values), None):
        raise InputRefused(f"{problem}; {INSTEAD}")
    match method:
        case "gptq":
            return _gptq(values)
        case "awq":
            return _awq(values)
        case "compressed-tensors":
            return compressed_layout(values)
        case "fp8":
            return _block_fp8(values)
        case "modelopt":
            return modelopt_layout(values)
        case "bitsandbytes":
            raise InputRefused(
                "bitsandbytes packs a matrix as one run of blocks, without rows to cut, and no runtime of "
                f"TensorRT-LLM loads it; {INSTEAD}"
            )
    raise InputRefused(f"quantization method {method!r} is not read; {INSTEAD}")


def _gptq(values: dict[str, Any]) -> Layout:
    if values.get("desc_act"):
        raise InputRefused(
            "desc_act (act-order) stores the inputs of a matrix in another order, so that its groups "
            "cannot be cut, and TensorRT-LLM refuses it too; give a checkpoint made with desc_act=false, "
            f"or {INSTEAD}"
        )
    _expect_bits(values)
    _refuse_dynamic(values)
    version = gptq_format(values)
    if version not in ("gptq", "gptq_v2"):
        raise InputRefused(f"GPTQ checkpoint_format {version!r} is not read; expected gptq or gptq_v2")
    group, offset = group_of(values), 1 if version == "gptq" else 0
    return Layout(
        format="gptq",
        group=group,
        weight="qweight",
        packed=WORDS,
        beside={
            "qzeros": companion("in/group", "out/8", dtypes=WORDS),
            "scales": companion("in/group", "out"),
        },
        optional={"g_idx": companion("in", dtypes=("I32", "I64"))},
        shape=lambda shape: (shape[1], shape[0] * 8),
        components=partial(gptq.read_gptq, group=group, zero_offset=offset),
        even_zero=8 - offset if values.get("sym") is True else None,
    )


def _refuse_dynamic(values: dict[str, Any]) -> None:
    """GPTQModel's rules for single modules: patterns that begin with "-:" leave modules as they are.

    Source: GPTQModel, quantization/config.py (dynamic).
    """
    rules = values.get("dynamic") or {}
    if not isinstance(rules, dict):
        raise InputRefused(f"dynamic: found {str(rules)[:60]}, expected an object of patterns and settings")
    for pattern, settings in sorted(rules.items()):
        if pattern.startswith("-:"):
            continue
        held = settings if isinstance(settings, dict) else {}
        other = {key: value for key, value in held.items() if value != values.get(key)}
        if other or not isinstance(settings, dict):
            found = ", ".join(f"{key} {value}" for key, value in other.items()) or str(settings)[:60]
            raise InputRefused(
                f"dynamic: the rule {pattern!r} gives some modules {found}, unlike the rest, and the format "
                f"of TensorRT-LLM has one setting for all; {INSTEAD}"
            )


def _awq(values: dict[str, Any]) -> Layout:
    _expect_bits(values)
    version = awq_format(values)
    if version != "gemm":
        raise InputRefused(f"AWQ version {version!r} is not read; expected gemm")
    group = group_of(values)
    return Layout(
        format="awq",
        group=group,
        weight="qweight",
        packed=WORDS,
        beside={
            "qzeros": companion("in/group", "out/8", dtypes=WORDS),
            "scales": companion("in/group", "out"),
        },
        shape=lambda shape: (shape[1] * 8, shape[0]),
        components=partial(awq.read_awq, group=group),
    )


def _block_fp8(values: dict[str, Any]) -> Layout:
    if values.get("activation_scheme") == "static":
        raise InputRefused(
            "FP8 with activation_scheme static (one scale per matrix and one for its inputs, as Mistral "
            f"saves it) is not read; {INSTEAD}"
        )
    return blocks(values.get("weight_block_size"), suffix="weight_scale_inv")


def _expect_bits(values: dict[str, Any]) -> None:
    bits = values.get("bits", values.get("w_bit"))
    if bits != 4:
        raise InputRefused(f"found {bits} bits; only 4 are read")
