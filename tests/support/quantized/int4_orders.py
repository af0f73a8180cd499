"""Checkpoints of INT4 in groups whose integers are numbered, and their rank files in an order.

What the order is, is not here: tests say it in upstream's words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from builders.conversion.convert import Conversion, convert
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping

LAYER = "transformer.layers.0"


SIZES: dict[str, Any] = {
    "dtype": "float16",
    "num_layers": 1,
    "num_heads": 8,
    "num_kv_heads": 4,
    "head_size": 32,
    "hidden_size": 256,
    "intermediate_size": 256,
}
"""At tp=4 and in groups of 64 nothing is enlarged by TensorRT-LLM."""


SMS = {"sm80": 80, "sm90": 90}


def checkpoint(folder: Path, method: str, **sizes: Any) -> Path:
    """A quantized llama in groups of 64 whose integers are numbered."""
    plain = write_tiny_llama(folder / "plain", **(SIZES | sizes))
    write_quantized(plain, folder / "model", method=method, group=64)
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith(("qweight", "proj.weight")):
            number = np.arange(tensor.numel(), dtype=np.uint64) * 2654435761 + len(name)
            held = (number >> 7).astype(np.uint32).view(np.int32)
            numbers = torch.from_numpy(held).reshape(tensor.shape)
            tensors[name] = numbers if name.endswith("qweight") else (numbers & 255).to(torch.uint8)
    save_file(tensors, path)
    return folder / "model"


def laid_out_ranks(
    model: Path, out: Path, *, order: Any, tp_size: int
) -> tuple[Conversion, list[dict[str, torch.Tensor]]]:
    out.mkdir(parents=True)
    with open_source(str(model)) as source:
        assert source.quantized is not None
        layout = source.quantized.layout
        conversion = convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(tp_size=tp_size),
                quantization=Quantization(format=layout.format, group_size=layout.group, order=order),
            ),
            out=out,
        )
    return conversion, [load_file(out / f"rank{rank}.safetensors") for rank in range(tp_size)]
