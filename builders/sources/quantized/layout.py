"""How the matrix of a module lies in a quantized checkpoint: the record, and what several tools write alike.

It looks at no declaration; `layouts` finds the one that a checkpoint declares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from builders.sources.quantized import compressed
from builders.sources.quantized.companions import E4M3, INT8, ONE, ROWS, Companion, companion
from builders.sources.quantized.components import Components
from builders.sources.quantized.gptq import Read
from tpforge.errors import InputRefused
from tpforge.shards.packing import STORED

Shape = tuple[int, ...]
INSTEAD = "give the unquantized checkpoint, with --quantize int8_wo or int4_wo where it is to be smaller"
"""What to do where a layout is not read."""


@dataclass(frozen=True)
class Layout:
    """How the matrix of a module lies in a checkpoint.

    `format` is a row of quantization.toml. `weight` is the suffix of the packed matrix, `packed` its types;
    `beside` are the tensors that must lie beside it, `optional` those that may. `shape` gives [out, in] from
    the shape of the weight. `kv_cache` is the format of the KV cache whose scales the checkpoint holds.
    `even_zero` is the zero point of matrices that are declared symmetric, as it is stored; None without.
    """

    format: str
    group: int
    weight: str
    packed: tuple[str, ...]
    beside: dict[str, Companion]
    shape: Callable[[Shape], Shape]
    components: Callable[[Read, str], Components]
    optional: dict[str, Companion] = field(default_factory=dict)
    kv_cache: str | None = None
    even_zero: int | None = None

    @property
    def row_group(self) -> int:
        """Rows that share a scale, so that no cut may go through them; 0: all rows."""
        return STORED[self.format].row_group


def rows(name: str) -> Layout:
    """Eight bits a value and one scale per row of the output, in the format `name`."""
    return Layout(
        format=name,
        group=0,
        weight="weight",
        packed=INT8 if name.startswith("int8") else E4M3,
        beside={"weight_scale": ROWS},
        shape=lambda shape: shape,
        components=compressed.read_rows,
        optional={"input_scale": ONE},
    )


def blocks(size: object, *, suffix: str) -> Layout:
    """FP8 with a scale a block of 128 x 128, under `suffix`.

    Raises:
        InputRefused: the declared `size` is another.
    """
    if size != [128, 128]:
        raise InputRefused(f"FP8 in blocks of {size} is not read; expected [128, 128]")
    return Layout(
        format="fp8_block",
        group=128,
        weight="weight",
        packed=E4M3,
        beside={suffix: companion("out/128", "in/128")},
        shape=lambda shape: shape,
        components=partial(compressed.read_blocks, suffix=suffix, block=128),
    )


def tensor_fp8() -> Layout:
    """FP8 with one scale for the matrix and one for its inputs."""
    return Layout(
        format="fp8",
        group=0,
        weight="weight",
        packed=E4M3,
        beside={"weight_scale": ONE, "input_scale": ONE},
        shape=lambda shape: shape,
        components=compressed.read_tensor_fp8,
    )


def group_of_16(values: dict[str, Any]) -> int:
    """The group of NVFP4.

    Raises:
        InputRefused: another is declared.
    """
    group = values.get("group_size", 16)
    if group != 16:
        raise InputRefused(f"NVFP4 with group_size {group} is not read; expected 16")
    return 16


def group_of(values: dict[str, Any]) -> int:
    """The inputs that share a scale, under either tool's name for them.

    Raises:
        InputRefused: they are no multiple of 8, which packing needs.
    """
    group = values.get("group_size", values.get("q_group_size"))
    if not isinstance(group, int) or group < 8 or group % 8:
        raise InputRefused(f"found group_size {group}; expected a multiple of 8")
    return group
