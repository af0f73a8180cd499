"""Compares the headers of a checkpoint with what its config.json implies by the table of architectures.

It compares sums, not names: the same weights lie under other names after transformers 5 fused their experts,
and in other types after a quantization. Layers of multi-token prediction are left out on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from builders.sources.safetensors_reader import TensorEntry
from tpforge.architectures.declared import Declared
from tpforge.units import format_bytes

_FLOATS = ("F64", "F32", "F16", "BF16")
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.")
_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|audio)")
"""Encoders beside the language model, whose layers have numbers of their own."""
_TABLES = ("I32", "I64")
"""Tables of ids, which are no parameters."""
_NEVER_COUNTED = ("inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
_SHARE = 1e-3
_SHARE_OF_BYTES = 2e-2
"""Scales of activations, zeros and padding differ between tools; a wrong size differs more."""


def declared_problems(
    declared: Declared, entries: Mapping[str, TensorEntry], *, stored_bytes: int | None
) -> list[str]:
    """What the tensors' own shapes contradict; `stored_bytes` are those of a quantized model, or None."""
    counted = dict(_counted(declared, entries))
    layers = {layer for name in counted if (layer := _layer(name)) is not None}
    problems = []
    if missing := sorted(set(range(declared.num_layers)) - layers):
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        shown = ", ".join(map(str, missing[:4])) + more
        problems.append(f"of {declared.num_layers} layers the tensors of {shown} are missing")
    if stored_bytes is not None:
        held = sum(entry.stop - entry.start for entry in counted.values())
        if abs(held - stored_bytes) > _SHARE_OF_BYTES * stored_bytes:
            problems.append(
                f"the tensors hold {format_bytes(held)}, config.json and its quantization imply "
                f"{format_bytes(stored_bytes)}: a size or format is declared wrongly, or tensors are missing"
            )
        return problems
    found_parameters = sum(_elements(entry) for entry in counted.values())
    implied = declared.num_parameters
    if abs(found_parameters - implied) > _SHARE * implied:
        problems.append(
            f"the tensors hold {found_parameters:,} parameters, config.json implies {implied:,}: a size in "
            "it is wrong, or tensors are missing"
        )
    return problems


def _counted(declared: Declared, entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, TensorEntry]]:
    tied = bool(declared.sizes["tied"])
    for name, entry in entries.items():
        layer = _layer(name)
        is_extra = (
            "mtp" in name.split(".")[:2]
            or (layer is not None and layer >= declared.num_layers)
            or name.endswith(_NEVER_COUNTED)
            or (tied and name.endswith("lm_head.weight"))
        )
        if not is_extra and entry.dtype not in _TABLES:
            yield name, entry


def _layer(name: str) -> int | None:
    """The number of the language model's layer that a tensor is of."""
    found = None if _TOWER.search(name) else _LAYER.search(name)
    return None if found is None else int(found[1])


def _elements(entry: TensorEntry) -> int:
    if entry.dtype not in _FLOATS:
        return 0
    count = 1
    for size in entry.shape:
        count *= size
    return count
