"""compressed-tensors, DeepSeek's FP8 and nvidia-modelopt's checkpoints: weights [out, in] with scales beside.

Integers of 4 bits are packed along the inputs in int32 words, stored plus 8; FP8 is e4m3.
Source: compressed-tensors, compressors/quantized_compressors; transformers, integrations/finegrained_fp8.py;
nvidia-modelopt 0.47, export/quant_utils.py.
"""

from __future__ import annotations

import torch

from builders.sources.quantized.components import Components
from builders.sources.quantized.gptq import Read, nibbles


def read_packed(read: Read, module: str, *, group: int, symmetric: bool) -> Components:
    """INT4 in groups ("pack-quantized"); zero points, stored plus 8 too, are packed along the outputs."""
    scales = read(f"{module}.weight_scale")
    codes = nibbles(read(f"{module}.weight_packed"), dim=1)
    if symmetric:
        return Components(codes=codes, scales=scales, zeros=torch.full_like(scales, 8), group=group)
    # The last word is filled up where the outputs are no multiple of 8.
    zeros = nibbles(read(f"{module}.weight_zero_point"), dim=0)[: codes.shape[0]]
    return Components(codes=codes, scales=scales, zeros=zeros.contiguous(), group=group)


def read_rows(read: Read, module: str) -> Components:
    """INT8 or FP8 with one scale for each row; the scales are [out, 1]."""
    scales = read(f"{module}.weight_scale")
    return Components(codes=read(f"{module}.weight"), scales=scales.reshape(-1, 1))


def read_blocks(read: Read, module: str, *, suffix: str, block: int) -> Components:
    """FP8 in blocks; `suffix` names the scales."""
    return Components(
        codes=read(f"{module}.weight"), scales=read(f"{module}.{suffix}"), group=block, row_group=block
    )


def read_smooth(read: Read, module: str) -> Components:
    """ModelOpt's SmoothQuant: INT8 with a scale for each row, and one for each input."""
    return Components(
        codes=read(f"{module}.weight"),
        scales=read(f"{module}.weight_scale").float().reshape(-1, 1),
        input_scale=read(f"{module}.input_scale").float().reshape(1),
        column_scales=read(f"{module}.pre_quant_scale"),
    )


def read_modelopt_awq(read: Read, module: str, *, group: int) -> Components:
    """ModelOpt's AWQ: two rows in a byte, the even one in the low half; a scale for each input."""
    packed = read(f"{module}.weight")
    codes = torch.stack((packed & 15, packed >> 4), dim=1).flatten(0, 1)
    scales = read(f"{module}.weight_scale")
    # Signed integers of 4 bits, as if stored plus 8.
    return Components(
        codes=(codes + 8) & 15,
        scales=scales,
        zeros=torch.full_like(scales, 8),
        group=group,
        column_scales=_column_scales(read, module, inputs=packed.shape[1]),
    )


def _column_scales(read: Read, module: str, *, inputs: int) -> torch.Tensor:
    """Ones where they were put into the norm before the matrix."""
    try:
        return read(f"{module}.pre_quant_scale")
    except KeyError:
        return torch.ones(inputs)


def read_tensor_fp8(read: Read, module: str) -> Components:
    """FP8 with one scale for the matrix, and one for its inputs."""
    return Components(
        codes=read(f"{module}.weight"),
        scales=read(f"{module}.weight_scale").float().reshape(1, 1),
        row_group=0,
        input_scale=read(f"{module}.input_scale").float().reshape(1),
    )
