"""NVFP4 checkpoints: of nvidia-modelopt, and "nvfp4-pack-quantized" of compressed-tensors.

Two inputs in a byte [out, in / 2], the even one in the low half, an e4m3 scale for 16 inputs, and one float32
for the matrix, by which modelopt multiplies and compressed-tensors divides.
Source: nvidia-modelopt 0.47, torch/quantization/qtensor/nvfp4_tensor.py; compressed-tensors 0.20,
compressors/nvfp4; TensorRT-LLM 1.2, quantization/layers.py.
"""

from __future__ import annotations

import torch

from builders.sources.quantized.components import Components
from builders.sources.quantized.gptq import Read

_GROUP = 16
# All e2m1 numbers are e4m3 numbers too.
_NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
_AS_E4M3 = _NUMBERS.to(torch.float8_e4m3fn).view(torch.uint8)


def read_modelopt(read: Read, module: str) -> Components:
    """ModelOpt's: weight, weight_scale, weight_scale_2 and input_scale."""
    return _components(
        read(f"{module}.weight"),
        read(f"{module}.weight_scale"),
        whole=read(f"{module}.weight_scale_2").float().reshape(1),
        inputs=read(f"{module}.input_scale").float().reshape(1),
    )


def read_compressed(read: Read, module: str, *, has_inputs: bool) -> Components:
    """compressed-tensors': weight_packed, weight_scale, weight_global_scale, and that of inputs if any."""
    inputs = read(f"{module}.input_global_scale").float().reshape(1) if has_inputs else torch.ones(1)
    return _components(
        read(f"{module}.weight_packed"),
        read(f"{module}.weight_scale"),
        whole=1 / read(f"{module}.weight_global_scale").float().reshape(1),
        inputs=1 / inputs,
    )


def _components(
    packed: torch.Tensor, scales: torch.Tensor, *, whole: torch.Tensor, inputs: torch.Tensor
) -> Components:
    halves = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
    codes = _AS_E4M3[halves.int()].view(torch.float8_e4m3fn)
    return Components(
        codes=codes,
        scales=scales,
        group=_GROUP,
        input_scale=inputs,
        whole_scale=whole,
    )
