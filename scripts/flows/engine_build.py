"""The engine of a recipe, of any runtime: kept when it is there already, made of the same, else built.

Composes pipeline, compiling and llm_engines; it prints nothing.
"""

from __future__ import annotations

from scripts.flows import compile, llm_engine, models
from scripts.flows.build import Built, build_engine
from tpforge import __version__
from tpforge.atomic import hash_file
from tpforge.manifest import FileRecord, Manifest
from tpforge.places import Places
from tpforge.progress import Progress
from tpforge.recipe import EngineRecipe


def fresh_engine(recipe: EngineRecipe, *, progress: Progress) -> Built:
    """The engine of a recipe under out/; another one of its name is replaced once the new one is complete.

    Raises:
        TpforgeError: as the build of its runtime does.
    """
    if recipe.runtime == "reference":
        return build_engine(recipe, existing="update", progress=progress)
    if recipe.runtime == "tensorrt":
        return _compiled(recipe, progress)
    return _for_llm_api(recipe, progress)


def _compiled(recipe: EngineRecipe, progress: Progress) -> Built:
    if compile.is_checkpoint(recipe.model):  # Refused there, with what to do.
        return compile.compile_engine(recipe, out=None, existing="replace", progress=progress)
    compilation = compile.plan_compilation(recipe, out=None)
    kept = _kept(Places(compilation.out))
    if kept is not None:
        progress(f"comparing {compilation.out} with its model")
        with models.open_model(recipe.model) as source:
            files = models.input_files(source)
        words = compile.command_of(recipe, compilation)
        build = kept.engine_build
        same = build is not None and build.arguments == compilation.plan.arguments
        if same and _is_same(kept, Places(compilation.out), words=words, files=files):
            return Built(Places(compilation.out), kept, reused=True, notes=())
    return compile.compile_engine(recipe, out=compilation.out, existing="replace", progress=progress)


def _for_llm_api(recipe: EngineRecipe, progress: Progress) -> Built:
    engine = llm_engine.plan_llm_engine(recipe, out=None)
    kept = _kept(Places(engine.out))
    if kept is not None:
        progress(f"comparing {engine.out} with its model")
        root = engine.model.located.path
        files = tuple(hash_file(path, relative_to=root) for path in engine.model.inputs)
        words = llm_engine.command_of(recipe, engine)
        same = kept.llm_api is not None and kept.llm_api.arguments == engine.plan.arguments
        if same and _is_same(kept, Places(engine.out), words=words, files=files):
            return Built(Places(engine.out), kept, reused=True, notes=engine.quantization.notes)
    return llm_engine.build_llm_engine(recipe, out=engine.out, existing="replace", progress=progress)


def _kept(places: Places) -> Manifest | None:
    from engines.store import MANIFEST_NAME, read_manifest

    return read_manifest(places.engine) if (places.engine / MANIFEST_NAME).is_file() else None


def _is_same(
    kept: Manifest, places: Places, *, words: tuple[str, ...], files: tuple[FileRecord, ...]
) -> bool:
    """Whether an engine was made of these files by these options, by this version, and is whole."""
    from engines.store import check_files

    # Where the model lies, the third word, decides nothing: its files do.
    is_asked = kept.command[3:] == words[3:] and kept.source.files == files
    return is_asked and kept.tpforge_version == __version__ and not check_files(places.engine, kept)
