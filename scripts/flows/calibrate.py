"""Quantizes a model by calibration: composes the sources, the calibration text and nvidia-modelopt.

It prints nothing. What was used is kept in tpforge_quantization.json beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.quantize.calibration import modelopt
from builders.quantize.calibration.formats import refuse_format
from builders.sources.base import Source
from builders.sources.models import open_model
from tpforge import __version__
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.places import cache_dir
from tpforge.progress import Progress
from tpforge.quantization import find_format
from tpforge.quantization_gate import refuse_two

RECORD_NAME = "tpforge_quantization.json"


@dataclass(frozen=True)
class Calibration:
    """The text to calibrate with: a file, or the passages that ship; paragraphs, and tokens of each."""

    path: Path | None
    num_samples: int
    seq_len: int


@dataclass(frozen=True)
class Wish:
    """The format to make: `group_size` None is the format's own; `device` is modelopt's."""

    format: str
    group_size: int | None = None
    device: str = "cpu"


def quantize_model(
    model: str, wish: Wish, calibration: Calibration, *, out: Path, force: bool, progress: Progress
) -> dict[str, Any]:
    """Write a quantized Hugging Face checkpoint of `model` into the new folder `out`; its record.

    Raises:
        UsageError: the format is not made by calibration, or not here.
        InputRefused: the model is refused, is quantized already, or has shapes that the format does not take.
        EnvironmentUnusable: nvidia-modelopt cannot be installed, or fails.
        VerificationFailed: what it wrote is not the model.
    """
    row = find_format(wish.format)
    refuse_format(row, group_size=wish.group_size)
    from builders.quantize.calibration.model_check import memory_needed, refuse_shapes
    from engines.quality import text_windows

    group_size = wish.group_size or row.group_size
    with (
        open_model(model) as source,
        tempfile.TemporaryDirectory(prefix="tpforge-quantize-") as scratch,
        atomic_folder(out, force=force) as folder,
    ):
        if source.quantized is not None:
            raise refuse_two(source.quantized.layout.format, row.name, where=model)
        refuse_shapes(source, format_name=row.name, group_size=group_size)
        samples, digest = _samples(source, calibration, scratch=Path(scratch))
        progress(memory_needed(source))
        python = modelopt.environment(cache_dir(), progress=progress)
        task = modelopt.Task(
            model=_as_directory(source, scratch=Path(scratch)),
            out=folder,
            format=row.name,
            tokens=samples,
            windows=tuple(text_windows(Path(scratch) / "tokenizer")[1]),
            group_size=wish.group_size or 0,
            device=wish.device,
        )
        measured = modelopt.quantize(python, task, scratch=Path(scratch), progress=progress)
        record = {
            **_how(model, row.name, group_size=group_size, samples=samples, digest=digest),
            **measured,
        }
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _how(
    model: str, format_name: str, *, group_size: int, samples: Sequence[Sequence[int]], digest: str
) -> dict[str, Any]:
    """What a record says of the making, besides what was measured."""
    return {
        "schema_version": 1,
        "tpforge_version": __version__,
        "source": model,
        "format": format_name,
        "group_size": group_size,
        "tool": f"nvidia-modelopt {modelopt.VERSION}",
        "calibration_sha256": digest,
        "num_samples": len(samples),
        "num_tokens": sum(len(ids) for ids in samples),
    }


def _as_directory(source: Source, *, scratch: Path) -> Path:
    """The model as a Hugging Face directory, which is written when it is none."""
    from builders.export import write_huggingface

    if source.path.is_dir():
        return source.path
    location = scratch / "model"
    location.mkdir()
    write_huggingface(source, location)
    return location


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
