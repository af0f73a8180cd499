"""Streams a source into rank files, one source tensor at a time.

What goes where is decided before the first byte is written; peak memory does not grow with the model.
It does not make the output folder atomic (the caller does) and does not check the result (`verify` does).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from builders.audit import audit
from builders.blocks import slice_blocks
from builders.input_hashes import InputHashes
from builders.sources.base import Source
from builders.transforms import transformed, transformed_shape
from builders.writer import HashingWriter, RankFilePlan, plan_rank_file, write_config
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused, PlanError, UsageError
from tpforge.manifest import FileRecord
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.padding import plan_padding
from tpforge.sharding import RankTensor, Rule, ShardPlan, Slice, rank_tensors
from tpforge.units import format_bytes

_CONFIG_BYTES = 1 << 16


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
) -> Conversion:
    """Write config.json and rank{N}.safetensors into the empty folder `out`; `dtype` None keeps the model's.

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
    _refuse_full_disk(out, sum(file.size for file in rank_files) + _CONFIG_BYTES)
    with (
        InputHashes(source.input_files, relative_to=_root(source)) as hashes,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        config = write_config(out / "config.json", source.family.target_config(plan, dtype=target))
        written = _write_rank_files(source, rank_files, plan=plan, dtype=target, out=out, pool=pool)
        input_files = hashes.result()
    return Conversion(
        plan=plan,
        dtype=target,
        files=(config, *written),
        input_files=input_files,
        dropped=dropped,
        notes=(*source.notes, *_cast_notes(source, target), *plan.padding.notes),
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


def _write_rank_files(
    source: Source,
    rank_files: tuple[RankFilePlan, ...],
    *,
    plan: ShardPlan,
    dtype: DType,
    out: Path,
    pool: ThreadPoolExecutor,
) -> list[FileRecord]:
    """Stage by stage; within a stage each source tensor is read once and written to all its ranks."""
    tp_size = plan.mapping.tp_size
    records: list[FileRecord] = []
    for first in range(0, len(rank_files), tp_size):
        stage = rank_files[first : first + tp_size]
        with ExitStack() as stack:
            writers = [HashingWriter(out / file.name) for file in stage]
            for writer in writers:
                stack.callback(writer.close)
            for writer, file in zip(writers, stage, strict=True):
                writer.write(file.header)
            for tensors in zip(*(file.tensors for file in stage), strict=True):
                _write_tensor(source, tensors, writers, dtype=dtype, pool=pool)
            records += [writer.close() for writer in writers]
    return records


def _write_tensor(
    source: Source,
    tensors: tuple[RankTensor, ...],
    writers: list[HashingWriter],
    *,
    dtype: DType,
    pool: ThreadPoolExecutor,
) -> None:
    """One target tensor on all ranks of a stage."""
    dtype = tensors[0].dtype or dtype
    for pieces in zip(*(tensor.slices for tensor in tensors), strict=True):
        # Ranks differ in their sources only when they hold different experts.
        wholes = {
            (name, transform): transformed(source.read(name), transform, model=source.spec)
            for name, transform in {(piece.source, piece.transform) for piece in pieces}
        }
        futures: list[Future[None]] = [
            pool.submit(_write_slice, writer, wholes[piece.source, piece.transform], piece, dtype)
            for writer, piece in zip(writers, pieces, strict=True)
        ]
        for future in futures:
            future.result()


def _write_slice(writer: HashingWriter, tensor: torch.Tensor, piece: Slice, dtype: DType) -> None:
    for block in slice_blocks(tensor, piece, dtype=dtype):
        writer.write(block)


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
