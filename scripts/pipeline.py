"""From a model to a proven engine: composes builders and engines.

It prints nothing and parses no arguments. `rendering` goes on to the model repository, `serving` to the
server, and `stages` strings the steps together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.locations import DEMO_MODEL, Places, cache_dir, engine_name, places_of
from tpforge import __version__
from tpforge.atomic import atomic_folder, hash_file, refuse_existing, write_atomic
from tpforge.dtypes import DType
from tpforge.errors import InputRefused, UsageError, VerificationFailed
from tpforge.manifest import FileRecord, GoldenAnswer, Limits, Manifest, Parity, SourceRecord
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.recipe import EngineRecipe
from tpforge.sharding import ShardPlan

if TYPE_CHECKING:
    from builders.convert import Conversion
    from builders.sources.base import Source

Progress = Callable[[str], None]


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


@dataclass(frozen=True)
class Verified:
    """An engine after its proof."""

    places: Places
    manifest: Manifest
    parity: Parity


def open_model(location: str) -> Source:
    """The source at a directory, hub id (with @revision), .gguf file, or `demo`.

    Raises:
        InputRefused: it is none of these, or not sound.
    """
    from builders.sources import open_source

    if location == DEMO_MODEL and not Path(location).exists():
        location = str(demo_model())
    if Path(location).exists() or "@" not in location:
        return open_source(location)
    bare, revision = location.rsplit("@", 1)
    return open_source(bare, revision=revision)


def demo_model(cache: Path | None = None) -> Path:
    """The demo model's .gguf, fetched on first use."""
    from builders.demo import fetch_demo_model

    return fetch_demo_model(cache if cache is not None else cache_dir())


def plan_engine(recipe: EngineRecipe, *, out: Path | None = None) -> Planned:
    """What `build_engine` would write for `recipe`.

    Raises:
        TpforgeError: whatever would keep it from being built.
    """
    _refuse_runtime(recipe)
    with open_model(recipe.model) as source:
        recipe.limits.resolve(source.spec)
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
    from builders.convert import plan_rank_files, plan_shards

    dropped = audit(source)
    plan = plan_shards(
        source, mapping=_mapping(recipe), pad=recipe.pad, parallel_embedding_dim=recipe.parallel_embedding
    )
    dtype = recipe.dtype or source.spec.dtype
    files = plan_rank_files(source, plan=plan, dtype=dtype)
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


def convert_checkpoint(recipe: EngineRecipe, *, out: Path | None, force: bool) -> tuple[Path, Conversion]:
    """Write the TensorRT-LLM checkpoint alone, by default to out/NAME/checkpoint; where it is, and what.

    Raises:
        InputRefused: `out` exists and `force` is not given, or the model is refused.
    """
    from builders.convert import convert

    with open_model(recipe.model) as source:
        final = _checkpoint_folder(recipe, source, out)
        with atomic_folder(final, force=force) as folder:
            conversion = convert(
                source,
                mapping=_mapping(recipe),
                dtype=recipe.dtype,
                pad=recipe.pad,
                parallel_embedding_dim=recipe.parallel_embedding,
                out=folder,
            )
    return final, conversion


def build_engine(
    recipe: EngineRecipe, *, out: Path | None = None, force: bool = False, progress: Progress
) -> Built:
    """Make the engine folder of `recipe`, by default out/NAME/engine; an equal one is kept as it is.

    Raises:
        UsageError: the runtime or the limits are impossible.
        InputRefused: the model is refused, or another engine is there and `force` is not given.
    """
    _refuse_runtime(recipe)
    progress(f"opening {recipe.model}")
    with open_model(recipe.model) as source:
        limits = recipe.limits.resolve(source.spec)
        places = _engine_places(recipe, source, out)
        planned = _plan(recipe, source, out=places.engine)
        if places.engine.exists() and not force:
            progress(f"comparing {places.engine} with its model")
            manifest = _equal_engine(planned, source, limits=limits)
            return Built(places, manifest, reused=True, notes=planned.notes)
        progress(f"converting {recipe.model} to {places.engine}")
        with atomic_folder(places.engine, force=force) as folder:
            manifest, notes = _write_engine(recipe, planned, source, limits=limits, folder=folder)
    return Built(places, manifest, reused=False, notes=notes)


