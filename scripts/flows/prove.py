"""The proof of an engine, kept beside it: composes builders and engines.

It prints nothing; what is compared is `builders.proof.verify` and `engines.parity`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builders.conversion.planned import plan_of
from builders.sources.models import input_files, open_model
from scripts.flows.quantize import quality_of
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused, VerificationFailed
from tpforge.extras import require_extra
from tpforge.manifest import GoldenAnswer, Manifest, Parity, Quality, WeightError
from tpforge.outputs.atomic import write_into
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import Provenance, engine_input, made_of
from tpforge.outputs.stages import is_unchanged, keep_stage
from tpforge.progress import Progress
from tpforge.shards.sharding import ShardPlan

if TYPE_CHECKING:
    from torch import Tensor

    from builders.sources.base import Source
    from builders.sources.huggingface import HuggingFaceSource


@dataclass(frozen=True)
class Verified:
    """An engine after its proof."""

    places: Places
    manifest: Manifest
    parity: Parity
    computed_on: str
    """The device of the ranks: cpu, or cuda with the GPU's name."""


def verify_engine(
    places: Places, *, model: str | None = None, baseline: str | None = None, progress: Progress
) -> Verified:
    """Prove an engine: its files, every tensor against the source, its answers against transformers.

    Writes parity.json beside engine.json, and parity and golden answers into engine.json, also when the
    proof fails. `model` says where the source lies now, when it has moved; `baseline` is the unquantized
    model that a quantized engine is scored against, without it the source, where that is not quantized.

    Raises:
        EnvironmentUnusable: torch or transformers is not installed.
        EnvironmentUnusable: nothing can be written into the engine, found before anything is computed.
        InputRefused: the folder is no engine, or the source is missing or not the one it was made of.
        VerificationFailed: a file of the engine is not the one that was built; nothing is written.
    """
    require_extra("convert", needed_by="proving an engine")
    from builders.proof.tokenizer import tokenizer_problems
    from engines.parity.parity import measure_parity
    from engines.reference.opening import device_name
    from engines.store import write_manifest

    manifest = _sound_manifest(places, progress=progress)
    if not os.access(places.engine, os.W_OK):
        raise EnvironmentUnusable(
            f"{places.engine}: the proof is kept in the engine, and nothing can be written there; make it "
            "writable, or verify a copy"
        )
    with _open_source(manifest, model) as source:
        _expect_own_source(source, manifest, places, progress=progress)
        tensors = _compare_tensors(source, manifest, places, progress=progress)
        mistokenized = tokenizer_problems(source.path, places.engine / "tokenizer")
        parity, golden = measure_parity(
            places.engine, manifest, source_path=source.path, weights=tensors.weights, progress=progress
        )
        quality = _quality(source, manifest, places, tensors, baseline=baseline, progress=progress)
    parity = parity.model_copy(
        update={
            "passed": parity.passed and not (tensors.problems or mistokenized),
            "num_tensors": tensors.num_compared,
            "num_unequal_tensors": len(tensors.problems),
            "problems": (*tensors.problems, *mistokenized, *parity.problems),
        }
    )
    kept = {"parity": parity, "quality": quality, "golden": golden if parity.passed else ()}
    manifest = manifest.model_copy(update=kept)
    write_into(places.engine, "parity.json", _parity_json(manifest, parity, golden))
    write_manifest(places.engine, manifest)
    keep_stage(places, "verify", _provenance(places, manifest))
    return Verified(places, manifest, parity, device_name())


def _sound_manifest(places: Places, *, progress: Progress) -> Manifest:
    """engine.json of an engine whose files are those that were built, and that has rank files."""
    from engines.store import check_files, read_manifest

    manifest = read_manifest(places.engine)
    progress("checking the files of the engine")
    if damaged := check_files(places.engine, manifest):
        raise VerificationFailed(
            "\n  ".join([f"{places.engine}: the files are not those that were built:", *damaged])
        )
    if manifest.runtime == "pytorch":
        raise InputRefused(
            f"{places.engine}: its files are those that were built, and there are no rank files to prove: "
            "runtime pytorch loads the model as it is; compare answers with `tpforge smoke` once it is served"
        )
    return manifest


def _expect_own_source(source: Source, manifest: Manifest, places: Places, *, progress: Progress) -> None:
    from builders.sources.end_ids import NO_END

    progress("comparing the source with engine.json")
    if input_files(source) != manifest.source.files:
        raise InputRefused(
            f"{source.path}: is not the model that {places.engine} was made of (its files have other "
            "SHA-256 sums); give the right one with --model, or build the engine again"
        )
    if not source.spec.special_tokens.end_ids:
        progress(f"note: {NO_END}")


@dataclass(frozen=True)
class _Compared:
    """Every tensor of the ranks against the source's, and the values that they stand for."""

    num_compared: int
    problems: tuple[str, ...]
    is_quantized: bool
    """False also where the comparison failed: then nothing more is learned of the matrices."""
    weight_errors: tuple[WeightError, ...]
    weights: dict[str, Tensor]
    """For transformers, by the names in the source's files: of a quantized engine, or of renamed tensors."""


