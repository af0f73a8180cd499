"""From a model to an engine folder of runtime pytorch, planned for this host's GPUs, and written.

It prints nothing; `builders.llm_api.engine` says what the folder holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scripts.flows.folders.kept_engine import find_kept, kept_differences
from scripts.flows.folders.planned_folder import Built, serving_sm
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.places import Places
from tpforge.progress import Progress
from tpforge.recipe import EngineRecipe

if TYPE_CHECKING:
    from builders.llm_api.engine import LlmEngine

Existing = Literal["refuse", "replace"]


def plan_llm_engine(recipe: EngineRecipe, *, out: Path | None) -> LlmEngine:
    """What `build_llm_engine` would write for `recipe`.

    Raises:
        TpforgeError: whatever the LLM API would refuse, as far as it can be known without a GPU.
    """
    from builders.llm_api import engine as llm_engine

    return llm_engine.plan_llm_engine(recipe, out=out, sm=serving_sm(recipe))


def build_llm_engine(
    recipe: EngineRecipe, *, out: Path | None, existing: Existing, progress: Progress
) -> Built:
    """Write the engine folder: the model linked, copied or padded, llm.yaml, the tokenizer, engine.json.

    Raises:
        InputRefused: the model is refused, or the folder exists and may not be replaced.
    """
    return _build(recipe, plan_llm_engine(recipe, out=out), existing=existing, progress=progress)


def _build(recipe: EngineRecipe, engine: LlmEngine, *, existing: Existing, progress: Progress) -> Built:
    from builders.llm_api.engine import write_llm_engine
    from engines.store import write_manifest

    with atomic_folder(engine.out, force=existing == "replace") as folder:
        progress(f"putting {recipe.model} into {engine.out}")
        manifest = write_llm_engine(recipe, engine, folder=folder, progress=progress)
        write_manifest(folder, manifest)
    return Built(Places(engine.out), manifest, reused=False, notes=engine.notes)


def fresh_llm_engine(recipe: EngineRecipe, *, progress: Progress) -> Built:
    """The engine of a recipe under out/: kept when it is there already, made of the same, else built.

    Raises:
        TpforgeError: as `build_llm_engine` does.
    """
    from builders.llm_api.engine import plan_manifest

    engine = plan_llm_engine(recipe, out=None)
    places = Places(engine.out)
    if (kept := find_kept(places)) is not None:
        progress(f"comparing {engine.out} with its model")
        if not kept_differences(places, kept, asked=plan_manifest(recipe, engine)):
            return Built(places, kept, reused=True, notes=engine.quantization.notes)
    return _build(recipe, engine, existing="replace", progress=progress)
