"""Rank files of a tiny model written by hand, for tests of the runtime that must not need a family's table.

A whole model is a dict of TensorRT-LLM names; fused tensors are tuples of their parts, each cut by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Whole = dict[str, Tensor | tuple[Tensor, ...]]

_COLUMNS = ("attention.dense.weight", "mlp.proj.weight", "mlp.shared_expert.proj.weight")
_ROWS = (
    "attention.qkv.weight",
    "attention.qkv.bias",
    "attention.q_b_proj",
    "attention.kv_b_proj",
    "attention.k_b_proj_trans",
    "mlp.fc.weight",
    "mlp.fc.bias",
    "mlp.gate.weight",
    "mlp.shared_expert.fc.weight",
    "lm_head.weight",
    "lm_head.bias",
)
_HEAD_ROWS = ("attention.q_layernorm.weight", "attention.k_layernorm.weight")


def write_engine(
    folder: Path,
    whole: Whole,
    config: dict[str, Any],
    model: dict[str, Any],
    *,
    tp_size: int,
    ep_size: int = 1,
) -> Path:
    """Write engine.json, config.json and the rank files of `whole` at tp_size."""
    (folder / "checkpoint").mkdir(parents=True)
    mapping = {"tp_size": tp_size, "pp_size": 1, "moe_tp_size": tp_size // ep_size, "moe_ep_size": ep_size}
    checkpoint = {"use_parallel_embedding": False, "dtype": "float32", "mapping": mapping, **config}
    manifest = {
        "limits": {"max_batch_size": 2, "max_input_len": 96, "max_seq_len": 128},
        "model": {
            "special_tokens": {"end_ids": [], "pad_id": None},
            **model,
            "attention": {
                "num_heads": config["num_attention_heads"],
                "sliding_window": None,
                **model.get("attention", {}),
            },
        },
    }
    (folder / "checkpoint" / "config.json").write_text(json.dumps(checkpoint))
    (folder / "engine.json").write_text(json.dumps(manifest))
    for rank in range(tp_size):
        tensors = {
            name: _cut(name, value, rank=rank, tp_size=tp_size, ep_size=ep_size)
            for name, value in whole.items()
        }
        save_file(tensors, folder / "checkpoint" / f"rank{rank}.safetensors")
    return folder


def _cut(name: str, value: Tensor | tuple[Tensor, ...], *, rank: int, tp_size: int, ep_size: int) -> Tensor:
    parts = value if isinstance(value, tuple) else (value,)
    if parts[0].ndim == 3:
        return _cut_experts(name, parts, rank=rank, tp_size=tp_size, ep_size=ep_size)
    if name.endswith(_COLUMNS):
        return parts[0].chunk(tp_size, dim=1)[rank].contiguous()
    if ".attention.qkv." in name:
        parts = (parts[0], *(_repeat_heads(part, tp_size=tp_size) for part in parts[1:]))
    if name.endswith(_ROWS) or (name.endswith(_HEAD_ROWS) and parts[0].ndim == 2):
        return torch.cat([_rows(part, rank=rank, tp_size=tp_size) for part in parts])
    return parts[0].contiguous()


def _repeat_heads(part: Tensor, *, tp_size: int, head_size: int = 16) -> Tensor:
    """Each KV head as often, in a row, as ranks share it."""
    heads = part.reshape(-1, min(head_size, part.shape[0]), *part.shape[1:])
    return heads.repeat_interleave(max(1, tp_size // heads.shape[0]), dim=0).flatten(0, 1)


def _rows(part: Tensor, *, rank: int, tp_size: int) -> Tensor:
    """An even share of the rows, with zero rows at the end where they do not divide (the vocabulary)."""
    share = -(-part.shape[0] // tp_size)
    padding = part.new_zeros((share * tp_size - part.shape[0], *part.shape[1:]))
    return torch.cat((part, padding))[rank * share : (rank + 1) * share]


def _cut_experts(name: str, parts: tuple[Tensor, ...], *, rank: int, tp_size: int, ep_size: int) -> Tensor:
    width_rank, dim = rank // ep_size, 2 if name.endswith("proj.weight") else 1
    cut = [part.chunk(tp_size // ep_size, dim=dim)[width_rank] for part in parts]
    count = parts[0].shape[0] // ep_size
    start = rank % ep_size * count
    return torch.cat(cut, dim=1)[start : start + count].contiguous()
