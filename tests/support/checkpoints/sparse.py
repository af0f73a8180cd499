"""Checkpoints of any size that take no disk: true configs, indexes and headers, and holes for the weights.

The holes read as zeros, which nobody should read: `inspect` does not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.support.tiny import tiny_shapes

LLAMA_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
"""Llama 3 70B. Source: its published config.json."""


def write_sparse(folder: Path, config: dict[str, Any], *, bytes_a_file: int = 5 * 10**9) -> Path:
    """Write a bfloat16 checkpoint of `config` with holes for weights; give `folder` back.

    Its tokenizer.json has as many tokens as a real one, and nearly as many merges.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    single = [chr(0x4E00 + number) for number in range(1000)]
    pairs = [(left, right) for left in single for right in single][: config["vocab_size"] - len(single)]
    vocab = {
        token: number for number, token in enumerate([*single, *(left + right for left, right in pairs)])
    }
    tokenizer = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": pairs}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    files: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in tiny_shapes(config).items():
        size = 2 * math.prod(shape)
        if held + size > bytes_a_file and files[-1]:
            files.append({})
            held = 0
        files[-1][name] = shape
        held += size
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write_sparse_file(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_sparse_file(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """One safetensors file of bfloat16 tensors: a true header, then a hole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, shape in tensors.items():
        start, stop = stop, stop + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)
