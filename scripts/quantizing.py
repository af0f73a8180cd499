"""What a recipe asks of quantization, put together from the tables and the model; and what it cost.

It prints nothing and quantizes nothing itself: `builders.quantize` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpforge.errors import UsageError
from tpforge.quantization import Quantization, find_format

if TYPE_CHECKING:
    from builders.sources.base import Source
    from tpforge.recipe import EngineRecipe

PORTABLE = ("int8_wo", "int4_wo")
"""Formats that trtllm-build makes of float weights itself."""


def quantization_of(recipe: EngineRecipe, source: Source) -> Quantization | None:
    """How the rank files of `recipe` are to be quantized; None: not at all.

    Raises:
        UsageError: the format is unknown, or is not made while converting.
    """
    if recipe.quantize is None:
        if recipe.portable or recipe.max_drop is not None:
            raise UsageError("--portable and --max-drop belong to a quantization; give --quantize FORMAT too")
        return None
    row = find_format(recipe.quantize)
    if row.made_by == "checkpoint":
        raise UsageError(
            f"--quantize {row.name}: {row.title} is read from a checkpoint, not made; give a checkpoint of "
            "it as MODEL, without --quantize"
        )
    if row.made_by == "modelopt":
        raise UsageError(
            f"--quantize {row.name}: {row.title} needs calibration; run `tpforge quantize MODEL "
            f"--format {row.name} --out DIR`, then build DIR without --quantize"
        )
    if recipe.portable and row.name not in PORTABLE:
        raise UsageError(
            f"--quantize {row.name} --portable: trtllm-build makes only {' and '.join(PORTABLE)} itself; "
            "leave out --portable"
        )
    return Quantization(
        format=row.name, form="portable" if recipe.portable else "packed", group_size=row.group_size
    )
