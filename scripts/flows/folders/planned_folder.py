"""What a recipe makes of an open model before anything is written: its name, its folder, its conversion.

It writes nothing; `convert`, `build` and `compile` do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.manifest import Manifest
from tpforge.outputs.places import Places, engine_name, places_of
from tpforge.recipe import EngineRecipe
from tpforge.shards.mapping import Mapping

if TYPE_CHECKING:
    from builders.conversion.planned import Planned
    from builders.sources.base import Source


@dataclass(frozen=True)
class PlannedFolder:
    """The engine or checkpoint folder that would be written.

    `measured_by` are modules that measure, on another engine, what goes into it: its KV cache's steps.
    """

    name: str
    out: Path
    conversion: Planned
    measured_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """An engine folder; `reused` when it was there already, made of the same input by the same options."""

    places: Places
    manifest: Manifest
    reused: bool
    notes: tuple[str, ...]


def plan_engine_folder(recipe: EngineRecipe, source: Source, *, out: Path | None) -> PlannedFolder:
    """The engine of an open source, in `out` or under out/; for any runtime that converts.

    Raises:
        TpforgeError: whatever would keep it from being converted.
    """
    name = _name(recipe, source)
    places = Places(out) if out is not None else places_of(name)
    return PlannedFolder(name, places.engine, plan_recipe(recipe, source))


def plan_checkpoint_folder(recipe: EngineRecipe, source: Source, *, out: Path | None) -> PlannedFolder:
    """The checkpoint alone, in `out` or out/NAME/checkpoint.

    Raises:
        TpforgeError: whatever would keep it from being converted.
    """
    name = _name(recipe, source)
    folder = out if out is not None else places_of(name).engine.parent / "checkpoint"
    return PlannedFolder(name, folder, plan_recipe(recipe, source))


def plan_recipe(recipe: EngineRecipe, source: Source) -> Planned:
    """The conversion that a recipe asks for.

    Raises:
        TpforgeError: whatever would keep it from being converted.
    """
    from builders.asked_quantization import quantization_of
    from builders.conversion.planned import plan_conversion

    return plan_conversion(
        source,
        mapping=_mapping(recipe),
        dtype=recipe.dtype,
        pad=recipe.pad,
        parallel_embedding_dim=recipe.parallel_embedding,
        quantization=quantization_of(recipe, source, sm=serving_sm(recipe)),
    )


def serving_sm(recipe: EngineRecipe) -> int | None:
    """The compute capability of the GPUs that will serve: as given, else this host's; None: not known."""
    if recipe.sm is not None or recipe.runtime == "reference":
        return recipe.sm
    from engines.host import find_host

    return find_host().sm


def _mapping(recipe: EngineRecipe) -> Mapping:
    return Mapping(tp_size=recipe.tp, pp_size=recipe.pp, moe_ep_size=recipe.moe_ep)


def _name(recipe: EngineRecipe, source: Source) -> str:
    if recipe.name is not None:
        return recipe.name
    given = recipe.model if source.kind == "hub" else str(source.path)
    name = engine_name(given, mapping=_mapping(recipe), runtime=recipe.runtime)
    parts = [name, recipe.quantize, f"kv-{recipe.kv_cache}" if recipe.kv_cache else None]
    return "-".join(part for part in parts if part)
