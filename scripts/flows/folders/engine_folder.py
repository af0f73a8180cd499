"""Writes the engine folder of runtime reference from a planned conversion: ranks, tokenizer, engine.json.

It does not make the folder atomic, measures nothing and refuses nothing; `build` does.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from builders.sources.models import source_record
from tpforge import __version__
from tpforge.manifest import FileRecord, Limits, Manifest
from tpforge.outputs.atomic import hash_file
from tpforge.outputs.deciding_code import code_key
from tpforge.progress import BytesProgress
from tpforge.recipe import EngineRecipe
from tpforge.trtllm.build_command import command_words

if TYPE_CHECKING:
    from builders.sources.base import Source
    from scripts.flows.folders.planned_folder import PlannedFolder


def plan_manifest(
    recipe: EngineRecipe,
    planned: PlannedFolder,
    source: Source,
    *,
    limits: Limits,
    inputs: tuple[FileRecord, ...],
) -> Manifest:
    """engine.json as far as it is known before the engine is there: all but its files.

    `inputs` are the files of the source.
    """
    conversion = planned.conversion
    plan = conversion.plan
    return Manifest(
        name=planned.name,
        tpforge_version=__version__,
        code=code_key(__name__, type(source).__module__, *planned.measured_by),
        runtime=recipe.runtime,
        runtime_because=recipe.runtime_because,
        source=source_record(source, given=recipe.model, files=inputs),
        model=source.spec,
        mapping=plan.mapping,
        padding=plan.padding,
        parallel_embedding_dim=recipe.parallel_embedding,
        dtype=conversion.dtype,
        quantization=plan.quantization,
        limits=limits,
        files=(),
        command=command_words(recipe, limits=limits, dtype=conversion.dtype),
        dropped_tensors=conversion.dropped,
    )


def write_engine(
    recipe: EngineRecipe,
    planned: PlannedFolder,
    source: Source,
    *,
    limits: Limits,
    folder: Path,
    meter: BytesProgress | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Write all of it into `folder`; the manifest, and notes for the user."""
    from builders.conversion.convert import convert
    from engines.store import write_manifest

    tokenizer = folder / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    (folder / "checkpoint").mkdir(exist_ok=True)
    tokenizer.mkdir()
    conversion = convert(source, planned.conversion, out=folder / "checkpoint", progress=meter)
    source.write_tokenizer(tokenizer)
    tokenizer_files = sorted(path for path in tokenizer.iterdir() if path.is_file())
    files = (
        *(file.model_copy(update={"path": f"checkpoint/{file.path}"}) for file in conversion.files),
        *(hash_file(path, relative_to=folder) for path in tokenizer_files),
    )
    manifest = plan_manifest(recipe, planned, source, limits=limits, inputs=conversion.input_files)
    manifest = manifest.model_copy(update={"files": files})
    write_manifest(folder, manifest)
    return manifest, conversion.notes
