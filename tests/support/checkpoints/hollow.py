"""Checkpoints of today's models with holes for weights: published configs, and headers in their own formats.

The tensors are named as the table of architectures names them. Experts of a layer lie in one tensor, but
where a family of ours reads every one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders.families.common.registry import is_of_family
from tpforge.architectures.declared import Declared, Tensor, read_declared
from tpforge.architectures.stored import stored_formats

TOKENIZER = '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}'
Entry = tuple[str, str, tuple[int, ...]]
_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}


def write_hollow_checkpoint(
    folder: Path, config: dict[str, Any], *, modelopt: dict[str, Any] | None = None
) -> Path:
    """Write config.json, a tokenizer and one sparse file; give `folder` back."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    if modelopt is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(modelopt))
    model = read_declared(config, where=str(folder))
    stored = stored_formats(model, config=config, modelopt=modelopt, where=str(folder))
    entries = [
        entry
        for tensor in _tensors(model)
        for one in _experts(tensor, is_read=is_of_family(model.class_name))
        for entry in _stored(one, "floats" if stored is None else stored.of(tensor))
    ]
    _write(folder / "model.safetensors", entries)
    return folder


def _tensors(model: Declared) -> Iterator[Tensor]:
    root = model.row.prefix.partition("layers.")[0]
    for one in model.outer:
        yield one if one.name.startswith("lm_head") else replace(one, name=root + one.name)
    yield from model.tower
    for layer in model.layers:
        yield from layer.tensors


def _experts(tensor: Tensor, *, is_read: bool) -> Iterator[Tensor]:
    before, found, after = tensor.name.partition(".experts.0.")
    if not found or not is_read:
        yield tensor
        return
    if before.endswith("block_sparse_moe"):
        # Mixtral's own names.
        after = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[after.split(".")[0]] + ".weight"
    for number in range(tensor.shape[0]):
        yield replace(tensor, name=f"{before}.experts.{number}.{after}", shape=tensor.shape[1:])


def _stored(tensor: Tensor, stored_as: str) -> list[Entry]:
    """A tensor and its scales, as DeepSeek, OpenAI and ModelOpt store them."""
    name, shape = tensor.name, tensor.shape
    module = name.removesuffix(".weight")
    *outer, rows, columns = (1, 1, *shape)[-max(2, len(shape)) :]
    match stored_as:
        case "fp8_block":
            blocks = (*outer, -(-rows // 128), -(-columns // 128))
            return [(name, "F8_E4M3", shape), (f"{name}_scale_inv", "F32", blocks)]
        case "fp8":
            return [(name, "F8_E4M3", shape), (f"{module}.weight_scale", "F32", tuple(outer) or (1,))]
        case "mxfp4":
            packed, groups = (*outer, rows, columns // 2), (*outer, rows, columns // 32)
            return [(f"{module}_blocks", "U8", packed), (f"{module}_scales", "U8", groups)]
        case "floats":
            return [(name, "BF16", shape)]
    raise AssertionError(f"nothing here stores {name} as {stored_as}")


def _write(path: Path, entries: list[Entry]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, dtype, shape in entries:
        start, stop = stop, stop + _BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)