def _write_engine(
    recipe: EngineRecipe, planned: Planned, source: Source, *, limits: Limits, folder: Path
) -> tuple[Manifest, tuple[str, ...]]:
    from builders.convert import convert
    from engines.store import write_manifest

    (folder / "checkpoint").mkdir()
    (folder / "tokenizer").mkdir()
    conversion = convert(
        source,
        mapping=planned.plan.mapping,
        dtype=planned.dtype,
        pad=recipe.pad,
        parallel_embedding_dim=recipe.parallel_embedding,
        out=folder / "checkpoint",
    )
    source.write_tokenizer(folder / "tokenizer")
    tokenizer_files = sorted(path for path in (folder / "tokenizer").iterdir() if path.is_file())
    manifest = Manifest(
        name=planned.name,
        tpforge_version=__version__,
        runtime=recipe.runtime,
        source=SourceRecord(
            kind=source.kind,
            location=recipe.model if source.kind == "hub" else str(source.path.resolve()),
            revision=source.revision,
            license=source.license,
            files=conversion.input_files,
        ),
        model=source.spec,
        mapping=planned.plan.mapping,
        padding=planned.plan.padding,
        parallel_embedding_dim=recipe.parallel_embedding,
        dtype=conversion.dtype,
        limits=limits,
        files=(
            *(file.model_copy(update={"path": f"checkpoint/{file.path}"}) for file in conversion.files),
            *(hash_file(path, relative_to=folder) for path in tokenizer_files),
        ),
        command=_command(recipe, limits=limits, dtype=conversion.dtype),
        dropped_tensors=conversion.dropped,
    )
    write_manifest(folder, manifest)
    return manifest, conversion.notes


def _equal_engine(planned: Planned, source: Source, *, limits: Limits) -> Manifest:
    """The manifest of the engine at `planned.out` when it is what would be built now.

    Raises:
        InputRefused: it differs, and says in what.
    """
    from engines.store import MANIFEST_NAME, check_files, read_manifest

    if not (planned.out / MANIFEST_NAME).is_file():
        refuse_existing(planned.out, force=False)
    manifest = read_manifest(planned.out)
    differences = [
        f"{name} is {found}, asked for {wanted}"
        for name, found, wanted in (
            ("tpforge version", manifest.tpforge_version, __version__),
            ("tp", manifest.mapping.tp_size, planned.plan.mapping.tp_size),
            ("pp", manifest.mapping.pp_size, planned.plan.mapping.pp_size),
            ("parallel embedding", manifest.parallel_embedding_dim, planned.plan.parallel_embedding_dim),
            ("dtype", manifest.dtype, planned.dtype),
            ("limits", manifest.limits, limits),
        )
        if found != wanted
    ]
    if manifest.model != planned.model or _input_files(source) != manifest.source.files:
        differences.append(f"it was made of other files, {manifest.source.location}")
    if not differences and manifest.padding != planned.plan.padding:
        differences.append("its padding is another one")
    differences = differences or check_files(planned.out, manifest)
    if differences:
        raise InputRefused.listing(
            f"{planned.out}: exists already and is another engine; "
            "give another --out, or --force to replace it:",
            differences,
        )
    return manifest


def _input_files(source: Source) -> tuple[FileRecord, ...]:
    root = source.path if source.path.is_dir() else source.path.parent
    return tuple(hash_file(path, relative_to=root) for path in source.input_files)


