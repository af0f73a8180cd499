"""From a compiled engine or an llm.yaml to a recipe for a release of the LLM API, and a plan to compare both.

It prints nothing; what becomes of which setting is `builders.migration`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builders.llm_api.arguments import LlmTarget, plan_llm
from builders.migration.recipe import UNKNOWN_MODEL, Result, measurement_plan, recipe_text
from builders.migration.releases import carry, plan_llm_migration, read_llm_yaml
from builders.migration.settings import Move, plan_migration, read_old_engine
from engines.store import read_manifest
from tpforge.errors import UsageError
from tpforge.manifest import Limits
from tpforge.outputs.atomic import refuse_existing, write_atomic
from tpforge.outputs.places import find_engine
from tpforge.recipe import parse_recipe
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import DEFAULT_RELEASE, Release, find_release, release_for
from triton_repo.render.parameters import read_parameters


@dataclass(frozen=True)
class Migrated:
    """What became of every setting, the recipe it amounts to, and how to compare before and after.

    `llm_yaml` is the LLM API's file, where it was one before.
    """

    old: str | None
    moves: tuple[Move, ...]
    recipe: str
    plan: tuple[str, ...]
    llm_yaml: str | None = None


def migrate(
    source: Path,
    *,
    model: str | None,
    repository: Path | None,
    old: str | None,
    new: str,
    sm: int | None,
    name: str | None,
) -> Migrated:
    """The recipe for runtime pytorch of an engine folder, a config.json, a build config or an llm.yaml.

    `old` is the release that an llm.yaml is of; an engine folder of ours says it itself.

    Raises:
        InputRefused: it is none of these, or the repository's tensorrt_llm cannot be read.
        UsageError: a release has no LLM API that tpforge knows, or `old` is needed.
    """
    release = release_for(new, runtime="pytorch")
    source = _located(source)
    file = _llm_yaml(source)
    if file is not None:
        if repository is not None:
            raise UsageError("--repository: is for compiled engines; an llm.yaml holds its own settings")
        return _of_llm_yaml(source, file, model=model, old=old, release=release, sm=sm, name=name)
    engine = read_old_engine(source)
    parameters = read_parameters(repository) if repository else {}
    migration = plan_migration(engine, parameters=parameters, trtllm=release.trtllm, sm=sm)
    # The table of settings speaks the language of the last release that compiled engines.
    moves = carry(migration.moves, old=find_release(DEFAULT_RELEASE), new=release)
    migration = replace(migration, moves=moves)
    sizes = engine.mapping
    result = Result(
        {"tp": sizes["tp_size"], "pp": sizes["pp_size"], "moe_ep": sizes["moe_ep_size"]},
        migration.limits,
        migration.arguments,
        keeps_clients=release.image is not None,
    )
    text = _checked(result, model=model or known_model(source), release=release, sm=sm, name=name)
    plan = measurement_plan(parse_recipe(text, path=source), before="the compiled engine")
    return Migrated(engine.version, moves, text, tuple(plan))


def _of_llm_yaml(
    source: Path,
    file: Path,
    *,
    model: str | None,
    old: str | None,
    release: Release,
    sm: int | None,
    name: str | None,
) -> Migrated:
    """The migration of the LLM API's arguments from one release to another."""
    found = old or _release_of(source)
    if found is None:
        raise UsageError(
            f"{file}: does not say which TensorRT-LLM it is for; give --from, such as --from 1.2.1"
        )
    before = release_for(found, runtime="pytorch")
    migration = plan_llm_migration(read_llm_yaml(file), old=before, new=release)
    result = Result(migration.mapping, migration.limits, migration.arguments, keeps_clients=False)
    text = _checked(result, model=model or known_model(source), release=release, sm=sm, name=name)
    plan = measurement_plan(
        parse_recipe(text, path=file), before=f"TensorRT-LLM {before.trtllm} with {file.name}"
    )
    return Migrated(before.trtllm, migration.moves, text, tuple(plan), migration.yaml)


def _checked(result: Result, *, model: str, release: Release, sm: int | None, name: str | None) -> str:
    """The recipe, checked as if it had been written by hand."""
    sizes, given = result.sizes, {**Limits().model_dump(), **result.limits}
    mapping = Mapping(tp_size=sizes["tp"], pp_size=sizes["pp"], moe_ep_size=sizes["moe_ep"])
    plan_llm(LlmTarget(release, mapping, Limits(**given), sm=sm), given=result.arguments)
    return recipe_text(result, model=model, release=release, sm=sm, name=name)


def _llm_yaml(source: Path) -> Path | None:
    """The LLM API's file that is meant: itself, or the one of an engine folder of runtime pytorch."""
    if source.is_file():
        return source if source.suffix in (".yaml", ".yml") else None
    return file if (file := source / "llm.yaml").is_file() else None


def _release_of(source: Path) -> str | None:
    if not (source / "engine.json").is_file():
        return None
    found = read_manifest(source).llm_api
    return found.trtllm if found is not None else None


def _located(source: Path) -> Path:
    """The path itself, else the engine of that name under out/."""
    return source if source.exists() else find_engine(str(source)).engine


def write_result(migrated: Migrated, out: Path, *, force: bool) -> None:
    """Write the recipe, or for a name that ends in .yaml the LLM API's file.

    Raises:
        InputRefused: `out` exists and `force` is not given.
        UsageError: it should be the LLM API's file, and a compiled engine has none.
    """
    is_yaml = out.suffix in (".yaml", ".yml")
    if is_yaml and migrated.llm_yaml is None:
        raise UsageError(f"--out {out}: a compiled engine becomes a recipe; give a name that ends in .toml")
    if out.exists() and not force:
        refuse_existing(out, force=False)
    write_atomic(out, (migrated.llm_yaml or "") if is_yaml else migrated.recipe)


def known_model(source: Path) -> str:
    """The model that an engine of ours was made from; a word to be replaced for others."""
    manifest = source / "engine.json"
    if not manifest.is_file():
        return UNKNOWN_MODEL
    return read_manifest(source).source.location


def moves_of(migrated: Migrated) -> list[dict[str, Any]]:
    """The moves for --json."""
    return [vars(move) for move in migrated.moves]
