"""The values of a checkpoint's quantized matrices by the shapes of their tensors, for the proof alone.

It does not ask what the checkpoint declares, where the tensors tell: how many inputs share a scale follows
from how many scales there are. It opens the files by itself, and shares no code with the reader that a
conversion follows, so that a mistake of that reader shows here.
Source: AutoGPTQ, AutoAWQ, compressed-tensors, nvidia-modelopt 0.47, transformers (finegrained_fp8), as laid
out in their packing code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

Held = dict[str, torch.Tensor]
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output k of eight lies in nibble _AWQ_PLACES[k] of its word."""
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TOLERANCE = 0.02
"""Of the norm of a matrix: scales are rounded to the type of the engine, at most by 2^-9 each."""
_TOLERANCE_E4M3 = 0.05
"""Matrices of FP8 that are joined take the largest of their scales, and are rounded again."""


def differing(folder: Path, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """A line for each of `weights`, by name in the files, that is not what the folder's tensors stand for."""
    problems = []
    for name, truth, tolerance in _each(folder, weights):
        found = weights[name].double()
        if found.shape != truth.shape:
            problems.append(f"{name}: the ranks hold {list(found.shape)}, the source {list(truth.shape)}")
            continue
        error = float((found - truth).norm() / truth.norm().clamp(min=1e-30))
        if not error <= tolerance:
            problems.append(
                f"{name}: what the ranks stand for differs from the source's own tensors by {error:.3f} of "
                f"their norm, expected {tolerance} or less: its scales or zero points were read wrongly"
            )
    return problems


def _each(folder: Path, names: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor, float]]:
    declared = _declared(folder)
    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = stack.enter_context(safe_open(path, framework="pt"))
            holders.update(dict.fromkeys(file.keys(), file))
        for name in sorted(names):
            module = name.removesuffix(".weight")
            suffixes = [one.removeprefix(f"{module}.") for one in holders if one.startswith(f"{module}.")]
            held = {one: holders[f"{module}.{one}"].get_tensor(f"{module}.{one}") for one in suffixes}
            is_e4m3 = held.get("weight", torch.empty(0)).dtype == torch.float8_e4m3fn
            yield name, values(held, declared), _TOLERANCE_E4M3 if is_e4m3 else _TOLERANCE


def _declared(folder: Path) -> dict[str, Any]:
    """What config.json says of the quantization, else what AutoGPTQ's own file does."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    older = folder / "quantize_config.json"
    found = config.get("quantization_config") or config.get("compression_config")
    if found is None and older.is_file():
        found = json.loads(older.read_text(encoding="utf-8"))
    return dict(found or {})


def values(held: Held, declared: Mapping[str, Any]) -> torch.Tensor:
    """The matrix [out, in] in float64 of the tensors of one module, by their suffixes."""
    if "qweight" in held:
        return _words_with_zeros(held, declared)
    if "weight_packed" in held:
        packed = held["weight_packed"]
        return _packed_integers(held) if packed.dtype == torch.int32 else _fp4(held, packed)
    if held["weight"].dtype == torch.uint8:
        return _fp4(held, held["weight"]) if "weight_scale_2" in held else _row_pairs(held)
    scale = held.get("weight_scale_inv", held.get("weight_scale"))
    assert scale is not None, "a quantized matrix has a scale"
    codes = held["weight"].double()
    spread = _spread(scale.double(), codes.shape, block=declared.get("weight_block_size"))
    return codes * spread * _inputs(held)


def _words_with_zeros(held: Held, declared: Mapping[str, Any]) -> torch.Tensor:
    """GPTQ packs along the inputs, AWQ along the outputs; which, the widths of qweight and scales say."""
    words, scales = held["qweight"], held["scales"].double()
    if words.shape[1] == scales.shape[1]:
        codes = _nibbles(words.T)
        zeros = _gptq_zeros(_nibbles(held["qzeros"]), declared)
    else:
        places = torch.tensor(_AWQ_PLACES)
        codes, zeros = (
            _nibbles(one).view(one.shape[0], -1, 8)[:, :, places].flatten(1)
            for one in (words, held["qzeros"])
        )
        codes = codes.T
    inputs = codes.shape[1]
    group = torch.arange(inputs) // (inputs // scales.shape[0])
    if "g_idx" in held:
        group = held["g_idx"].long()
    return (codes - zeros[group].T) * scales[group].T


def _gptq_zeros(stored: torch.Tensor, declared: Mapping[str, Any]) -> torch.Tensor:
    """Of symmetric matrices the middle, 8, however it is stored; the second version stores others whole."""
    if declared.get("sym") is True and stored.numel() and bool((stored == stored.flatten()[0]).all()):
        return torch.full_like(stored, 8)
    version = str(declared.get("checkpoint_format") or declared.get("format") or "").lower()
    return stored + (0 if version == "gptq_v2" else 1)


def _packed_integers(held: Held) -> torch.Tensor:
    codes, scales = _nibbles(held["weight_packed"]), held["weight_scale"].double()
    zeros = torch.full_like(scales, 8.0)
    if "weight_zero_point" in held:
        zeros = _nibbles(held["weight_zero_point"].T).T[: codes.shape[0]].double()
    each = codes.shape[1] // scales.shape[1]
    return (codes - zeros.repeat_interleave(each, 1)) * scales.repeat_interleave(each, 1)


def _row_pairs(held: Held) -> torch.Tensor:
    """ModelOpt's signed integers: the even row of two in the low half of a byte."""
    packed, scales = held["weight"].int(), held["weight_scale"].double()
    codes = torch.stack((packed % 16, packed // 16), 1).flatten(0, 1)
    signed = torch.where(codes > 7, codes - 16, codes).double()
    return signed * scales.repeat_interleave(signed.shape[1] // scales.shape[1], 1) * _inputs(held)


def _fp4(held: Held, packed: torch.Tensor) -> torch.Tensor:
    codes = torch.stack((packed.int() % 16, packed.int() // 16), -1).flatten(1)
    table = torch.tensor([*_E2M1, *(-one for one in _E2M1)], dtype=torch.float64)
    given = held.get("weight_scale_2")
    whole = 1 / held["weight_global_scale"].double() if given is None else given.double()
    scales = held["weight_scale"].double() * whole
    return table[codes] * scales.repeat_interleave(codes.shape[1] // scales.shape[1], 1)


def _spread(scale: torch.Tensor, shape: torch.Size, *, block: object) -> torch.Tensor:
    """A scale of the matrix, of each row, or of each block, repeated for its elements."""
    rows, columns = shape
    if scale.numel() == 1:
        return scale.flatten()[0].expand(shape)
    if scale.numel() == rows:
        return scale.reshape(rows, 1).expand(shape)
    tall, wide = block if isinstance(block, list) and len(block) == 2 else (128, 128)
    return scale.repeat_interleave(tall, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]


def _inputs(held: Held) -> torch.Tensor:
    """What the inputs are multiplied by before the matrix (SmoothQuant, AWQ)."""
    return held.get("pre_quant_scale", torch.ones(())).double()


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """[rows, n] int32 as [rows, 8 n]: the numbers that are the digits of each word to base 16."""
    whole = words.long() % 2**32
    return torch.stack([whole // 16**place % 16 for place in range(8)], -1).flatten(1)
