"""How a quantized matrix lies in a rank file: which tensors it becomes, with their types and shapes.

It computes no value; `builders.quantize` does. A matrix [out, in] of a rank becomes its packed weight and
what is needed to read it, one after the other, so that plans know every byte.
Source: TensorRT-LLM 1.2, quantization/layers.py and quantization/functional.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Packing:
    """In which format a matrix is packed; `group_size` 0 is a scale for each row, `order` that of INT4."""

    format: str
    group_size: int = 0
    order: Order = "plain"

    def stored(self, name: str, shape: tuple[int, ...], *, dtype: DType) -> tuple[Stored, ...]:
        """What the matrix `name` becomes; shape [out, in], or [experts, out, in]."""
        *experts, rows, columns = shape
        base = name.removesuffix(".weight")

        def tensor(suffix: str, own: str, *sizes: int) -> Stored:
            return Stored(f"{base}.{suffix}", own, (*experts, *sizes))

        match self.format:
            case "int8_wo":
                weight = tensor("weight", "I8", columns, rows)
                return (weight, tensor("per_channel_scale", dtype.safetensors, rows))
            case "int4_wo":
                weight = tensor("weight", "I8", columns, rows // 2)
                return (weight, tensor("per_channel_scale", dtype.safetensors, rows))
            case "fp8_rowwise":
                weight = tensor("weight", "F8_E4M3", rows, columns)
                return (weight, tensor("per_channel_scale", "F32", rows))
            case "fp8_block":
                weight = tensor("weight", "F8_E4M3", rows, columns)
                blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
                return (weight, tensor("weights_block_scaling_factor", "F32", *blocks))
            case "mxfp4":
                weight = tensor("weight", "U8", rows, columns // 2)
                return (weight, tensor("weights_scaling_factor", "U8", rows, columns // 32))
            case "nvfp4":
                return (
                    tensor("weight", "U8", rows, columns // 2),
                    tensor("weights_scaling_factor", "F8_E4M3", rows, columns // 16),
                    tensor("weights_scaling_factor_2", "F32", 1),
                    tensor("activation_scaling_factor", "F32", 1),
                )
            case "gptq" | "awq":
                groups = (columns // self.group_size, rows)
                plain = self.order == "plain"
                return (
                    tensor("weight", "I8", columns, rows // 2)
                    if plain
                    else tensor("weight", dtype.safetensors, columns, rows // 4),
                    tensor("weights_scaling_factor", dtype.safetensors, *groups),
                    tensor("zero", dtype.safetensors, *groups),
                )
            case "fp8":
                return (
                    tensor("weight", "F8_E4M3", rows, columns),
                    tensor("weights_scaling_factor", "F32", 1),
                    tensor("activation_scaling_factor", "F32", 1),
                )
            case "int8_sq":
                return (
                    tensor("weight", "I8", rows, columns),
                    tensor("per_channel_scale", "F32", rows),
                    tensor("prequant_scaling_factor", "F32", columns),
                    tensor("activation_scaling_factor", "F32", 1),
                )
            case "int4_awq" if self.order == "modelopt":
                return (
                    tensor("weight", "I8", rows // 2, columns),
                    tensor("weights_scaling_factor", dtype.safetensors, rows, columns // self.group_size),
                    tensor("prequant_scaling_factor", dtype.safetensors, columns),
                )
            case "int4_awq":
                return (
                    tensor("weight", "I8", columns, rows // 2),
                    tensor("weights_scaling_factor", dtype.safetensors, columns // self.group_size, rows),
                    tensor("prequant_scaling_factor", dtype.safetensors, 1, columns),
                )
            case "int8_w8a8":
                weight = tensor("weight", "I8", rows, columns)
                return (weight, tensor("per_channel_scale", "F32", rows))
        raise AssertionError(f"no packing of {self.format}")

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
