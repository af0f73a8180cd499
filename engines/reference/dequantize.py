"""Quantized matrices of a rank file as the float values they stand for, computed when they are loaded.

Nothing is executed in integers: what a format loses is in the values, what it saves in memory and time on a
GPU is not here. A float checkpoint that only declares an algorithm (the portable form) is rounded as
trtllm-build would round it.
Source: TensorRT-LLM 1.2, quantization/functional.py and quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor

from .layers.interleaved import ORDERS, signed_codes

LINEARS = (
    "attention.qkv",
    "attention.dense",
    "mlp.fc",
    "mlp.gate",
    "mlp.proj",
    "mlp.shared_expert.fc",
    "mlp.shared_expert.gate",
    "mlp.shared_expert.proj",
)
"""The linears that an algorithm applies to, unless config.json excludes them."""
_BLOCK = 128
_KV_ALGORITHMS = ("INT8", "FP8")
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FLOATS = ("F32", "F16", "BF16")


class StoredTensors(Protocol):
    """What is read of a rank file: its tensors as they are stored, each once."""

    def dtype(self, name: str) -> str:
        """The type of a tensor, as the header spells it."""

    def read_unconverted(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of `shape` as it is in the file, on the CPU."""


@dataclass(frozen=True)
class Quantized:
    """What config.json says of the weights: the algorithm, its group size, modules left as they are.

    `exclude` are patterns of full dotted names, of modules or of what they are part of.
    `order` is that of the integers of INT4 in groups, which engine.json alone says.
    """

    algorithm: str
    group_size: int
    exclude: tuple[str, ...]
    order: str = "plain"

    def applies(self, name: str) -> bool:
        """Whether the tensor `name` is a quantized matrix."""
        module = name.removesuffix(".weight")
        return (
            name.endswith(".weight")
            and module.endswith(tuple(f".{one}" for one in LINEARS))
            and not any(
                fnmatchcase(one, pattern) for one in _with_parents(module) for pattern in self.exclude
            )
        )