def _compare_tensors(source: Source, manifest: Manifest, places: Places, *, progress: Progress) -> _Compared:
    from builders.proof.verify import verify_shards
    from builders.quantize.proof.own_shapes import differing
    from builders.sources.huggingface import HuggingFaceSource

    plan, dtype = plan_of(manifest), manifest.dtype
    progress("comparing every tensor with the source")
    report = verify_shards(source, places.engine / "checkpoint", plan=plan, dtype=dtype)
    is_quantized = plan.quantization is not None and not report.problems
    weights = _dequantized(source, places.engine, plan=plan, dtype=dtype) if is_quantized else {}
    if isinstance(source, HuggingFaceSource) and source.is_renamed:
        weights = _under_plain_names(source, dtype=dtype) | weights
    misread: list[str] = []
    if is_quantized and source.quantized is not None:
        progress("comparing the quantized matrices with the source's own tensors")
        misread = differing(source.path, weights)
    problems = (*report.problems, *misread)
    return _Compared(report.num_tensors, problems, is_quantized, report.weight_errors, weights)


def _quality(
    source: Source,
    manifest: Manifest,
    places: Places,
    compared: _Compared,
    *,
    baseline: str | None,
    progress: Progress,
) -> Quality | None:
    """What the engine's quantization cost against the unquantized model; None where that is not known."""
    if not compared.is_quantized:
        return None
    if source.quantized is not None and baseline is None:
        progress("what the checkpoint's quantization cost is not measured: give --baseline MODEL")
        return None
    with open_model(baseline) if baseline is not None else nullcontext(source) as unquantized:
        return quality_of(
            places.engine,
            manifest,
            unquantized,
            weight_errors=compared.weight_errors,
            progress=progress,
        )


def _dequantized(source: Source, engine: Path, *, plan: ShardPlan, dtype: DType) -> dict[str, Tensor]:
    """The values that the quantized matrices of all ranks stand for, by their names in files."""
    from builders.quantize.proof.verification import dequantized_weights
    from builders.sources.huggingface import HuggingFaceSource
    from builders.sources.safetensors_reader import SafetensorsFile

    with ExitStack() as stack:
        ranks = []
        for rank in range(plan.mapping.world_size):
            ranks.append(SafetensorsFile(engine / "checkpoint" / f"rank{rank}.safetensors"))
            stack.callback(ranks[-1].close)
        names = source.names_in_files if isinstance(source, HuggingFaceSource) else {}
        found = dequantized_weights(source, ranks, plan=plan, dtype=dtype)
        return {names.get(name, name): values for name, values in found}


def _under_plain_names(source: HuggingFaceSource, *, dtype: DType) -> dict[str, Tensor]:
    """Every tensor by transformers' name for it, where the files give others; matrices rounded to `dtype`.

    Fused experts stay fused: transformers takes them apart by itself.
    """
    import torch

    from builders.sources.wrapped_names import unwrapped

    own = getattr(torch, dtype.value)

    def rounded(tensor: Tensor) -> Tensor:
        return (tensor.to(own) if tensor.dim() > 1 else tensor).float()

    if source.directory.parts:
        bare = unwrapped(source.weights.entries)[0]
        return {name: rounded(source.weights.read(given)) for name, given in bare.items()}
    return {name: rounded(source.read(name)) for name in source.shapes}


def _open_source(manifest: Manifest, model: str | None) -> Source:
    """The source at `model`, or where it was at the build."""
    if model is not None:
        return open_model(model)
    try:
        return open_model(manifest.source.location)
    except InputRefused as error:
        raise InputRefused(
            f"{error}\n  The engine was made of it; if it has moved, say where it is with --model"
        ) from error


def fresh_proof(places: Places, *, progress: Progress) -> tuple[Parity, bool]:
    """The proof of an engine, and whether it is the kept one: made of this engine by this very code.

    Raises:
        InputRefused, VerificationFailed: as `verify_engine` does.
    """
    from engines.store import read_manifest

    manifest = read_manifest(places.engine)
    kept = manifest.parity
    asked = _provenance(places, manifest)
    if kept is not None and kept.passed and is_unchanged(places, "verify", asked=asked):
        return kept, True
    return verify_engine(places, progress=progress).parity, False


def _provenance(places: Places, manifest: Manifest) -> Provenance:
    """What decides the outcome of a proof: the engine, and the code that runs and judges it."""
    engine = engine_input(manifest, location=str(places.engine.resolve()))
    return made_of(inputs={"engine": engine}, options={}, code=code_key(__name__))


def _parity_json(manifest: Manifest, parity: Parity, golden: tuple[GoldenAnswer, ...]) -> str:
    import json

    value = {
        "schema_version": 1,
        "engine": manifest.name,
        "parity": parity.model_dump(mode="json"),
        "quality": manifest.quality.model_dump(mode="json") if manifest.quality else None,
        "golden": [answer.model_dump(mode="json") for answer in golden],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
