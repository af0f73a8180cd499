"""Writes quantized Hugging Face checkpoints of a tiny llama by their published layouts, for tests.

It shares no code with tpforge: words are sums of numbers times powers of 16. Weights are rounded to
nearest; what matters is the layout. `values` are what each written matrix stands for.
Source: AutoGPTQ (qlinear), AutoAWQ (gemm.py), compressed-tensors (pack_quantized, float_quantized),
DeepSeek-V3 (fp8 in blocks), nvidia-modelopt 0.47 (unified export).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.support.quantized.fp4 import write_compressed_nvfp4, write_modelopt_nvfp4

Tensors = dict[str, torch.Tensor]
Array = NDArray[Any]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def write_quantized(source: Path, out: Path, *, method: str, group: int = 32, **options: Any) -> Tensors:
    """Quantize every layer's linears of `source` into the new folder `out`; the values by name."""
    out.mkdir()
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            (out / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = CONFIGS[method](group) | options
    (out / "config.json").write_text(json.dumps(config))
    tensors: Tensors = {}
    values: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("proj.weight"):
            module = name.removesuffix(".weight")
            made, values[name] = WRITERS[method](tensor.float().numpy(), group)
            tensors |= {f"{module}.{suffix}": value for suffix, value in made.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, out / "model.safetensors")
    return values


def _by_group(weight: Array, group: int) -> tuple[Array, Array, Array]:
    """Integers 0 to 15 [out, in], scales (float16) and zero points [out, in / group]."""
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // group, group)
    low, high = np.minimum(grouped.min(2), 0), np.maximum(grouped.max(2), 0)
    scales = np.maximum((high - low) / 15, 1e-4).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float32)), 1, 15).astype(np.int64)
    codes = np.round(grouped / scales.astype(np.float32)[..., None]) + zeros[..., None]
    return np.clip(codes, 0, 15).astype(np.int64).reshape(rows, columns), scales, zeros


def _values(codes: Array, scales: Array, zeros: Array, group: int) -> torch.Tensor:
    spread = np.repeat(scales.astype(np.float32), group, 1)
    return torch.from_numpy(((codes - np.repeat(zeros, group, 1)) * spread).astype(np.float32))


