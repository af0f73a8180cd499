"""From a model to an engine folder: an engine of runtime reference, and of any runtime for a recipe.

It prints nothing and parses no arguments. `compile` and `llm_engine` make the engines of the other runtimes.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builders.sources.models import input_files, open_model
from builders.sources.tokenizer_files import require_tokenizer
from scripts.flows import compile
from scripts.flows.convert import resumable_folder
from scripts.flows.folders import llm_engine
from scripts.flows.folders.engine_folder import plan_manifest, write_engine
from scripts.flows.folders.kept_engine import find_kept, kept_differences
from scripts.flows.folders.planned_folder import (
    Built,
    PlannedFolder,
    plan_engine_folder,
    plan_recipe,
)
from scripts.flows.quantize import measure_drop
from tpforge.errors import InputRefused, UsageError
from tpforge.extras import require_extra
from tpforge.manifest import Limits, Manifest
from tpforge.outputs.places import Places
from tpforge.progress import BytesProgress, Progress
from tpforge.recipe import EngineRecipe

if TYPE_CHECKING:
    from builders.sources.base import Source

Existing = Literal["refuse", "update", "replace"]


def plan_engine(recipe: EngineRecipe, *, out: Path | None = None) -> PlannedFolder:
    """What `build_engine` would write for `recipe`.

    Raises:
        TpforgeError: whatever would keep it from being built.
    """
    _refuse_runtime(recipe)
    with open_model(recipe.model) as source:
        return _planned(recipe, source, out=out)[0]


def build_engine(
    recipe: EngineRecipe,
    *,
    out: Path | None = None,
    existing: Existing = "refuse",
    resume: bool = False,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> Built:
    """Make the engine folder of `recipe`, by default out/NAME/engine.

    An engine that is there already, made of the same files with the same options, is kept as it is, unless
    `existing` is "replace". A different one is refused, or replaced by "update" and "replace".

    Raises:
        UsageError: the runtime or the limits are impossible.
        EnvironmentUnusable: torch is not installed.
        InputRefused: the model is refused, or another engine is there and may not be replaced.
    """
    _refuse_runtime(recipe)
    require_extra("convert", needed_by="building an engine")
    progress(f"opening {recipe.model}")
    with open_model(recipe.model) as source:
        require_tokenizer(source.path)
        planned, limits = _planned(recipe, source, out=out)
        kept = find_kept(Places(planned.out)) if existing != "replace" else None
        if kept is not None:
            if _is_kept(kept, recipe, planned, source, limits=limits, existing=existing, progress=progress):
                return Built(Places(planned.out), kept, reused=True, notes=planned.conversion.notes)
            existing = "replace"
        if recipe.kv_cache is not None:
            planned = _with_kv_scales(recipe, planned, source, limits=limits, progress=progress)
        progress(f"converting {recipe.model} to {planned.out}")
        force = existing == "replace"
        with resumable_folder(planned.out, force=force, resume=resume, progress=progress) as folder:
            manifest, notes = write_engine(recipe, planned, source, limits=limits, folder=folder, meter=meter)
            if recipe.max_drop is not None:
                manifest = _within_drop(recipe.max_drop, planned, source, manifest, folder, progress=progress)
    return Built(Places(planned.out), manifest, reused=False, notes=notes)


def _planned(recipe: EngineRecipe, source: Source, *, out: Path | None) -> tuple[PlannedFolder, Limits]:
    """The folder and the limits, of a model that the reference runtime executes."""
    limits = recipe.limits.resolve(source.spec)
    planned = plan_engine_folder(recipe, source, out=out)
    if recipe.kv_cache is not None:
        planned = replace(planned, measured_by=("engines.kv_scales",))
    _refuse_unexecutable(planned, limits=limits)
    return planned, limits


def _is_kept(
    kept: Manifest,
    recipe: EngineRecipe,
    planned: PlannedFolder,
    source: Source,
    *,
    limits: Limits,
    existing: Existing,
    progress: Progress,
) -> bool:
    """Whether the engine that is there is the one that is asked for.

    Raises:
        InputRefused: it is another one, and may not be replaced.
    """
    progress(f"comparing {planned.out} with its model")
    asked = plan_manifest(recipe, planned, source, limits=limits, inputs=input_files(source))
    found = kept_differences(Places(planned.out), kept, asked=asked)
    if found and existing == "refuse":
        raise InputRefused.listing(
            f"{planned.out}: exists already and is another engine; "
            "give another --out, or --force to replace it:",
            found,
        )
    return not found


def _with_kv_scales(
    recipe: EngineRecipe, planned: PlannedFolder, source: Source, *, limits: Limits, progress: Progress
) -> PlannedFolder:
    """The plan with the steps of its KV cache, measured on an engine of one rank without it."""
    from builders.conversion.planned import with_kv_scales
    from engines.kv_scales import measure_kv_scales

    assert recipe.kv_cache is not None
    progress(f"measuring the steps of the {recipe.kv_cache} KV cache")
    plain = {"quantize": None, "portable": False, "kv_cache": None, "max_drop": None}
    single = recipe.model_copy(update={"tp": 1, "pp": 1, "moe_ep": 1, **plain})
    with tempfile.TemporaryDirectory(prefix="tpforge-kv-") as scratch:
        folder = Path(scratch)
        whole = PlannedFolder(planned.name, folder, plan_recipe(single, source))
        write_engine(single, whole, source, limits=limits, folder=folder)
        scales = measure_kv_scales(folder, recipe.kv_cache)
    return replace(planned, conversion=with_kv_scales(planned.conversion, source, scales=scales))


def _within_drop(
    limit: float,
    planned: PlannedFolder,
    source: Source,
    manifest: Manifest,
    folder: Path,
    *,
    progress: Progress,
) -> Manifest:
    """The manifest with what quantization cost, kept in a folder that is not published yet.

    Raises:
        RegressionFound: it cost more than `limit`.
    """
    from engines.store import write_manifest

    manifest = measure_drop(folder, manifest, source, limit=limit, where=planned.out, progress=progress)
    write_manifest(folder, manifest)
    return manifest


def fresh_engine(recipe: EngineRecipe, *, progress: Progress) -> Built:
    """The engine of a recipe of any runtime, under out/: kept when it is there already, made of the same.

    Another one of its name is replaced once the new one is complete.

    Raises:
        TpforgeError: as the build of its runtime does.
    """
    if recipe.runtime == "reference":
        return build_engine(recipe, existing="update", progress=progress)
    if recipe.runtime == "tensorrt":
        return compile.fresh_compilation(recipe, progress=progress)
    return llm_engine.fresh_llm_engine(recipe, progress=progress)


def _refuse_unexecutable(planned: PlannedFolder, *, limits: Limits) -> None:
    """Refuse before anything is written what converts, but would not run in the reference runtime."""
    from engines.reference.refusing import refusals

    model = planned.conversion.plan.model.model_dump(mode="json")
    if problems := refusals(planned.conversion.config, model, max_seq_len=limits.max_seq_len):
        raise InputRefused.listing(
            "not executed by the reference runtime (`tpforge convert` writes the checkpoint alone):",
            problems,
        )


def _refuse_runtime(recipe: EngineRecipe) -> None:
    if recipe.runtime != "reference":
        raise UsageError(
            f"runtime {recipe.runtime}: is built by `tpforge build --runtime {recipe.runtime}` and "
            "`tpforge up`, not by this command"
        )
