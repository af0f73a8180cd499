"""Quantizes a model by calibration: composes the sources, the calibration text and nvidia-modelopt.

It prints nothing. What was used is kept in tpforge_quantization.json beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.flows.models import open_model
from tpforge import __version__
from tpforge.atomic import atomic_folder
from tpforge.errors import UsageError
from tpforge.mapping import Mapping
from tpforge.places import cache_dir
from tpforge.progress import Progress
from tpforge.quantization import Quantization, find_format
from tpforge.quantization_gate import refuse_two
from tpforge.units import format_bytes

if TYPE_CHECKING:
    from builders.sources.base import Source

RECORD_NAME = "tpforge_quantization.json"


@dataclass(frozen=True)
class Calibration:
    """The text to calibrate with: a file, or the passages that ship; paragraphs, and tokens of each."""

    path: Path | None
    num_samples: int
    seq_len: int


@dataclass(frozen=True)
class Made:
    """What was made of what, as kept beside the weights."""

    record: dict[str, Any]


def quantize_model(
    model: str,
    *,
    format_name: str,
    group_size: int | None,
    calibration: Calibration,
    device: str,
    out: Path,
    force: bool,
    progress: Progress,
) -> Made:
    """Write a quantized Hugging Face checkpoint of `model` into the new folder `out`.

    Raises:
        UsageError: the format is not made by calibration, or not here.
        InputRefused: the model is refused, is quantized already, or has shapes that the format does not take.
        EnvironmentUnusable: nvidia-modelopt cannot be installed, or fails.
        VerificationFailed: what it wrote is not the model.
    """
    from builders.export import write_huggingface
    from builders.quantize.calibration import modelopt
    from engines.quality import text_windows

    row = find_format(format_name)
    if row.made_by != "modelopt":
        raise UsageError(
            f"--format {row.name}: {row.title} needs no calibration; use `tpforge build MODEL --quantize "
            f"{row.name}`"
            if row.made_by == "convert"
            else f"--format {row.name}: {row.title} is only read from checkpoints"
        )
    if row.name not in modelopt.CONFIGS:
        raise UsageError(
            f"--format {row.name}: {modelopt.NOT_RUN[row.name]}; use one of {', '.join(modelopt.CONFIGS)}"
        )
    if group_size is not None and not row.group_size:
        raise UsageError(f"--group-size: {row.title} has no groups; leave it out")
    with (
        open_model(model) as source,
        tempfile.TemporaryDirectory(prefix="tpforge-quantize-") as scratch,
        atomic_folder(out, force=force) as folder,
    ):
        if source.quantized is not None:
            raise refuse_two(source.quantized.layout.format, row.name, where=model)
        _refuse_shapes(source, format_name=row.name, group_size=group_size or row.group_size)
        samples, digest = _samples(source, calibration, scratch=Path(scratch))
        progress(_memory(source))
        location = source.path
        if not source.path.is_dir():
            location = Path(scratch) / "model"
            location.mkdir()
            write_huggingface(source, location)
        python = modelopt.environment(cache_dir(), progress=progress)
        task = modelopt.Task(
            model=location,
            out=folder,
            format=row.name,
            tokens=samples,
            windows=tuple(text_windows(Path(scratch) / "tokenizer")[1]),
            group_size=group_size or 0,
            device=device,
        )
        measured = modelopt.quantize(python, task, scratch=Path(scratch), progress=progress)
        record = {
            "schema_version": 1,
            "tpforge_version": __version__,
            "source": model,
            "format": row.name,
            "group_size": group_size or row.group_size,
            "tool": f"nvidia-modelopt {modelopt.VERSION}",
            "calibration_sha256": digest,
            "num_samples": len(samples),
            "num_tokens": sum(len(ids) for ids in samples),
            **measured,
        }
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Made(record)


def _refuse_shapes(source: Source, *, format_name: str, group_size: int) -> None:
    """Refuse a format that the matrices of the model cannot have on one rank."""
    from builders.audit import audit
    from builders.planning import plan_rank_files, plan_shards

    audit(source)
    plan = plan_shards(
        source,
        mapping=Mapping(),
        pad=True,
        parallel_embedding_dim=None,
        quantization=Quantization(format=format_name, form="portable", group_size=group_size),
    )
    plan_rank_files(source, plan=plan, dtype=source.spec.dtype)


def _samples(
    source: Source, calibration: Calibration, *, scratch: Path
) -> tuple[tuple[tuple[int, ...], ...], str]:
    """The token ids of the samples, and the SHA-256 of their text."""
    from tokenizers import Tokenizer

    from engines.perplexity import load_texts

    folder = scratch / "tokenizer"
    folder.mkdir()
    source.write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [text.text for text in load_texts(calibration.path)][: calibration.num_samples]
    samples = tuple(tuple(tokenizer.encode(text).ids[: calibration.seq_len]) for text in texts)
    return samples, hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _memory(source: Source) -> str:
    """What modelopt will need, said beforehand: the weights, their quantized copy and activations."""
    weights = sum(_count(shape) for shape in source.shapes.values()) * source.spec.dtype.num_bytes
    return f"nvidia-modelopt will need about {format_bytes(3 * weights + (1 << 30))} of memory"


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
