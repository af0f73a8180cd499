"""Has the planned rank files of a source written, with its config.json and the hashes of everything.

What goes where is decided before the first byte is written (`planning`); `rank_writing` then streams.
It does not make the output folder atomic (the caller does) and does not check the result (`verify` does).
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from builders.audit import audit
from builders.input_hashes import InputHashes
from builders.journal import JOURNAL_NAME, Journal
from builders.planning import plan_rank_files, plan_shards
from builders.quantize.writing.cuts import refuse_cuts
from builders.rank_writing import Meter, write_rank_files
from builders.sources.base import Source
from builders.writer import RankFilePlan, config_bytes, write_config
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.manifest import FileRecord
from tpforge.mapping import Mapping
from tpforge.processors import usable_processors
from tpforge.progress import BytesProgress
from tpforge.quantization import Quantization
from tpforge.sharding import ShardPlan
from tpforge.units import format_bytes

_CONFIG_BYTES = 1 << 16
_CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Conversion:
    """What was written, from what, and what the user should know of it; paths are relative to the folder."""

    plan: ShardPlan
    dtype: DType
    files: tuple[FileRecord, ...]
    input_files: tuple[FileRecord, ...]
    dropped: dict[str, str]
    notes: tuple[str, ...]


def convert(
    source: Source,
    *,
    mapping: Mapping,
    dtype: DType | None,
    pad: bool,
    parallel_embedding_dim: int | None,
    quantization: Quantization | None = None,
    out: Path,
    progress: BytesProgress | None = None,
) -> Conversion:
    """Write config.json and rank{N}.safetensors into the folder `out`; `dtype` None keeps the model's.

    The folder is empty, or holds what an interrupted run of the same conversion left there: that is hashed
    again, and kept as far as it holds.

    Raises:
        InputRefused: the checkpoint is not sound, or cannot be sharded as asked.
        EnvironmentUnusable: the disk is too full.
    """
    if source.family.refusal is not None:
        raise InputRefused(f"{source.location}: {source.family.refusal}")
    dropped = audit(source)
    plan = plan_shards(
        source,
        mapping=mapping,
        pad=pad,
        parallel_embedding_dim=parallel_embedding_dim,
        quantization=quantization,
    )
    target = dtype or source.spec.dtype
    rank_files = plan_rank_files(source, plan=plan, dtype=target)
    if source.quantized is not None:
        tensors = (tensor for file in rank_files for tensor in file.tensors)
        refuse_cuts(source.quantized, tensors, where=source.location)
    there = sum(path.stat().st_size for path in out.iterdir())
    _refuse_full_disk(out, sum(file.size for file in rank_files) + _CONFIG_BYTES - there)
    config = source.family.target_config(plan, dtype=target)
    fingerprint = conversion_key(source, rank_files, plan=plan, config=config)
    _remove_strays(out, names={JOURNAL_NAME, *(file.name for file in rank_files)})
    meter = Meter(total=sum(file.size for file in rank_files), progress=progress)
    with (
        closing(Journal(out, fingerprint=fingerprint)) as journal,
        InputHashes(source.input_files, relative_to=_root(source), pace=lambda: meter.fraction) as hashes,
        ThreadPoolExecutor(usable_processors()) as pool,
    ):
        config_record = write_config(out / _CONFIG_NAME, config)
        written = write_rank_files(
            source,
            rank_files,
            tp_size=mapping.tp_size,
            dtype=target,
            out=out,
            journal=journal,
            meter=meter,
            pool=pool,
        )
        input_files = hashes.result()
        journal.finish()
    return Conversion(
        plan=plan,
        dtype=target,
        files=(config_record, *written),
        input_files=input_files,
        dropped=dropped,
        notes=(*source.notes, *_cast_notes(source, target), *plan.padding.notes, *_kept_notes(meter)),
    )


def conversion_key(
    source: Source, rank_files: tuple[RankFilePlan, ...], *, plan: ShardPlan, config: dict[str, object]
) -> str:
    """What must be equal for bytes of an earlier run to be of use: input files, layout, quantization, config.

    Rank files whose integers lie in another order have the same sizes, headers and config.json.
    """
    digest = hashlib.sha256(config_bytes(config))
    if plan.quantization is not None:
        digest.update(plan.quantization.model_dump_json().encode())
    for path in source.input_files:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    for file in rank_files:
        digest.update(file.header)
    return digest.hexdigest()


def _remove_strays(out: Path, *, names: set[str]) -> None:
    """Files of an interrupted run that do not belong to this one."""
    for path in out.iterdir():
        if path.name not in names:
            path.unlink()


def _kept_notes(meter: Meter) -> tuple[str, ...]:
    if not meter.kept:
        return ()
    kept, total = format_bytes(meter.kept), format_bytes(meter.total)
    return (f"kept {kept} of {total} of an interrupted run, whose hashes hold",)


def _root(source: Source) -> Path:
    return source.path if source.path.is_dir() else source.path.parent


def _cast_notes(source: Source, dtype: DType) -> tuple[str, ...]:
    """A note when the weights are not already of the engine's type."""
    others = sorted({found for found in source.dtypes.values() if found is not dtype})
    return (f"weights cast from {' and '.join(others)} to {dtype}",) if others else ()


def _refuse_full_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise EnvironmentUnusable(
            f"{out}: the rank files need {format_bytes(needed)}, but only {format_bytes(free)} are free; "
            "free space or give another --out"
        )
