"""How a quantized matrix lies in a rank file: which tensors it becomes, with their types and shapes.

It computes no value; `builders.quantize.formats` does. A matrix [out, in] of a rank becomes its packed weight
and what is needed to read it, one after the other, so that plans know every byte.
Source: TensorRT-LLM 1.2, quantization/layers.py and quantization/functional.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tpforge.dtypes import DType
from tpforge.quantization import Order, Quantization

QUANTIZED = (
    "attention.qkv",
    "attention.dense",
    "mlp.fc",
    "mlp.gate",
    "mlp.proj",
    "mlp.shared_expert.fc",
    "mlp.shared_expert.gate",
    "mlp.shared_expert.proj",
)
"""The linears of a layer that a quantized engine quantizes; all else stays as it is."""
BLOCK = 128
"""Rows and columns of a block of fp8_block."""
_ITEM_BYTES = {"I8": 1, "U8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a rank file; `dtype` is spelled as in a safetensors header."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its content."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


class _Tensor(NamedTuple):
    """One of the tensors that a matrix [out, in] becomes; no dtype is the checkpoint's.

    Sizes are those of the matrix, divided by a number, a group or a BLOCK and rounded up.
    """

    suffix: str
    dtype: str | None
    shape: tuple[str, ...]


@dataclass(frozen=True)
class StoredFormat:
    """What a matrix of one format becomes in a rank file, and where its rows may be cut.

    `row_group` rows share a scale, all of them where it is 0; how many columns do, `Packing.group_size` says.
    `other_orders` has the orders of the integers in which the tensors are others.
    """

    tensors: tuple[_Tensor, ...]
    row_group: int = 1
    other_orders: Mapping[Order, tuple[_Tensor, ...]] = field(default_factory=dict)

    def in_order(self, order: Order) -> tuple[_Tensor, ...]:
        """The tensors, with the integers in `order`."""
        return self.other_orders.get(order, self.tensors)


_ROW_SCALES = _Tensor("per_channel_scale", "F32", ("out",))
_OWN_ROW_SCALES = _Tensor("per_channel_scale", None, ("out",))
_ONE_SCALE = _Tensor("weights_scaling_factor", "F32", ("1",))
_INPUT_SCALE = _Tensor("activation_scaling_factor", "F32", ("1",))
_GROUP_SCALES = _Tensor("weights_scaling_factor", None, ("in/group", "out"))
_INT4 = _Tensor("weight", "I8", ("in", "out/2"))
_INT4_AS_FLOATS = _Tensor("weight", None, ("in", "out/4"))
_ZEROS = _Tensor("zero", None, ("in/group", "out"))
_GPTQ = StoredFormat(
    (_INT4, _GROUP_SCALES, _ZEROS),
    other_orders=dict.fromkeys(("sm80", "sm90"), (_INT4_AS_FLOATS, _GROUP_SCALES, _ZEROS)),
)

STORED: Mapping[str, StoredFormat] = {
    "int8_wo": StoredFormat((_Tensor("weight", "I8", ("in", "out")), _OWN_ROW_SCALES)),
    "int4_wo": StoredFormat((_INT4, _OWN_ROW_SCALES)),
    "fp8": StoredFormat(
        (_Tensor("weight", "F8_E4M3", ("out", "in")), _ONE_SCALE, _INPUT_SCALE),
        row_group=0,
    ),
    "fp8_rowwise": StoredFormat((_Tensor("weight", "F8_E4M3", ("out", "in")), _ROW_SCALES)),
    "fp8_block": StoredFormat(
        (
            _Tensor("weight", "F8_E4M3", ("out", "in")),
            _Tensor("weights_block_scaling_factor", "F32", ("out/block", "in/block")),
        ),
        row_group=BLOCK,
    ),
    "mxfp4": StoredFormat(
        (
            _Tensor("weight", "U8", ("out", "in/2")),
            _Tensor("weights_scaling_factor", "U8", ("out", "in/32")),
        )
    ),
    "nvfp4": StoredFormat(
        (
            _Tensor("weight", "U8", ("out", "in/2")),
            _Tensor("weights_scaling_factor", "F8_E4M3", ("out", "in/16")),
            _Tensor("weights_scaling_factor_2", "F32", ("1",)),
            _INPUT_SCALE,
        )
    ),
    "gptq": _GPTQ,
    "awq": _GPTQ,
    "int4_awq": StoredFormat(
        (_INT4, _GROUP_SCALES, _Tensor("prequant_scaling_factor", None, ("1", "in"))),
        other_orders={
            "modelopt": (
                _Tensor("weight", "I8", ("out/2", "in")),
                _Tensor("weights_scaling_factor", None, ("out", "in/group")),
                _Tensor("prequant_scaling_factor", None, ("in",)),
            )
        },
    ),
    "int8_sq": StoredFormat(
        (
            _Tensor("weight", "I8", ("out", "in")),
            _ROW_SCALES,
            _Tensor("prequant_scaling_factor", "F32", ("in",)),
            _INPUT_SCALE,
        )
    ),
    "int8_w8a8": StoredFormat((_Tensor("weight", "I8", ("out", "in")), _ROW_SCALES)),
}
"""Every format that rank files hold, by its name in quantization.toml."""


@dataclass(frozen=True)
class Packing:
    """In which format a matrix is packed; `group_size` 0 is a scale for each row, `order` that of INT4."""

    format: str
    group_size: int = 0
    order: Order = "plain"

    def stored(self, name: str, shape: tuple[int, ...], *, dtype: DType) -> tuple[Stored, ...]:
        """What the matrix `name` becomes; shape [out, in], or [experts, out, in]."""
        *experts, rows, columns = shape
        sizes = {"out": rows, "in": columns, "1": 1}
        divisors = {"": 1, "group": self.group_size, "block": BLOCK}
        base = name.removesuffix(".weight")

        def size(words: str) -> int:
            of, _, by = words.partition("/")
            return -(-sizes[of] // (divisors[by] if by in divisors else int(by)))

        return tuple(
            Stored(f"{base}.{one.suffix}", one.dtype or dtype.safetensors, (*experts, *map(size, one.shape)))
            for one in STORED[self.format].in_order(self.order)
        )

    def names(self, name: str) -> tuple[str, ...]:
        """The names of the tensors that the matrix `name` becomes."""
        return tuple(one.name for one in self.stored(name, (BLOCK, BLOCK), dtype=DType.FLOAT32))


def is_quantized(name: str) -> bool:
    """Whether `name`, a tensor of a rank file, is a matrix that a quantized engine quantizes."""
    return name.startswith("transformer.layers.") and name.endswith(
        tuple(f".{one}.weight" for one in QUANTIZED)
    )


def packing_of(name: str, quantization: Quantization | None) -> Packing | None:
    """How the matrix `name` is packed; None when it is stored as it is."""
    if quantization is None or quantization.form == "portable":
        return None
    return declared_packing(name, quantization)


def declared_packing(name: str, quantization: Quantization | None) -> Packing | None:
    """As `packing_of`; of the portable form, how trtllm-build packs the matrix."""
    if quantization is None or quantization.format is None or not is_quantized(name):
        return None
    return Packing(quantization.format, quantization.group_size, quantization.order)


def kv_scale_name(layer: int) -> str:
    """The tensor that holds the step of a layer's KV cache; `layer` counts within the pipeline stage."""
    return f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"