def verify_engine(places: Places, *, model: str | None = None, progress: Progress) -> Verified:
    """Prove an engine: its files, every tensor against the source, its answers against transformers.

    Writes parity.json beside engine.json, and parity and golden answers into engine.json, also when the
    proof fails. `model` says where the source lies now, when it has moved.

    Raises:
        InputRefused: the folder is no engine, or the source is missing or not the one it was made of.
        VerificationFailed: a file of the engine is not the one that was built; nothing is written.
    """
    from builders.verify import verify_shards
    from engines.parity import measure_parity
    from engines.store import check_files, read_manifest, write_manifest

    manifest = read_manifest(places.engine)
    progress("checking the files of the engine")
    if damaged := check_files(places.engine, manifest):
        raise VerificationFailed(
            "\n  ".join([f"{places.engine}: the files are not those that were built:", *damaged])
        )
    with open_model(model or manifest.source.location) as source:
        progress("comparing the source with engine.json")
        if _input_files(source) != manifest.source.files:
            raise InputRefused(
                f"{source.path}: is not the model that {places.engine} was made of (its files have other "
                "SHA-256 sums); give the right one with --model, or build the engine again"
            )
        plan = ShardPlan(
            model=manifest.model,
            mapping=manifest.mapping,
            padding=manifest.padding,
            parallel_embedding_dim=manifest.parallel_embedding_dim,
        )
        progress("comparing every tensor with the source")
        report = verify_shards(source, places.engine / "checkpoint", plan=plan, dtype=manifest.dtype)
        parity, golden = measure_parity(places.engine, manifest, source_path=source.path, progress=progress)
    parity = parity.model_copy(
        update={
            "passed": parity.passed and not report.problems,
            "num_tensors": report.num_tensors,
            "num_unequal_tensors": len(report.problems),
            "problems": (*report.problems, *parity.problems),
        }
    )
    manifest = manifest.model_copy(update={"parity": parity, "golden": golden if parity.passed else ()})
    write_atomic(places.engine / "parity.json", _parity_json(manifest, parity, golden))
    write_manifest(places.engine, manifest)
    return Verified(places, manifest, parity)


def _parity_json(manifest: Manifest, parity: Parity, golden: tuple[GoldenAnswer, ...]) -> str:
    import json

    value = {
        "schema_version": 1,
        "engine": manifest.name,
        "parity": parity.model_dump(mode="json"),
        "golden": [answer.model_dump(mode="json") for answer in golden],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def remove(places: Places) -> tuple[Path, ...]:
    """Remove an engine and what was derived from it; the folders that are gone."""
    from engines.store import remove_engine

    remove_engine(places.engine)
    derived = [path for path in (places.repository, places.server) if path.is_dir()]
    for path in derived:
        shutil.rmtree(path)
    places.stages.unlink(missing_ok=True)
    folder = places.engine.parent
    if places.engine.name == "engine" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return (places.engine, *derived)


def _refuse_runtime(recipe: EngineRecipe) -> None:
    if recipe.runtime != "reference":
        raise UsageError(
            f"runtime {recipe.runtime}: this version of tpforge cannot build for it yet; use reference"
        )


def _mapping(recipe: EngineRecipe) -> Mapping:
    return Mapping(tp_size=recipe.tp, pp_size=recipe.pp)


def _name(recipe: EngineRecipe, source: Source) -> str:
    given = recipe.model if source.kind == "hub" else str(source.path)
    return recipe.name or engine_name(given, tp=recipe.tp, pp=recipe.pp)


def _engine_places(recipe: EngineRecipe, source: Source, out: Path | None) -> Places:
    return Places(out) if out is not None else places_of(_name(recipe, source))


def _checkpoint_folder(recipe: EngineRecipe, source: Source, out: Path | None) -> Path:
    return out if out is not None else places_of(_name(recipe, source)).engine.parent / "checkpoint"


def _command(recipe: EngineRecipe, *, limits: Limits, dtype: DType) -> tuple[str, ...]:
    """The command line that makes the same engine, with every default spelled out."""
    words = ["tpforge", "build", recipe.model, "--tp", recipe.tp, "--pp", recipe.pp, "--dtype", dtype.value]
    words.append("--pad" if recipe.pad else "--no-pad")
    if recipe.parallel_embedding is not None:
        words += ["--parallel-embedding", recipe.parallel_embedding]
    for name, value in limits.model_dump().items():
        words += [f"--{name.replace('_', '-')}", value]
    return tuple(str(word) for word in [*words, "--runtime", recipe.runtime])
