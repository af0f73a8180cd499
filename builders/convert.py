"""Plans the rank files of a source and has them written, with its config.json and the hashes of everything.

What goes where is decided before the first byte is written (`rank_writing` then streams).
It does not make the output folder atomic (the caller does) and does not check the result (`verify` does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from builders.audit import audit
from builders.input_hashes import InputHashes
from builders.journal import JOURNAL_NAME, Journal
from builders.rank_writing import Meter, Progress, write_rank_files
from builders.sources.base import Source
from builders.transforms import transformed_shape
from builders.writer import RankFilePlan, config_bytes, plan_rank_file, write_config
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused, PlanError, UsageError
from tpforge.manifest import FileRecord
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.padding import plan_padding
from tpforge.sharding import Rule, ShardPlan, rank_tensors
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
    out: Path,
    progress: Progress | None = None,
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
    plan = plan_shards(source, mapping=mapping, pad=pad, parallel_embedding_dim=parallel_embedding_dim)
    target = dtype or source.spec.dtype
    rank_files = plan_rank_files(source, plan=plan, dtype=target)
    there = sum(path.stat().st_size for path in out.iterdir())
    _refuse_full_disk(out, sum(file.size for file in rank_files) + _CONFIG_BYTES - there)
    config = source.family.target_config(plan, dtype=target)
    fingerprint = _fingerprint(source, rank_files, config=config)
    _remove_strays(out, names={JOURNAL_NAME, *(file.name for file in rank_files)})
    meter = Meter(total=sum(file.size for file in rank_files), progress=progress)
    with (
        closing(Journal(out, fingerprint=fingerprint)) as journal,
        InputHashes(source.input_files, relative_to=_root(source), pace=lambda: meter.fraction) as hashes,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
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


def plan_shards(
    source: Source, *, mapping: Mapping, pad: bool, parallel_embedding_dim: int | None
) -> ShardPlan:
    """The layout of `source` over `mapping`.

    Raises:
        UsageError: `parallel_embedding_dim` is neither 0 nor 1.
        PlanError: it cannot be sharded so.
    """
    if parallel_embedding_dim not in (None, 0, 1):
        raise UsageError(f"--parallel-embedding {parallel_embedding_dim}: expected 0 or 1")
    if mapping.moe_ep_size > 1 and source.spec.moe is None:
        raise PlanError(
            f"moe-ep={mapping.moe_ep_size}: {source.spec.architecture} has no experts; leave out --moe-ep"
        )
    return ShardPlan(
        model=source.spec,
        mapping=mapping,
        padding=plan_padding(
            source.spec, tp_size=mapping.tp_size, moe_ep_size=mapping.moe_ep_size, allow=pad
        ),
        parallel_embedding_dim=parallel_embedding_dim,
    )


def plan_rank_files(source: Source, *, plan: ShardPlan, dtype: DType) -> tuple[RankFilePlan, ...]:
    """Every rank file with its header and size; nothing is read.

    Raises:
        PlanError: the shapes contradict the plan, or a pipeline stage would be empty.
    """
    rules = source.family.rules(plan)
    shapes = _transformed_shapes(rules, source.shapes, model=source.spec)
    return tuple(
        plan_rank_file(
            f"rank{rank}.safetensors", rank_tensors(rules, shapes, plan=plan, rank=rank), dtype=dtype
        )
        for rank in range(plan.mapping.world_size)
    )


def _transformed_shapes(
    rules: Sequence[Rule], shapes: dict[str, tuple[int, ...]], *, model: ModelSpec
) -> dict[str, tuple[int, ...]]:
    result = dict(shapes)
    num_experts = model.moe.num_experts if model.moe else 1
    for part in {part for rule in rules for part in rule.parts if part.transform}:
        experts = range(num_experts if "{expert}" in part.source else 1)
        for layer in range(model.num_layers):
            for name in (part.source.format(layer=layer, expert=expert) for expert in experts):
                if name in shapes:
                    result[name] = transformed_shape(shapes[name], part.transform, model=model)
    return result


def _fingerprint(source: Source, rank_files: tuple[RankFilePlan, ...], *, config: dict[str, object]) -> str:
    """What must be equal for bytes of an earlier run to be of use: input files, layout, config."""
    digest = hashlib.sha256(config_bytes(config))
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
