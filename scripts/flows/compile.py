"""From a model to compiled TensorRT-LLM engines: composes the conversion and the run of trtllm-build.

It prints nothing; `compilation` has what would be done, `build` makes the engines of the reference runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builders.conversion.kept_checkpoint import checkpoint_beside, discard_checkpoint, holds, keep_checkpoint
from builders.sources import models
from scripts.flows.convert import resumable_folder
from scripts.flows.folders.compilation import (
    Compilation,
    command_of,
    is_checkpoint,
    plan_compilation,
    where_to_run,
)
from scripts.flows.folders.kept_engine import find_kept, kept_differences
from scripts.flows.folders.planned_folder import (
    Built,
    PlannedFolder,
)
from tpforge import __version__
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError, VerificationFailed
from tpforge.extras import require_extra
from tpforge.manifest import EngineBuild, FileRecord, Manifest
from tpforge.outputs.atomic import atomic_folder, hash_file, refuse_existing
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.places import Places
from tpforge.outputs.written import note_files
from tpforge.progress import BytesProgress, Progress
from tpforge.recipe import EngineRecipe
from tpforge.shards.weight_order import order_for
from tpforge.system.linking import link_tree

if TYPE_CHECKING:
    from builders.sources.base import Source
    from builders.tensorrt.log import BuildLog
    from engines.host import Host

SCRIPT, LOG = "build.sh", "build.log"
Existing = Literal["refuse", "replace"]


def compile_engine(
    recipe: EngineRecipe,
    *,
    out: Path | None,
    existing: Existing,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> Built:
    """Convert, run trtllm-build, check what it made, and write engine.json.

    The converted checkpoint stays beside the engine until the build has ended well.

    Raises:
        EnvironmentUnusable: trtllm-build cannot be run as asked.
        InputRefused: the model or the arguments are refused, or the build failed.
        VerificationFailed: what was built is not what was asked.
    """
    _refuse_checkpoint(recipe)
    compilation = plan_compilation(recipe, out=out)
    return _compile(recipe, compilation, existing=existing, progress=progress, meter=meter)


def _compile(
    recipe: EngineRecipe,
    compilation: Compilation,
    *,
    existing: Existing,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> Built:
    """Do what is planned; everything that can be refused is refused before the conversion."""
    require_extra("convert", needed_by="converting")
    from builders.tensorrt.run import require_program
    from engines.host import find_host
    from engines.store import write_manifest

    require_program(where_to_run(recipe))
    _refuse_host(recipe, compilation)
    assert compilation.planned is not None
    _refuse_other_gpu(recipe, compilation.planned, find_host())
    final = compilation.out
    refuse_existing(final, force=existing == "replace")
    checkpoint, notes = _converted(recipe, compilation, progress=progress, meter=meter)
    with atomic_folder(final, force=existing == "replace") as folder:
        link_tree(checkpoint, folder / "checkpoint")
        with models.open_model(recipe.model) as source:
            (folder / "tokenizer").mkdir()
            source.write_tokenizer(folder / "tokenizer")
        log, command = _run(recipe, compilation, folder, progress=progress)
        manifest = _manifest(recipe, compilation, folder, host=find_host(), log=log, command=command)
        write_manifest(folder, manifest)
    discard_checkpoint(checkpoint)
    return Built(Places(final), manifest, reused=False, notes=notes)


def fresh_compilation(recipe: EngineRecipe, *, progress: Progress) -> Built:
    """The engine of a recipe under out/: kept when it is there already, made of the same, else compiled.

    Raises:
        TpforgeError: as `compile_engine` does.
    """
    _refuse_checkpoint(recipe)
    compilation = plan_compilation(recipe, out=None)
    places = Places(compilation.out)
    if (kept := find_kept(places)) is not None:
        progress(f"comparing {compilation.out} with its model")
        with models.open_model(recipe.model) as source:
            asked = plan_manifest(recipe, compilation, source, inputs=models.input_files(source))
        if not kept_differences(places, kept, asked=asked):
            return Built(places, kept, reused=True, notes=())
    return _compile(recipe, compilation, existing="replace", progress=progress)


def _refuse_checkpoint(recipe: EngineRecipe) -> None:
    if is_checkpoint(recipe.model):
        raise UsageError(
            f"{recipe.model}: is a TensorRT-LLM checkpoint already; --dry-run prints the command and the "
            "script for it (engine.json is made from a Hugging Face checkpoint or a .gguf file)"
        )


def _refuse_host(recipe: EngineRecipe, compilation: Compilation) -> None:
    """Refuse what could not be compiled here before hours go into the conversion; Slurm's node is another.

    Raises:
        EnvironmentUnusable: GPUs, driver, container or release do not fit.
    """
    from engines.host import container_problem, find_host
    from engines.runtime import find_build_misfits

    where = where_to_run(recipe)
    if where == "slurm":
        return
    release = compilation.plan.target.release
    misfits = find_build_misfits(find_host(), release=release, container=where != "host")
    problem = container_problem(where) if where != "host" else None
    misfits += [problem] if problem else []
    if misfits:
        listed = "\n  ".join(["trtllm-build cannot be run here:", *misfits])
        raise EnvironmentUnusable(
            f"{listed}\n  --dry-run prints the command and the script for a host that can"
        )


def _refuse_other_gpu(recipe: EngineRecipe, planned: PlannedFolder, host: Host) -> None:
    """trtllm-build compiles for the GPUs that it sees, whatever the integers are laid out for."""
    found = planned.conversion.plan.quantization
    if found is None or found.format is None or found.order not in ("sm80", "sm90"):
        return
    if host.sm is None or where_to_run(recipe) == "slurm":
        return
    if host.sm > 90 or order_for(found.format, runtime="tensorrt", sm=host.sm) != found.order:
        raise InputRefused(
            f"--sm {recipe.sm}: the integers of {found.format} would be laid out for it, but trtllm-build "
            f"compiles for the GPUs that it sees, SM{host.sm}; build on a host with the GPUs that will serve"
        )


def _converted(
    recipe: EngineRecipe, compilation: Compilation, *, progress: Progress, meter: BytesProgress | None
) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint beside the engine: kept when an earlier run has left the very same, else converted."""
    checkpoint = checkpoint_beside(compilation.out)
    planned = compilation.planned
    assert planned is not None
    with models.open_model(recipe.model) as source:
        return _converted_source(recipe, planned, source, checkpoint, progress=progress, meter=meter)


