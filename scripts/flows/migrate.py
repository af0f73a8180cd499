"""From a compiled engine to a recipe for the LLM API and a plan to compare both: composes the parts.

It prints nothing; what becomes of which setting is `builders.migration.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.llm_api.arguments import LlmTarget, plan_llm
from builders.migration.recipe import UNKNOWN_MODEL, measurement_plan, recipe_text
from builders.migration.settings import Migration, plan_migration, read_old_engine
from engines.store import read_manifest
from tpforge.manifest import Limits
from tpforge.outputs.atomic import refuse_existing, write_atomic
from tpforge.outputs.places import find_engine
from tpforge.recipe import parse_recipe
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import release_for
from triton_repo.render.parameters import read_parameters


@dataclass(frozen=True)
class Migrated:
    """The migration, the recipe it amounts to, and how to compare before and after."""

    migration: Migration
    recipe: str
    plan: tuple[str, ...]


def migrate(
    source: Path, *, model: str | None, repository: Path | None, trtllm: str, sm: int | None, name: str | None
) -> Migrated:
    """The recipe for runtime pytorch of an engine folder, a config.json or a build config.

    Raises:
        InputRefused: it is none of these, or the repository's tensorrt_llm cannot be read.
        UsageError: the release has no LLM API that tpforge knows.
    """
    release = release_for(trtllm, runtime="pytorch")
    source = _located(source)
    engine = read_old_engine(source)
    parameters = read_parameters(repository) if repository else {}
    migration = plan_migration(engine, parameters=parameters, trtllm=release.trtllm, sm=sm)
    sizes = engine.mapping
    mapping = Mapping(tp_size=sizes["tp_size"], pp_size=sizes["pp_size"], moe_ep_size=sizes["moe_ep_size"])
    limits = Limits(**{**Limits().model_dump(), **migration.limits})
    # What comes out is checked as if it had been written by hand.
    plan_llm(LlmTarget(release, mapping, limits, sm=sm), given=migration.arguments)
    text = recipe_text(migration, model=model or known_model(source), trtllm=release.trtllm, sm=sm, name=name)
    checked = parse_recipe(text, path=source)
    return Migrated(migration, text, tuple(measurement_plan(checked)))


def _located(source: Path) -> Path:
    """The path itself, else the engine of that name under out/."""
    return source if source.exists() else find_engine(str(source)).engine


def write_recipe(migrated: Migrated, out: Path, *, force: bool) -> None:
    """Write the recipe.

    Raises:
        InputRefused: `out` exists and `force` is not given.
    """
    if out.exists() and not force:
        refuse_existing(out, force=False)
    write_atomic(out, migrated.recipe)


def known_model(source: Path) -> str:
    """The model that an engine of ours was made from; a word to be replaced for others."""
    manifest = source / "engine.json"
    if not manifest.is_file():
        return UNKNOWN_MODEL
    return read_manifest(source).source.location


def moves_of(migrated: Migrated) -> list[dict[str, Any]]:
    """The moves for --json."""
    return [vars(move) for move in migrated.migration.moves]