def _with_parents(module: str) -> list[str]:
    """``a.b.c``, ``a.b`` and ``a``."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def read_quantized(checkpoint: dict[str, Any], manifest: dict[str, Any]) -> Quantized | None:
    """What the weights of a checkpoint with this config.json are, or None when they are plain.

    `manifest` is engine.json.
    """
    quantization = checkpoint.get("quantization") or {}
    if not quantization.get("quant_algo"):
        return None
    return Quantized(
        algorithm=quantization["quant_algo"],
        group_size=quantization.get("group_size") or 0,
        exclude=tuple(quantization.get("exclude_modules") or ()),
        order=_order(manifest),
    )


def order_problems(manifest: dict[str, Any]) -> list[str]:
    """What of the order of the integers, as engine.json has it, is not executed."""
    order = _order(manifest)
    return [] if order in ORDERS else [f"integers in order {order}, known are {', '.join(ORDERS)}"]


def _order(manifest: dict[str, Any]) -> str:
    order: str = (manifest.get("quantization") or {}).get("order", "plain")
    return order


def quantization_problems(checkpoint: dict[str, Any]) -> list[str]:
    """What of the quantization in config.json is not executed."""
    quantization = checkpoint.get("quantization") or {}
    problems = []
    algorithm, kv = quantization.get("quant_algo"), quantization.get("kv_cache_quant_algo")
    if algorithm and algorithm not in _READERS:
        problems.append(f"quant_algo {algorithm}, known are {', '.join(sorted(_READERS))}")
    if kv and kv not in _KV_ALGORITHMS:
        problems.append(f"kv_cache_quant_algo {kv}, known are {', '.join(_KV_ALGORITHMS)}")
    return problems


def kv_rounding(algorithm: str, step: float) -> Callable[[Tensor], Tensor]:
    """What keys and values come back as from a quantized KV cache whose numbers have this step; any shape.

    INT8: x / step, rounded, within [-128, 127]; FP8: x / step in e4m3, saturated at 448. Then times the step,
    in the type of x.
    """

    def rounded(values: Tensor) -> Tensor:
        ratio = values.float() / step
        if algorithm == "INT8":
            held = ratio.round().clamp(-128, 127)
        else:
            held = ratio.clamp(-448, 448).to(torch.float8_e4m3fn).float()
        return (held * step).to(values.dtype)

    return rounded


def read_dequantized(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    """The matrix `name` of `shape` [out, in], or [experts, out, in], in float32 on the CPU.

    Raises:
        EngineError: a tensor that belongs to it is missing or has another shape.
    """
    return _READERS[quantized.algorithm](file, name, shape, quantized)


def _integers(weight: Tensor, *, bits: int) -> tuple[Tensor, Tensor]:
    """The integers of a float matrix, and float32 scales by row; halves are rounded away from zero."""
    limit = 2 ** (bits - 1)
    scale = weight.float().abs().amax(-1, keepdim=True) / limit
    ratio = torch.where(scale == 0, 0.0, weight.float() / scale)
    rest = ratio - ratio.trunc()
    rounded = ratio.trunc() + torch.where(rest.abs() >= 0.5, rest.sign(), 0.0)
    return rounded.clamp(-limit, limit - 1), scale


def _weight_only(bits: int) -> Callable[[StoredTensors, str, tuple[int, ...], Quantized], Tensor]:
    def read(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
        *experts, rows, columns = shape
        if file.dtype(name) in _FLOATS:
            weight = file.read_unconverted(name, shape)
            codes, scale = _integers(weight, bits=bits)
            # The scales are stored in the type of the weights.
            return codes * scale.to(weight.dtype).float()
        stored = file.read_unconverted(name, (*experts, columns, rows * bits // 8))
        scale = file.read_unconverted(_beside(name, "per_channel_scale"), (*experts, rows))
        codes = stored if bits == 8 else low_high(stored)
        return codes.transpose(-1, -2).float() * scale.float()[..., None]

    return read


def _fp8_rowwise(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    weight = file.read_unconverted(name, shape)
    scale = file.read_unconverted(_beside(name, "per_channel_scale"), shape[:-1])
    return weight.float() * scale[..., None]


def _fp8_block(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    *experts, rows, columns = shape
    weight = file.read_unconverted(name, shape)
    blocks = (*experts, -(-rows // _BLOCK), -(-columns // _BLOCK))
    scale = file.read_unconverted(_beside(name, "weights_block_scaling_factor"), blocks)
    scale = scale.repeat_interleave(_BLOCK, -2).repeat_interleave(_BLOCK, -1)
    return weight.float() * scale[..., :rows, :columns]


def _mxfp4(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    *experts, rows, columns = shape
    packed = file.read_unconverted(name, (*experts, rows, columns // 2))
    exponents = file.read_unconverted(
        _beside(name, "weights_scaling_factor"), (*experts, rows, columns // 32)
    )
    return torch.ldexp(_e2m1(packed), (exponents.int() - 127).repeat_interleave(32, -1))


def _nvfp4(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    *experts, rows, columns = shape
    packed = file.read_unconverted(name, (*experts, rows, columns // 2))
    groups = (*experts, rows, columns // 16)
    scale = file.read_unconverted(_beside(name, "weights_scaling_factor"), groups).float()
    whole = file.read_unconverted(_beside(name, "weights_scaling_factor_2"), (*experts, 1))
    # Of the activations, which are not rounded here.
    file.read_unconverted(_beside(name, "activation_scaling_factor"), (*experts, 1))
    return _e2m1(packed) * (scale * whole[..., None]).repeat_interleave(16, -1)


def _groups(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    *experts, rows, columns = shape
    if quantized.order == "plain":
        codes = low_high(file.read_unconverted(name, (*experts, columns, rows // 2)))
    else:
        codes = signed_codes(file.read_unconverted(name, (columns, rows // 4)), quantized.order)
    groups = (*experts, columns // quantized.group_size, rows)
    scale = file.read_unconverted(_beside(name, "weights_scaling_factor"), groups).float()
    zero = file.read_unconverted(_beside(name, "zero"), groups).float()
    scale, zero = (one.repeat_interleave(quantized.group_size, -2) for one in (scale, zero))
    return (codes.float() * scale + zero).transpose(-1, -2)


def _fp8(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    scale = file.read_unconverted(_beside(name, "weights_scaling_factor"), (*shape[:-2], 1))
    # Of static activations, which are not rounded here.
    file.read_unconverted(_beside(name, "activation_scaling_factor"), (*shape[:-2], 1))
    return file.read_unconverted(name, shape).float() * scale[..., None]


def _int8_rows(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    scale = file.read_unconverted(_beside(name, "per_channel_scale"), shape[:-1])
    return file.read_unconverted(name, shape).float() * scale[..., None]


def _smooth(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    """The scales of the inputs are put into the weights: x s W = x (s W)."""
    *experts, _, columns = shape
    values = _int8_rows(file, name, shape, quantized)
    file.read_unconverted(_beside(name, "activation_scaling_factor"), (*experts, 1))
    scale = file.read_unconverted(_beside(name, "prequant_scaling_factor"), (*experts, columns))
    return values * scale[..., None, :]


def _awq(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    if quantized.order == "modelopt":
        return _awq_of_modelopt(file, name, shape, quantized)
    *experts, rows, columns = shape
    codes = low_high(file.read_unconverted(name, (*experts, columns, rows // 2))).float()
    groups = (*experts, columns // quantized.group_size, rows)
    scale = file.read_unconverted(_beside(name, "weights_scaling_factor"), groups).float()
    values = (codes * scale.repeat_interleave(quantized.group_size, -2)).transpose(-1, -2)
    inputs = file.read_unconverted(_beside(name, "prequant_scaling_factor"), (*experts, 1, columns))
    return values * inputs.float()


def _awq_of_modelopt(file: StoredTensors, name: str, shape: tuple[int, ...], quantized: Quantized) -> Tensor:
    """As nvidia-modelopt writes it for trtllm-build: two rows in a byte."""
    rows, columns = shape
    codes = low_high(file.read_unconverted(name, (rows // 2, columns)).T).T.float()
    groups = (rows, columns // quantized.group_size)
    scale = file.read_unconverted(_beside(name, "weights_scaling_factor"), groups).float()
    inputs = file.read_unconverted(_beside(name, "prequant_scaling_factor"), (columns,))
    return codes * scale.repeat_interleave(quantized.group_size, -1) * inputs.float()


def _e2m1(packed: Tensor) -> Tensor:
    """Numbers of 4 bits in float32, two in each byte of the last dim, the low half first."""
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
    return torch.tensor(_E2M1)[(codes & 7).long()] * (1 - 2.0 * (codes >> 3))


def low_high(packed: Tensor) -> Tensor:
    """Signed integers of 4 bits, two in each byte, the low half first: [..., n] to [..., 2 n]."""
    low, high = (packed << 4) >> 4, packed >> 4
    return torch.stack((low, high), dim=-1).flatten(-2)


def _beside(name: str, suffix: str) -> str:
    return f"{name.removesuffix('.weight')}.{suffix}"


_READERS: dict[str, Callable[[StoredTensors, str, tuple[int, ...], Quantized], Tensor]] = {
    "W8A16": _weight_only(8),
    "W4A16": _weight_only(4),
    "FP8_PER_CHANNEL_PER_TOKEN": _fp8_rowwise,
    "FP8_BLOCK_SCALES": _fp8_block,
    "W4A16_MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
    "W4A16_GPTQ": _groups,
    "FP8": _fp8,
    "W8A8": _int8_rows,
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": _smooth,
    "W4A16_AWQ": _awq,
}
