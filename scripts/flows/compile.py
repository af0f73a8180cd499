"""From a model to compiled TensorRT-LLM engines: composes the conversion, the plan of the build, and its run.

It prints nothing; `build` makes the engines of the reference runtime.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scripts.flows import build, models
from scripts.flows.provenance_kept_checkpoints import checkpoint_beside, discard, holds, keep, made_of
from tpforge import __version__
from tpforge.arguments import write_value
from tpforge.atomic import atomic_folder, hash_file, refuse_existing
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError, VerificationFailed
from tpforge.manifest import EngineBuild, Limits, Manifest
from tpforge.places import Places
from tpforge.progress import BytesProgress, Progress
from tpforge.recipe import EngineRecipe
from tpforge.system.linking import link_tree
from tpforge.versions import release_for
from tpforge.weight_order import order_for

if TYPE_CHECKING:
    from builders.tensorrt.command import BuildCommand
    from builders.tensorrt.log import BuildLog
    from builders.tensorrt.plan import BuildPlan
    from engines.host import Host
    from scripts.flows.build import Planned

SCRIPT, LOG = "build.sh", "build.log"


@dataclass(frozen=True)
class Compilation:
    """What a build would do; `planned` is None when MODEL is a TensorRT-LLM checkpoint already."""

    out: Path
    planned: Planned | None
    limits: Limits
    plan: BuildPlan
    command: BuildCommand
    script: str


def plan_compilation(recipe: EngineRecipe, *, out: Path | None) -> Compilation:
    """What `compile_engine` would do for `recipe`; nothing is written.

    Raises:
        TpforgeError: whatever would keep it from being built, as far as it can be known without a GPU.
    """
    from engines.host import find_host

    host = find_host()
    if is_checkpoint(recipe.model):
        return _plan_of_checkpoint(recipe, host, out=out)
    with models.open_model(recipe.model) as source:
        planned = build.plan_source(recipe, source, out=out)
        limits = recipe.limits.resolve(source.spec)
        config = source.family.target_config(planned.plan, dtype=planned.dtype)
    return _compilation(recipe, host, out=planned.out, planned=planned, limits=limits, config=config)


def is_checkpoint(model: str) -> bool:
    """Whether MODEL is a folder with the config.json of a TensorRT-LLM checkpoint."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return False
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(config, dict) and "architecture" in config and "mapping" in config


def compile_engine(
    recipe: EngineRecipe,
    *,
    out: Path | None,
    existing: Literal["refuse", "replace"],
    progress: Progress,
    meter: BytesProgress | None = None,
) -> build.Built:
    """Convert, run trtllm-build, check what it made, and write engine.json.

    The converted checkpoint stays beside the engine until the build has ended well.

    Raises:
        EnvironmentUnusable: trtllm-build cannot be run as asked.
        InputRefused: the model or the arguments are refused, or the build failed.
        VerificationFailed: what was built is not what was asked.
    """
    from builders.tensorrt.run import require_program
    from engines.host import find_host
    from engines.store import write_manifest

    if is_checkpoint(recipe.model):
        raise UsageError(
            f"{recipe.model}: is a TensorRT-LLM checkpoint already; --dry-run prints the command and the "
            "script for it (engine.json is made from a Hugging Face checkpoint or a .gguf file)"
        )
    compilation = plan_compilation(recipe, out=out)
    require_program(_where(recipe))
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
    discard(checkpoint)
    return build.Built(Places(final), manifest, reused=False, notes=notes)


def _refuse_host(recipe: EngineRecipe, compilation: Compilation) -> None:
    """Refuse what could not be compiled here before hours go into the conversion; Slurm's node is another.

    Raises:
        EnvironmentUnusable: GPUs, driver, container or release do not fit.
    """
    from engines.host import container_problem, find_host
    from engines.runtime import find_build_misfits

    where = _where(recipe)
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


