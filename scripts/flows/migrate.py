"""From a compiled engine to a recipe for the LLM API and a plan to compare both: composes the parts.

It prints nothing; what becomes of which setting is `builders.migration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpforge.atomic import refuse_existing, write_atomic
from tpforge.errors import InputRefused
from tpforge.recipe import Recipe, parse_recipe
from tpforge.versions import release_for

if TYPE_CHECKING:
    from builders.migration import Migration

UNKNOWN_MODEL = "MODEL"


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
    from builders.llmapi import LlmTarget, plan_llm
    from builders.migration import plan_migration, read_old_engine
    from tpforge.manifest import Limits
    from tpforge.mapping import Mapping

    release = release_for(trtllm, runtime="pytorch")
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
    from engines.store import read_manifest

    return read_manifest(source).source.location


def read_parameters(repository: Path) -> dict[str, str]:
    """The parameters of tensorrt_llm in a model repository, ours or upstream's.

    Raises:
        InputRefused: there is no such model, or its config.pbtxt cannot be parsed.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    file = repository / "tensorrt_llm" / "config.pbtxt"
    if not file.is_file():
        raise InputRefused(f"{file}: no such file; expected a repository with the model tensorrt_llm")
    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise InputRefused(f"{file}:{error}") from error
    found = {key: value.string_value for key, value in config.parameters.items()}
    # A variable that nobody filled in is a default to the backend.
    return {key: value for key, value in found.items() if value and "${" not in value}


def recipe_text(migration: Migration, *, model: str, trtllm: str, sm: int | None, name: str | None) -> str:
    """The recipe as TOML."""
    import tomli_w

    sizes = migration.engine.mapping
    values: dict[str, Any] = {"model": model, "name": name}
    values |= {"tp": sizes["tp_size"], "pp": sizes["pp_size"], "moe_ep": sizes["moe_ep_size"]}
    values |= {"runtime": "pytorch", "trtllm": trtllm, "sm": sm, "limits": migration.limits}
    values["pytorch"] = {"llm_args": migration.arguments} if migration.arguments else None
    # Clients, smoke and bench speak the contract of compiled engines.
    values["repository"] = {"front": "inflight"}
    return tomli_w.dumps({key: value for key, value in values.items() if value})


def measurement_plan(recipe: Recipe) -> list[str]:
    """What to measure before and after, one variable at a time, with the way back."""
    name = recipe.name or "NEW"
    return [
        "serve the compiled engine as it is today, and keep it: it is the baseline and the way back",
        "tpforge smoke URL; tpforge bench URL: the same prompts, lengths and concurrency as in production",
        f'tpforge up RECIPE: builds and serves {name} on the same GPUs; front = "inflight" keeps the clients',
        "tpforge smoke URL; tpforge bench URL, with the same options as before",
        "tpforge compare RUN RUN: TTFT, tokens/s, p95, memory; a better average with a worse p95 is a risk",
        "compare answers too: long prompts, structured output and the cases that matter most",
        "then one change at a time: CUDA graphs, chunked prefill, the share of memory for the KV cache",
    ]


def moves_of(migrated: Migrated) -> list[dict[str, Any]]:
    """The moves for --json."""
    return [vars(move) for move in migrated.migration.moves]
