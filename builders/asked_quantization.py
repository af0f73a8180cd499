"""What a recipe asks of quantization, put together from the tables and the model.

It quantizes nothing: `rank_writing` and `quantize` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders.sources.base import Source
from tpforge.errors import UsageError
from tpforge.quantization import Quantization, find_format
from tpforge.quantization_gate import Linear, Question, refuse_kv, refuse_two, require
from tpforge.recipe import EngineRecipe
from tpforge.shards.weight_order import order_for

if TYPE_CHECKING:
    from builders.sources.quantized.reading import QuantizedWeights

PORTABLE = ("int8_wo", "int4_wo")
"""Formats that trtllm-build makes of float weights itself."""


def quantization_of(recipe: EngineRecipe, source: Source, *, sm: int | None) -> Quantization | None:
    """How the rank files of `recipe` are to be quantized; None: not at all.

    `sm` is the compute capability of the GPUs that will serve, None when it is not known.

    Raises:
        UsageError: the format is unknown, or is not made while converting.
        InputRefused: the runtime does not load it on such GPUs.
    """
    weights = _weights(recipe, source, sm=sm)
    stored = weights.kv_cache if weights is not None else None
    if stored is not None and recipe.kv_cache is not None:
        raise UsageError(
            f"--kv-cache: {source.location} holds the scales of a {stored} KV cache; leave it out"
        )
    if recipe.kv_cache is None:
        if weights is None and (recipe.portable or recipe.max_drop is not None):
            raise UsageError("--portable and --max-drop belong to a quantization; give --quantize FORMAT too")
        return weights
    if source.spec.attention.latent is not None:
        raise UsageError(
            f"--kv-cache: the cache of {source.spec.architecture} is not quantized; leave it out"
        )
    if recipe.kv_cache == "int8" and recipe.runtime != "reference":
        raise UsageError("--kv-cache int8: its steps are measured for the reference runtime only; use fp8")
    refuse_kv(recipe.kv_cache, _question(recipe, source, weights.format if weights else None, sm=sm))
    return (weights or Quantization()).model_copy(update={"kv_cache": recipe.kv_cache})


def _weights(recipe: EngineRecipe, source: Source, *, sm: int | None) -> Quantization | None:
    """How the weights are to be quantized, or are; None: not at all."""
    stored = source.quantized
    if stored is not None:
        return _stored(recipe, source, stored, sm=sm)
    if recipe.quantize is None:
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
    if recipe.runtime == "tensorrt" and row.name in PORTABLE and not recipe.portable:
        raise UsageError(
            f"--quantize {row.name}: trtllm-build lays out integer weights for the GPU by itself; give "
            "--portable too, which leaves the weights float and declares the format"
        )
    require(_question(recipe, source, row.name, sm=sm))
    return Quantization(
        format=row.name, form="portable" if recipe.portable else "packed", group_size=row.group_size
    )


def _stored(
    recipe: EngineRecipe, source: Source, stored: QuantizedWeights, *, sm: int | None
) -> Quantization:
    """The quantization of a checkpoint, which is kept as it is."""
    layout = stored.layout
    if recipe.quantize is not None:
        raise refuse_two(layout.format, recipe.quantize, where=source.location)
    if recipe.portable:
        raise UsageError("--portable leaves weights float, but these are quantized; leave it out")
    question = _question(recipe, source, layout.format, sm=sm, group_size=layout.group)
    require(question)
    if layout.kv_cache is not None:
        refuse_kv(layout.kv_cache, question)
    return Quantization(
        format=layout.format,
        group_size=layout.group,
        order=order_for(layout.format, runtime=recipe.runtime, sm=question.sm),
        kv_cache=layout.kv_cache,
        kv_scales=stored.kv_steps(source.spec.num_layers),
    )


def _question(
    recipe: EngineRecipe, source: Source, name: str | None, *, sm: int | None, group_size: int | None = None
) -> Question:
    return Question(
        name or "int8_wo",
        recipe.runtime,
        version=None if recipe.runtime == "reference" else recipe.trtllm,
        sm=sm,
        architecture=source.spec.architecture,
        # Its columns are changed by no cut and no padding; the others are judged when they are planned.
        linears=(Linear("mlp.fc", source.spec.mlp.intermediate_size, source.spec.hidden_size),),
        group_size=group_size,
    )