def _converted_source(
    recipe: EngineRecipe,
    planned: PlannedFolder,
    source: Source,
    checkpoint: Path,
    *,
    progress: Progress,
    meter: BytesProgress | None,
) -> tuple[Path, tuple[str, ...]]:
    from builders.conversion.convert import conversion_provenance, convert

    asked = conversion_provenance(source, planned.conversion)
    if checkpoint.is_dir():
        progress(f"checking {checkpoint}")
    if holds(checkpoint, asked=asked):
        progress(f"keeping {checkpoint} of an earlier run")
        return checkpoint, planned.conversion.notes
    progress(f"converting {recipe.model} to {checkpoint}")
    with resumable_folder(checkpoint, force=True, resume=False, progress=progress) as folder:
        conversion = convert(source, planned.conversion, out=folder, progress=meter)
        note_files(folder, conversion.files)
    keep_checkpoint(checkpoint, provenance=asked, files=conversion.files)
    return checkpoint, conversion.notes


def _run(
    recipe: EngineRecipe, compilation: Compilation, folder: Path, *, progress: Progress
) -> tuple[BuildLog, tuple[str, ...]]:
    from builders.tensorrt.command import build_command, build_words
    from builders.tensorrt.outcome import check_outcome
    from builders.tensorrt.plan import ENGINE
    from builders.tensorrt.run import run_build

    plan = compilation.plan
    script = folder / SCRIPT
    script.write_text(compilation.script, encoding="utf-8")
    script.chmod(0o755)
    command = build_command(
        plan, where=where_to_run(recipe), folder=folder.absolute(), image=recipe.tensorrt.image
    )
    log = run_build(command, log=folder / LOG, on_line=progress)
    if problems := check_outcome(folder / ENGINE, plan):
        listed = "\n  ".join(["trtllm-build ended well, but not with what was asked:", *problems])
        raise VerificationFailed(listed)
    return log, build_words(plan)


def _manifest(
    recipe: EngineRecipe,
    compilation: Compilation,
    folder: Path,
    *,
    host: Host,
    log: BuildLog,
    command: tuple[str, ...],
) -> Manifest:
    """engine.json of what was built, on what, and the numbers of its log."""
    with models.open_model(recipe.model) as source:
        manifest = plan_manifest(recipe, compilation, source, inputs=models.input_files(source))
    kept = [path for name in ("checkpoint", "engine", "tokenizer") for path in (folder / name).rglob("*")]
    numbers = log.model_dump(exclude={"warnings"})
    assert manifest.engine_build is not None
    built = manifest.engine_build.model_copy(
        update={
            "command": command,
            "sm": host.sm or recipe.sm,
            "gpu": host.gpus[0].name if host.gpus else None,
            "driver": host.driver,
            "topology": host.topology,
            "log": {key: value for key, value in numbers.items() if value is not None},
            "warnings": log.warnings,
        }
    )
    files = tuple(hash_file(path, relative_to=folder) for path in sorted(kept) if path.is_file())
    return manifest.model_copy(update={"files": files, "engine_build": built})


def plan_manifest(
    recipe: EngineRecipe, compilation: Compilation, source: Source, *, inputs: tuple[FileRecord, ...]
) -> Manifest:
    """engine.json as far as it is known before anything is built; `inputs` are the files of the source."""
    planned, release = compilation.planned, compilation.plan.target.release
    assert planned is not None
    conversion = planned.conversion
    return Manifest(
        name=planned.name,
        tpforge_version=__version__,
        code=code_key(__name__, type(source).__module__),
        runtime="tensorrt",
        runtime_because=recipe.runtime_because,
        source=models.source_record(source, given=recipe.model, files=inputs),
        model=source.spec,
        mapping=conversion.plan.mapping,
        padding=conversion.plan.padding,
        parallel_embedding_dim=recipe.parallel_embedding,
        dtype=conversion.dtype,
        quantization=conversion.plan.quantization,
        limits=compilation.limits,
        files=(),
        command=command_of(recipe, compilation),
        engine_build=EngineBuild(
            trtllm=release.trtllm,
            tensorrt=release.tensorrt,
            cuda=release.cuda,
            arguments=compilation.plan.arguments,
            command=(),
        ),
        dropped_tensors=conversion.dropped,
    )
