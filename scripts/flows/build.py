"""From a model to an engine: composes builders and engines.

It prints nothing and parses no arguments. `prove` goes on to the proof, `render` to the model
repository, `serve` to the server, and `up` strings the steps together.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scripts.flows.models import open_model, source_record
from scripts.flows.provenance_sameness import engine_differences
from scripts.flows.quantize import measure_drop, quantization_of
from tpforge import __version__
from tpforge.atomic import atomic_folder, hash_file, partial_folder, remove_output
from tpforge.dtypes import DType
from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Limits, Manifest
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.places import Places, engine_name, places_of
from tpforge.progress import BytesProgress, Progress
from tpforge.recipe import EngineRecipe
from tpforge.sharding import ShardPlan
from tpforge.written import note_files

if TYPE_CHECKING:
    from builders.convert import Conversion
    from builders.sources.base import Source


@dataclass(frozen=True)
class Planned:
    """What a build or a conversion would write: nothing has been written."""

    name: str
    out: Path
    model: ModelSpec
    plan: ShardPlan
    dtype: DType
    file_sizes: dict[str, int]
    dropped: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """An engine folder; `reused` when it was there already, made of the same input by the same options."""

    places: Places
    manifest: Manifest
    reused: bool
    notes: tuple[str, ...]


def plan_engine(recipe: EngineRecipe, *, out: Path | None = None) -> Planned:
    """What `build_engine` would write for `recipe`.

    Raises:
        TpforgeError: whatever would keep it from being built.
    """
    _refuse_runtime(recipe)
    with open_model(recipe.model) as source:
        limits = recipe.limits.resolve(source.spec)
        planned = _plan(recipe, source, out=_engine_places(recipe, source, out).engine)
        _refuse_unexecutable(source, planned, limits=limits)
        return planned


def plan_source(recipe: EngineRecipe, source: Source, *, out: Path | None) -> Planned:
    """The plan of a source that is open, for an engine in `out` or under out/; for any runtime.

    Raises:
        TpforgeError: whatever would keep it from being converted.
    """
    return _plan(recipe, source, out=_engine_places(recipe, source, out).engine)


def plan_checkpoint(recipe: EngineRecipe, *, out: Path | None) -> Planned:
    """What `convert_checkpoint` would write for `recipe`.

    Raises:
        TpforgeError: whatever would keep it from being written.
    """
    with open_model(recipe.model) as source:
        return _plan(recipe, source, out=_checkpoint_folder(recipe, source, out))


def _plan(recipe: EngineRecipe, source: Source, *, out: Path) -> Planned:
    from builders.audit import audit
    from builders.planning import plan_rank_files, plan_shards
    from builders.quantize.writing.cuts import refuse_cuts

    if source.family.refusal is not None:
        raise InputRefused(f"{source.location}: {source.family.refusal}")
    dropped = audit(source)
    plan = plan_shards(
        source,
        mapping=_mapping(recipe),
        pad=recipe.pad,
        parallel_embedding_dim=recipe.parallel_embedding,
        quantization=quantization_of(recipe, source),
    )
    dtype = recipe.dtype or source.spec.dtype
    files = plan_rank_files(source, plan=plan, dtype=dtype)
    if source.quantized is not None:
        tensors = (tensor for file in files for tensor in file.tensors)
        refuse_cuts(source.quantized, tensors, where=source.location)
    return Planned(
        name=_name(recipe, source),
        out=out,
        model=source.spec,
        plan=plan,
        dtype=dtype,
        file_sizes={file.name: file.size for file in files},
        dropped=dropped,
        notes=(*source.notes, *plan.padding.notes),
    )


def convert_checkpoint(
    recipe: EngineRecipe,
    *,
    out: Path | None,
    force: bool,
    resume: bool = False,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> tuple[Path, Conversion]:
    """Write the TensorRT-LLM checkpoint alone, by default to out/NAME/checkpoint; where it is, and what.

    Raises:
        InputRefused: `out` exists and `force` is not given, or the model is refused.
    """
    with open_model(recipe.model) as source:
        final = _checkpoint_folder(recipe, source, out)
        # Refused before a folder is made, and before torch is imported, which takes longer than to refuse.
        _plan(recipe, source, out=final)
        from builders.convert import convert

        with _resumable_folder(final, force=force, resume=resume, progress=progress) as folder:
            conversion = convert(
                source,
                mapping=_mapping(recipe),
                dtype=recipe.dtype,
                pad=recipe.pad,
                parallel_embedding_dim=recipe.parallel_embedding,
                quantization=quantization_of(recipe, source),
                out=folder,
                progress=meter,
            )
            note_files(folder, conversion.files)
    return final, conversion


@contextmanager
def _resumable_folder(final: Path, *, force: bool, resume: bool, progress: Progress) -> Iterator[Path]:
    """As `atomic_folder`; after an interrupt, what a conversion wrote stays for `--resume`."""
    from builders.journal import is_resumable

    partial = partial_folder(final)
    if is_resumable(partial) and not resume:
        progress(f"starting over: {partial} of an interrupted run is removed (--resume would go on with it)")
    try:
        with atomic_folder(final, force=force, resume=resume, keep=is_resumable) as folder:
            yield folder
    except BaseException:
        if is_resumable(partial):
            progress(f"{partial} is kept: --resume goes on with it, a plain run starts over")
        raise


def build_engine(
    recipe: EngineRecipe,
    *,
    out: Path | None = None,
    existing: Literal["refuse", "update", "replace"] = "refuse",
    resume: bool = False,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> Built:
    """Make the engine folder of `recipe`, by default out/NAME/engine.

    An engine that is there already, made of the same files with the same options, is kept as it is, unless
    `existing` is "replace". A different one is refused, or replaced by "update" and "replace".

    Raises:
        UsageError: the runtime or the limits are impossible.
        InputRefused: the model is refused, or another engine is there and may not be replaced.
    """
    from engines.store import MANIFEST_NAME, read_manifest, write_manifest

    _refuse_runtime(recipe)
    progress(f"opening {recipe.model}")
    with open_model(recipe.model) as source:
        limits = recipe.limits.resolve(source.spec)
        places = _engine_places(recipe, source, out)
        planned = _plan(recipe, source, out=places.engine)
        _refuse_unexecutable(source, planned, limits=limits)
        if (places.engine / MANIFEST_NAME).is_file() and existing != "replace":
            progress(f"comparing {places.engine} with its model")
            kept = read_manifest(places.engine)
            differences = engine_differences(kept, planned, source, limits=limits)
            if not differences:
                return Built(places, kept, reused=True, notes=planned.notes)
            if existing == "refuse":
                raise InputRefused.listing(
                    f"{places.engine}: exists already and is another engine; "
                    "give another --out, or --force to replace it:",
                    differences,
                )
            existing = "replace"
        if recipe.kv_cache is not None:
            planned = _with_kv_scales(recipe, planned, source, limits=limits, progress=progress)
        progress(f"converting {recipe.model} to {places.engine}")
        force = existing == "replace"
        with _resumable_folder(places.engine, force=force, resume=resume, progress=progress) as folder:
            manifest, notes = _write_engine(
                recipe, planned, source, limits=limits, folder=folder, meter=meter
            )
            if recipe.max_drop is not None:
                manifest = measure_drop(
                    folder,
                    manifest,
                    source,
                    limit=recipe.max_drop,
                    where=places.engine,
                    progress=progress,
                )
                write_manifest(folder, manifest)
    return Built(places, manifest, reused=False, notes=notes)


def _with_kv_scales(
    recipe: EngineRecipe, planned: Planned, source: Source, *, limits: Limits, progress: Progress
) -> Planned:
    """The plan with the steps of its KV cache, measured on an engine of one rank without it."""
    from engines.kv_scales import measure_kv_scales

    assert recipe.kv_cache is not None and planned.plan.quantization is not None
    progress(f"measuring the steps of the {recipe.kv_cache} KV cache")
    single = recipe.model_copy(
        update={"tp": 1, "pp": 1, "moe_ep": 1, "quantize": None, "portable": False, "kv_cache": None}
    )
    with tempfile.TemporaryDirectory(prefix="tpforge-kv-") as scratch:
        folder = Path(scratch)
        _write_engine(
            single,
            _plan(single.model_copy(update={"max_drop": None}), source, out=folder),
            source,
            limits=limits,
            folder=folder,
            meter=None,
        )
        scales = measure_kv_scales(folder, recipe.kv_cache)
    quantization = planned.plan.quantization.model_copy(update={"kv_scales": scales})
    return replace(planned, plan=replace(planned.plan, quantization=quantization))


def _refuse_unexecutable(source: Source, planned: Planned, *, limits: Limits) -> None:
    """Refuse before anything is written what converts, but would not run in the reference runtime."""
    from engines.reference.refusing import refusals

    config = source.family.target_config(planned.plan, dtype=planned.dtype)
    model = planned.model.model_dump(mode="json")
    if problems := refusals(config, model, max_seq_len=limits.max_seq_len):
        raise InputRefused.listing(
            "not executed by the reference runtime (`tpforge convert` writes the checkpoint alone):",
            problems,
        )


def _write_engine(
    recipe: EngineRecipe,
    planned: Planned,
    source: Source,
    *,
    limits: Limits,
    folder: Path,
    meter: BytesProgress | None,
) -> tuple[Manifest, tuple[str, ...]]:
    from builders.convert import convert
    from engines.store import write_manifest

    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "tokenizer").mkdir()
    conversion = convert(
        source,
        mapping=planned.plan.mapping,
        dtype=planned.dtype,
        pad=recipe.pad,
        parallel_embedding_dim=recipe.parallel_embedding,
        quantization=planned.plan.quantization,
        out=folder / "checkpoint",
        progress=meter,
    )
    source.write_tokenizer(folder / "tokenizer")
    tokenizer_files = sorted(path for path in (folder / "tokenizer").iterdir() if path.is_file())
    manifest = Manifest(
        name=planned.name,
        tpforge_version=__version__,
        runtime=recipe.runtime,
        source=source_record(recipe, source, files=conversion.input_files),
        model=source.spec,
        mapping=planned.plan.mapping,
        padding=planned.plan.padding,
        parallel_embedding_dim=recipe.parallel_embedding,
        dtype=conversion.dtype,
        quantization=planned.plan.quantization,
        limits=limits,
        files=(
            *(file.model_copy(update={"path": f"checkpoint/{file.path}"}) for file in conversion.files),
            *(hash_file(path, relative_to=folder) for path in tokenizer_files),
        ),
        command=command_words(recipe, limits=limits, dtype=conversion.dtype),
        dropped_tensors=conversion.dropped,
    )
    write_manifest(folder, manifest)
    return manifest, conversion.notes


def remove(places: Places) -> tuple[Path, ...]:
    """Remove an engine and what was derived from it; the folders that are gone."""
    from engines.store import remove_engine

    gone = [places.engine] if remove_engine(places.engine) else []
    if places.repository.is_dir() and remove_output(places.repository):
        gone.append(places.repository)
    if places.server.is_dir():
        shutil.rmtree(places.server)
        gone.append(places.server)
    places.stages.unlink(missing_ok=True)
    folder = places.engine.parent
    if places.engine.name == "engine" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return tuple(gone)


def _refuse_runtime(recipe: EngineRecipe) -> None:
    if recipe.runtime != "reference":
        raise UsageError(
            f"runtime {recipe.runtime}: is built by `tpforge build --runtime {recipe.runtime}` and "
            "`tpforge up`, not by this command"
        )


def _mapping(recipe: EngineRecipe) -> Mapping:
    return Mapping(tp_size=recipe.tp, pp_size=recipe.pp, moe_ep_size=recipe.moe_ep)


def _name(recipe: EngineRecipe, source: Source) -> str:
    given = recipe.model if source.kind == "hub" else str(source.path)
    if recipe.name is not None:
        return recipe.name
    name = engine_name(given, mapping=_mapping(recipe))
    parts = [name, recipe.quantize, f"kv-{recipe.kv_cache}" if recipe.kv_cache else None]
    return "-".join(part for part in parts if part)


def _engine_places(recipe: EngineRecipe, source: Source, out: Path | None) -> Places:
    return Places(out) if out is not None else places_of(_name(recipe, source))


def _checkpoint_folder(recipe: EngineRecipe, source: Source, out: Path | None) -> Path:
    return out if out is not None else places_of(_name(recipe, source)).engine.parent / "checkpoint"


def command_words(recipe: EngineRecipe, *, limits: Limits, dtype: DType) -> tuple[str, ...]:
    """The command line that makes the same engine, with every default spelled out."""
    words = ["tpforge", "build", recipe.model, "--tp", recipe.tp, "--pp", recipe.pp, "--dtype", dtype.value]
    words += ["--moe-ep", recipe.moe_ep] if recipe.moe_ep > 1 else []
    words.append("--pad" if recipe.pad else "--no-pad")
    if recipe.parallel_embedding is not None:
        words += ["--parallel-embedding", recipe.parallel_embedding]
    words += ["--quantize", recipe.quantize] if recipe.quantize else []
    words += ["--kv-cache", recipe.kv_cache] if recipe.kv_cache else []
    words += ["--portable"] if recipe.portable else []
    words += ["--max-drop", recipe.max_drop] if recipe.max_drop is not None else []
    for name, value in limits.model_dump().items():
        words += [f"--{name.replace('_', '-')}", value]
    return tuple(str(word) for word in [*words, "--runtime", recipe.runtime])