def _plan_of_checkpoint(recipe: EngineRecipe, host: Host, *, out: Path | None) -> Compilation:
    from builders.tensorrt.rank_order import order_problems

    folder = Path(recipe.model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if problems := order_problems(folder, (config.get("quantization") or {}).get("quant_algo")):
        raise InputRefused.listing(f"{folder}: trtllm-build would misread it:", problems)
    positions = int(config.get("max_position_embeddings") or 0)
    asked = recipe.limits
    max_seq_len = asked.max_seq_len or min(2048, positions or 2048)
    limits = Limits(
        max_batch_size=asked.max_batch_size,
        max_input_len=asked.max_input_len or max(1, max_seq_len // 2),
        max_seq_len=max_seq_len,
    )
    return _compilation(recipe, host, out=out or folder.parent, planned=None, limits=limits, config=config)


def _compilation(
    recipe: EngineRecipe,
    host: Host,
    *,
    out: Path,
    planned: Planned | None,
    limits: Limits,
    config: dict[str, Any],
) -> Compilation:
    from builders.tensorrt.command import build_command, build_script
    from builders.tensorrt.plan import plan_build
    from builders.tensorrt.target import BuildTarget, read_facts

    target = BuildTarget(
        release=release_for(recipe.trtllm, runtime="tensorrt"),
        checkpoint=read_facts(config, where=recipe.model),
        sm=recipe.sm or host.sm,
        num_gpus=len(host.gpus) or None,
    )
    settings = recipe.tensorrt
    plan = plan_build(target, limits=limits, given=settings.build_args, goal=settings.optimize_for)
    command = build_command(plan, where=_where(recipe), folder=out.absolute(), image=settings.image)
    return Compilation(out, planned, limits, plan, command, build_script(command, plan))


def _where(recipe: EngineRecipe) -> Literal["host", "docker", "podman", "slurm"]:
    container = recipe.tensorrt.container
    return "host" if container == "none" else container


def _refuse_other_gpu(recipe: EngineRecipe, planned: Planned, host: Host) -> None:
    """trtllm-build compiles for the GPUs that it sees, whatever the integers are laid out for."""
    found = planned.plan.quantization
    if found is None or found.format is None or found.order not in ("sm80", "sm90"):
        return
    if host.sm is None or _where(recipe) == "slurm":
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
        key = made_of(source, planned)
    if checkpoint.is_dir():
        progress(f"checking {checkpoint}")
    if holds(checkpoint, key=key):
        progress(f"keeping {checkpoint} of an earlier run")
        return checkpoint, planned.notes
    progress(f"converting {recipe.model} to {checkpoint}")
    _, conversion = build.convert_checkpoint(
        recipe, out=checkpoint, force=True, progress=progress, meter=meter
    )
    keep(checkpoint, key=key, files=conversion.files)
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
    command = build_command(plan, where=_where(recipe), folder=folder.absolute(), image=recipe.tensorrt.image)
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
    planned, release = compilation.planned, compilation.plan.target.release
    assert planned is not None
    with models.open_model(recipe.model) as source:
        record = models.source_record(recipe, source, files=models.input_files(source))
        spec = source.spec
    kept = [path for name in ("checkpoint", "engine", "tokenizer") for path in (folder / name).rglob("*")]
    return Manifest(
        name=planned.name,
        tpforge_version=__version__,
        runtime="tensorrt",
        source=record,
        model=spec,
        mapping=planned.plan.mapping,
        padding=planned.plan.padding,
        parallel_embedding_dim=recipe.parallel_embedding,
        dtype=planned.dtype,
        quantization=planned.plan.quantization,
        limits=compilation.limits,
        files=tuple(hash_file(path, relative_to=folder) for path in sorted(kept) if path.is_file()),
        command=command_of(recipe, compilation),
        engine_build=EngineBuild(
            trtllm=release.trtllm,
            tensorrt=release.tensorrt,
            cuda=release.cuda,
            arguments=compilation.plan.arguments,
            command=command,
            sm=host.sm or recipe.sm,
            gpu=host.gpus[0].name if host.gpus else None,
            driver=host.driver,
            topology=host.topology,
            log={
                key: value for key, value in log.model_dump(exclude={"warnings"}).items() if value is not None
            },
            warnings=log.warnings,
        ),
        dropped_tensors=planned.dropped,
    )


def command_of(recipe: EngineRecipe, compilation: Compilation) -> tuple[str, ...]:
    """The command line that makes the same engine, with every default spelled out."""
    planned = compilation.planned
    assert planned is not None
    words = build.command_words(recipe, limits=compilation.limits, dtype=planned.dtype)
    found, sm = planned.plan.quantization, recipe.sm
    if found is not None and found.order in ("sm80", "sm90"):
        sm = compilation.plan.target.sm  # Decides the bytes, though it was not given.
    return (*words, *_own_words(recipe, sm=sm))


def _own_words(recipe: EngineRecipe, *, sm: int | None) -> tuple[str, ...]:
    """The options of `tpforge build` that only this runtime has, as they were given."""
    settings = recipe.tensorrt
    words = ["--trtllm", recipe.trtllm]
    words += ["--sm", str(sm)] if sm else []
    words += ["--optimize-for", settings.optimize_for] if settings.optimize_for else []
    words += ["--container", settings.container] if settings.container != "none" else []
    words += ["--image", settings.image] if settings.image else []
    for name, value in settings.build_args.items():
        words += ["--build-arg", f"{name}={write_value(value).replace(' ', ',')}"]
    return tuple(words)
