"""What a recipe asks of quantization, put together from the tables and the model; and what it cost.

It prints nothing and quantizes nothing itself: `builders.quantize` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.errors import RegressionFound, UsageError, VerificationFailed
from tpforge.manifest import Manifest, Quality, WeightError
from tpforge.progress import Progress
from tpforge.quantization import Quantization, find_format
from tpforge.quantization_gate import Linear, Question, refuse_kv, refuse_two, require
from tpforge.sharding import ShardPlan
from tpforge.weight_order import order_for

if TYPE_CHECKING:
    from builders.sources.base import Source
    from builders.sources.quantized.reading import QuantizedWeights
    from tpforge.recipe import EngineRecipe

PORTABLE = ("int8_wo", "int4_wo")
"""Formats that trtllm-build makes of float weights itself."""


def quantization_of(recipe: EngineRecipe, source: Source) -> Quantization | None:
    """How the rank files of `recipe` are to be quantized; None: not at all.

    Raises:
        UsageError: the format is unknown, or is not made while converting.
        InputRefused: the runtime does not load it on such GPUs.
    """
    weights = _weights(recipe, source)
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
    refuse_kv(recipe.kv_cache, _question(recipe, source, weights.format if weights else None))
    return (weights or Quantization()).model_copy(update={"kv_cache": recipe.kv_cache})


def _weights(recipe: EngineRecipe, source: Source) -> Quantization | None:
    """How the weights are to be quantized, or are; None: not at all."""
    stored = source.quantized
    if stored is not None:
        return _stored(recipe, source, stored)
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
    require(_question(recipe, source, row.name))
    return Quantization(
        format=row.name, form="portable" if recipe.portable else "packed", group_size=row.group_size
    )


def _stored(recipe: EngineRecipe, source: Source, stored: QuantizedWeights) -> Quantization:
    """The quantization of a checkpoint, which is kept as it is."""
    layout = stored.layout
    if recipe.quantize is not None:
        raise refuse_two(layout.format, recipe.quantize, where=source.location)
    if recipe.portable:
        raise UsageError("--portable leaves weights float, but these are quantized; leave it out")
    question = _question(recipe, source, layout.format, group_size=layout.group)
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
    recipe: EngineRecipe, source: Source, name: str | None, *, group_size: int | None = None
) -> Question:
    return Question(
        name or "int8_wo",
        recipe.runtime,
        version=None if recipe.runtime == "reference" else recipe.trtllm,
        sm=serving_sm(recipe),
        architecture=source.spec.architecture,
        # Its columns are changed by no cut and no padding; the others are judged when they are planned.
        linears=(Linear("mlp.fc", source.spec.mlp.intermediate_size, source.spec.hidden_size),),
        group_size=group_size,
    )


def serving_sm(recipe: EngineRecipe) -> int | None:
    """The compute capability of the GPUs that will serve: as given, else this host's; None: not known."""
    if recipe.sm is not None or recipe.runtime == "reference":
        return recipe.sm
    from engines.host import find_host

    return find_host().sm


def quality_of(
    engine: Path,
    manifest: Manifest,
    source: Source,
    *,
    weight_errors: tuple[WeightError, ...],
    progress: Progress,
) -> Quality:
    """What the quantization of an engine cost; the limit is the one it was built with."""
    from engines.quality import measure_quality

    if source.quantized is not None:
        raise UsageError(
            f"{source.location}: is quantized, so that it is no baseline; give an unquantized one"
        )
    quality = measure_quality(engine, manifest, source_path=source.path, progress=progress)
    return quality.model_copy(
        update={
            "weight_errors": weight_errors,
            "max_drop": manifest.quality.max_drop if manifest.quality else None,
            "not_emulated": _not_emulated(manifest.quantization),
        }
    )


def _not_emulated(quantization: Quantization | None) -> tuple[str, ...]:
    """What a GPU would round and the reference runtime does not."""
    weights = quantization.weights if quantization else None
    if weights is None or weights.activations == "float":
        return ()
    return (f"activations are not rounded to {weights.activations}",)


def refuse_drop(quality: Quality, *, limit: float, where: Path) -> None:
    """Raise RegressionFound when the perplexity grew by more than the fraction `limit`."""
    if not quality.perplexity_drop <= limit:
        raise RegressionFound(
            f"{where}: quantization raised the perplexity from {quality.baseline_perplexity:.3f} to "
            f"{quality.perplexity:.3f}, by {quality.perplexity_drop:.2%}; --max-drop allows {limit:.2%}; "
            "use a format with more bits, or a larger limit"
        )


def measure_drop(
    folder: Path, manifest: Manifest, source: Source, *, limit: float, where: Path, progress: Progress
) -> Manifest:
    """The manifest of an engine that is not published yet, with its quality, which is within `limit`.

    Raises:
        RegressionFound: it is not.
    """
    from builders.verify import verify_shards

    progress(f"measuring what {manifest.quantization and manifest.quantization.format} costs")
    report = verify_shards(source, folder / "checkpoint", plan=plan_of(manifest), dtype=manifest.dtype)
    if report.problems:
        raise VerificationFailed("\n  ".join([f"{where}: is not what was planned:", *report.problems]))
    quality = quality_of(folder, manifest, source, weight_errors=report.weight_errors, progress=progress)
    quality = quality.model_copy(update={"max_drop": limit})
    refuse_drop(quality, limit=limit, where=where)
    return manifest.model_copy(update={"quality": quality})


def plan_of(manifest: Manifest) -> ShardPlan:
    """The plan by which an engine was sharded."""
    return ShardPlan(
        model=manifest.model,
        mapping=manifest.mapping,
        padding=manifest.padding,
        parallel_embedding_dim=manifest.parallel_embedding_dim,
        quantization=manifest.quantization,
    )
