"""Writes llama-shaped checkpoints of a chosen size for benchmarks, with random finite bfloat16 values.

The bits repeat every 32 MB; nothing that is measured depends on them. Memory does not grow with the size.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from builders.families.common.reading import ConfigReader
from builders.families.llama import LLAMA
from tpforge.dtypes import DType

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
_OUTER_BYTES = 2 * 2 * 32000 * 2048
_LAYER_BYTES = 2 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 5632)
_FILE_BYTES = 2 * 10**9
_PERIOD = 1 << 24


def write_checkpoint(folder: Path, *, gigabytes: float) -> int:
    """Write a checkpoint of about `gigabytes` (10^9 bytes) in files of 2 GB; give its bytes."""
    layers = max(1, round((gigabytes * 1e9 - _OUTER_BYTES) / _LAYER_BYTES))
    config = CONFIG | {"num_hidden_layers": layers}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = LLAMA.read_model(ConfigReader(config, where="benchmark", weight_dtype=DType.BFLOAT16))
    files: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in LLAMA.expected_shapes(model).items():
        if size > _FILE_BYTES:
            files.append({})
            size = 0
        files[-1][name] = shape
        size += 2 * math.prod(shape)
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    for name, tensors in zip(names, files, strict=True):
        _write_file(folder / name, tensors)
    weight_map = {tensor: name for name, held in zip(names, files, strict=True) for tensor in held}
    total = sum(2 * math.prod(shape) for held in files for shape in held.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _write_file(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    bits = torch.randint(0, 0x7C00, (_PERIOD,), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    period = bits.numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(end // len(period)):
            file.write(period)
        file.write(period[: end % len(period)])
        file.flush()
        os.fsync(file.fileno())