def _words(numbers: Array, order: list[int] | None = None) -> torch.Tensor:
    """[rows, n] of 4 bits as int32 words [rows, n / 8]; place i holds number order[i] of its eight."""
    rows, count = numbers.shape
    held = numbers.astype(np.uint64).reshape(rows, count // 8, 8)
    words = np.zeros((rows, count // 8), dtype=np.uint64)
    for place, number in enumerate(order or range(8)):
        words += held[:, :, number] * 16**place
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def _gptq(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    codes, scales, zeros = _by_group(weight, group)
    return {
        "qweight": _words(codes).T.contiguous(),
        "qzeros": _words((zeros - 1).T),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // group,
    }, _values(codes, scales, zeros, group)


def _awq(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    codes, scales, zeros = _by_group(weight, group)
    return {
        "qweight": _words(codes.T, AWQ_ORDER),
        "qzeros": _words(zeros.T, AWQ_ORDER),
        "scales": torch.from_numpy(scales.T.copy()),
    }, _values(codes, scales, zeros, group)


def _packed(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // group, group)
    scales = np.maximum(np.abs(grouped).max(2) / 7.5, 1e-4).astype(np.float16)
    codes = np.clip(np.round(grouped / scales.astype(np.float32)[..., None]), -8, 7).astype(np.int64)
    codes = codes.reshape(rows, columns)
    return {
        "weight_packed": _words(codes + 8),
        "weight_scale": torch.from_numpy(scales),
        "weight_shape": torch.tensor(weight.shape),
    }, _values(codes, scales, np.zeros(scales.shape, dtype=np.int64), group)


def _packed_zeros(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    """Zero points are packed along the outputs, the codes along the inputs."""
    codes, scales, zeros = _by_group(weight, group)
    return {
        "weight_packed": _words(codes),
        "weight_scale": torch.from_numpy(scales),
        "weight_shape": torch.tensor(weight.shape),
        "weight_zero_point": _words(zeros.T).T.contiguous(),
    }, _values(codes, scales, zeros, group)


def _int8(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    scales = np.abs(weight).max(1, keepdims=True) / 127
    codes = torch.from_numpy(np.round(weight / scales).astype(np.int8))
    held = torch.from_numpy(scales.astype(np.float32))
    return {"weight": codes, "weight_scale": held}, codes.float() * held


def _int8_rows(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    """llmcompressor keeps scales in the model's type, often bfloat16."""
    scales = torch.from_numpy(np.abs(weight).max(1, keepdims=True) / 127).bfloat16()
    codes = (torch.from_numpy(weight) / scales.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": codes, "weight_scale": scales}, codes.float() * scales.float()


def _e4m3_static(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    """llmcompressor's scales of a whole matrix are [1], in the model's type."""
    scale = torch.tensor([np.abs(weight).max() / 448]).bfloat16()
    codes = (torch.from_numpy(weight) / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    made = {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor([0.01]).bfloat16()}
    return made, codes.float() * scale.float()


def _e4m3_rows(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    scales = torch.from_numpy((np.abs(weight).max(1, keepdims=True) / 448).astype(np.float32))
    codes = (torch.from_numpy(weight) / scales).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scales}, codes.float() * scales


def _e4m3_blocks(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    rows, columns = weight.shape
    scales = torch.zeros(-(-rows // 128), -(-columns // 128))
    codes = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
    values = torch.zeros(rows, columns)
    for row in range(0, rows, 128):
        for column in range(0, columns, 128):
            block = torch.from_numpy(weight[row : row + 128, column : column + 128])
            scale = block.abs().max() / 448
            held = (block / scale).to(torch.float8_e4m3fn)
            scales[row // 128, column // 128] = scale
            codes[row : row + 128, column : column + 128] = held
            values[row : row + 128, column : column + 128] = held.float() * scale
    return {"weight": codes, "weight_scale_inv": scales}, values


def _e4m3_tensor(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    scale = torch.tensor(float(np.abs(weight).max() / 448))
    codes = (torch.from_numpy(weight) / scale).to(torch.float8_e4m3fn)
    return {
        "weight": codes,
        "weight_scale": scale,
        "input_scale": torch.tensor(0.01),
    }, codes.float() * scale


def _smooth(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    columns = np.linspace(0.5, 2.0, weight.shape[1], dtype=np.float32)
    made, values = _int8(weight / columns, group)
    made |= {
        "weight_scale": made["weight_scale"].flatten(),
        "pre_quant_scale": torch.from_numpy(columns),
        "input_scale": torch.tensor(0.01),
    }
    return made, values * torch.from_numpy(columns)


def _modelopt_awq(weight: Array, group: int) -> tuple[Tensors, torch.Tensor]:
    """Two rows in a byte; the even one in the low half."""
    columns = np.linspace(0.5, 2.0, weight.shape[1], dtype=np.float16)
    held = weight / columns.astype(np.float32)
    rows = held.shape[0]
    scales = np.abs(held.reshape(rows, -1, group)).max(2) / 7
    scales = scales.astype(np.float16)
    spread = np.repeat(scales.astype(np.float32), group, 1)
    codes = np.clip(np.round(held / spread), -8, 7).astype(np.int64)
    packed = (codes[0::2] % 16 + 16 * (codes[1::2] % 16)).astype(np.uint8)
    return {
        "weight": torch.from_numpy(packed),
        "weight_scale": torch.from_numpy(scales),
        "pre_quant_scale": torch.from_numpy(columns),
    }, torch.from_numpy((codes * spread).astype(np.float32)) * torch.from_numpy(columns).float()


def _compressed(layout: str, activations: dict[str, Any] | None, **weights: Any) -> dict[str, Any]:
    """The keys of compressed-tensors 0.19."""
    unset = {"actorder": None, "block_structure": None, "scale_dtype": None, "zp_dtype": None}
    group = {
        "format": layout,
        "targets": ["Linear"],
        "weights": {"symmetric": True, "dynamic": False, "observer_kwargs": {}, **unset, **weights},
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "config_groups": {"group_0": group},
    }


DYNAMIC = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
CONFIGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "gptq": lambda group: {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "desc_act": False,
        "sym": False,
    },
    "awq": lambda group: {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "version": "gemm",
    },
    "packed": lambda group: _compressed(
        "pack-quantized", None, num_bits=4, type="int", strategy="group", group_size=group
    ),
    "packed zeros": lambda group: _compressed(
        "pack-quantized", None, num_bits=4, type="int", strategy="group", group_size=group, symmetric=False
    ),
    "fp8 static": lambda group: _compressed(
        "float-quantized",
        DYNAMIC | {"type": "float", "dynamic": False, "strategy": "tensor"},
        num_bits=8,
        type="float",
        strategy="tensor",
    ),
    "int8": lambda group: _compressed("int-quantized", DYNAMIC, num_bits=8, type="int", strategy="channel"),
    "fp8 rows": lambda group: _compressed(
        "float-quantized", DYNAMIC | {"type": "float"}, num_bits=8, type="float", strategy="channel"
    ),
    "fp8 blocks": lambda group: {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "smooth": lambda group: {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"},
    "modelopt awq": lambda group: {
        "quant_method": "modelopt",
        "quant_algo": "W4A16_AWQ",
        "group_size": group,
    },
    "fp8": lambda group: {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None},
    "modelopt nvfp4": lambda group: {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    "packed nvfp4": lambda group: _compressed(
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "dynamic": "local", "strategy": "tensor_group", "group_size": 16},
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
    ),
}
WRITERS: dict[str, Callable[[Array, int], tuple[Tensors, torch.Tensor]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "packed": _packed,
    "packed zeros": _packed_zeros,
    "fp8 static": _e4m3_static,
    "int8": _int8_rows,
    "fp8 rows": _e4m3_rows,
    "fp8 blocks": _e4m3_blocks,
    "fp8": _e4m3_tensor,
    "modelopt nvfp4": write_modelopt_nvfp4,
    "packed nvfp4": write_compressed_nvfp4,
    "smooth": _smooth,
    "modelopt awq": _modelopt_awq,
}
