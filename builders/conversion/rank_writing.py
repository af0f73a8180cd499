"""Writes the rank files of a plan from a source: one pass, all ranks of a stage together.

Each source tensor is read once and its slices go to all the ranks that hold one; each file is written front
to back (`hashed_file`). What goes where is decided by then: `convert` plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch

from builders.conversion.blocks import as_bytes, slice_blocks, slice_rows
from builders.conversion.hashed_file import Beginning, HashedFile, Workers, read_beginning
from builders.conversion.journal import Journal, Mark, Marks
from builders.conversion.layout import RankFilePlan
from builders.quantize.formats.registry import FORMATS
from builders.sources.base import Source
from builders.torch_types import TORCH_DTYPES
from builders.transforms import transformed
from tpforge.dtypes import DType
from tpforge.manifest import FileRecord
from tpforge.progress import BytesProgress
from tpforge.shards.sharding import RankTensor, Slice

_Key = tuple[str, str | None]
_T = TypeVar("_T")
_Make = Callable[[RankTensor, tuple[Slice, ...]], tuple[torch.Tensor, ...]]
"""The stored tensors of a rank's matrix out of its slices."""


@dataclass
class Meter:
    """Bytes of rank files that are done, of `total`; `kept` of them come from an interrupted run."""

    total: int
    progress: BytesProgress | None = None
    done: int = 0
    kept: int = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes as done."""
        self.done += num_bytes
        if self.progress is not None:
            self.progress(self.done, self.total)

    @property
    def fraction(self) -> float:
        """The part that is done, from 0 to 1."""
        return self.done / self.total if self.total else 1.0


_WORTH_A_THREAD = 1 << 18
"""Bytes of a tensor; handing a smaller one to other threads takes longer than copying it."""


@dataclass(frozen=True)
class Threads:
    """Those that cut slices out of the source, and those that hash and write them."""

    cutting: ThreadPoolExecutor
    workers: Workers


def write_rank_files(
    source: Source,
    rank_files: tuple[RankFilePlan, ...],
    *,
    tp_size: int,
    dtype: DType,
    out: Path,
    journal: Journal,
    meter: Meter,
    threads: Threads,
) -> list[FileRecord]:
    """Write the files stage by stage; what the journal vouches for and still holds is kept."""
    records: list[FileRecord] = []
    pool = threads.cutting
    for first in range(0, len(rank_files), tp_size):
        stage = rank_files[first : first + tp_size]
        with ExitStack() as stack:
            done, writers = _open_stage(out, stage, journal.last(first), meter=meter, threads=threads)
            for writer in writers:
                stack.callback(writer.close)
            marks = Marks(journal, stage=first, num_ranks=len(stage))
            rows = list(zip(*(file.tensors for file in stage), strict=True))
            for number, tensors in enumerate(rows[done:], start=done + 1):
                before = sum(writer.size for writer in writers)
                _write_tensor(source, tensors, writers, dtype=dtype, pool=pool)
                meter.add(sum(writer.size for writer in writers) - before)
                for rank, writer in enumerate(writers):
                    writer.mark(partial(marks.add, number, rank))
            # Side by side, for each waits for the disk.
            records += pool.map(HashedFile.close, writers)
    return records


def _open_stage(
    out: Path,
    stage: tuple[RankFilePlan, ...],
    mark: Mark | None,
    *,
    meter: Meter,
    threads: Threads,
) -> tuple[int, list[HashedFile]]:
    """How many tensors of a stage are there already, and its files, ready for the next one."""

    def opened(file: RankFilePlan, after: Beginning | None) -> HashedFile:
        path, num_files = out / file.name, len(stage)
        return HashedFile(path, whole=file.size, workers=threads.workers, num_files=num_files, after=after)

    if mark is not None:
        paths = [out / file.name for file in stage]
        kept = list(threads.cutting.map(read_beginning, paths, mark.sizes))
        if [one and one.digest.hexdigest() for one in kept] == [*mark.digests]:
            meter.kept += sum(mark.sizes)
            meter.add(sum(mark.sizes))
            return mark.num_tensors, list(map(opened, stage, kept))
    writers = []
    for file in stage:
        (out / file.name).unlink(missing_ok=True)
        writers.append(opened(file, None))
        writers[-1].write(file.header)
        meter.add(len(file.header))
    return 0, writers


def _write_tensor(
    source: Source,
    tensors: tuple[RankTensor, ...],
    writers: list[HashedFile],
    *,
    dtype: DType,
    pool: ThreadPoolExecutor,
) -> None:
    """One target tensor on all ranks of a stage."""
    dtype = tensors[0].dtype or dtype
    for writer, tensor in zip(writers, tensors, strict=True):
        if tensor.value is not None:
            writer.write(as_bytes(torch.tensor([tensor.value], dtype=TORCH_DTYPES[dtype])))
    if tensors[0].packing is not None:
        _write_packed(source, tensors, writers, dtype=dtype, pool=pool)
        return
    for pieces in zip(*(tensor.slices for tensor in tensors), strict=True):
        wholes = _read(source, pieces)
        slices = [
            (writer, wholes[piece.source, piece.transform], piece, dtype)
            for writer, piece in zip(writers, pieces, strict=True)
        ]
        if max(whole.nbytes for whole in wholes.values()) < _WORTH_A_THREAD:
            for one in slices:
                _write_slice(*one)
        else:
            _results([pool.submit(_write_slice, *one) for one in slices])


def _write_packed(
    source: Source,
    tensors: tuple[RankTensor, ...],
    writers: list[HashedFile],
    *,
    dtype: DType,
    pool: ThreadPoolExecutor,
) -> None:
    """One quantized matrix, or a stack of them: first the weights, then the scales of all."""
    num_matrices = tensors[0].shape[0] if len(tensors[0].shape) == 3 else 1
    num_slices = len(tensors[0].slices) // num_matrices
    scales: list[list[tuple[torch.Tensor, ...]]] = []
    for first in range(0, len(tensors[0].slices), num_slices):
        pieces = [tensor.slices[first : first + num_slices] for tensor in tensors]
        every = [piece for held in pieces for piece in held]
        make = _quantizer(source, every, dtype) if source.quantized is None else _keeper(source, every, dtype)
        scales.append(
            _results(
                [
                    pool.submit(_write_matrix, writer, make, tensor, held)
                    for writer, tensor, held in zip(writers, tensors, pieces, strict=True)
                ]
            )
        )
    for writer, held_scales in zip(writers, zip(*scales, strict=True), strict=True):
        for stacked in zip(*held_scales, strict=True):
            for scale in stacked:
                writer.write(as_bytes(scale))


def _write_matrix(
    writer: HashedFile, make: _Make, tensor: RankTensor, pieces: tuple[Slice, ...]
) -> tuple[torch.Tensor, ...]:
    """Write the packed weight of one matrix; what belongs beside it."""
    weight, *beside = make(tensor, pieces)
    writer.write(as_bytes(weight))
    return tuple(beside)


@dataclass(frozen=True)
class _Rows:
    """The rows of slices, one slice after the other, as often as they are asked for."""

    wholes: dict[_Key, torch.Tensor]
    pieces: tuple[Slice, ...]
    dtype: DType

    def __iter__(self) -> Iterator[torch.Tensor]:
        return chain.from_iterable(
            slice_rows(self.wholes[piece.source, piece.transform], piece, dtype=self.dtype)
            for piece in self.pieces
        )


def _quantizer(source: Source, pieces: list[Slice], dtype: DType) -> _Make:
    """Quantizes the rows that a rank holds of float matrices."""
    wholes = _read(source, pieces)

    def make(tensor: RankTensor, held: tuple[Slice, ...]) -> tuple[torch.Tensor, ...]:
        assert tensor.packing is not None
        pack = FORMATS[tensor.packing.format].pack
        assert pack is not None, f"{tensor.packing.format} is not made of floats"
        num_rows, num_columns = tensor.shape[-2:]
        return pack(_Rows(wholes, held, dtype), (num_rows, num_columns), dtype)

    return make


def _keeper(source: Source, pieces: list[Slice], dtype: DType) -> _Make:
    """Cuts the numbers of matrices that are quantized already."""
    quantized = source.quantized
    assert quantized is not None
    wholes = {name: quantized.components(name) for name in {piece.source for piece in pieces}}

    def make(tensor: RankTensor, held: tuple[Slice, ...]) -> tuple[torch.Tensor, ...]:
        assert tensor.packing is not None
        keep = FORMATS[tensor.packing.format].keep
        assert keep is not None, f"{tensor.packing.format} is not read from checkpoints"
        parts = [wholes[piece.source].take(piece.spans, dim=piece.dim) for piece in held]
        return keep(parts, tensor.packing, dtype)

    return make


def _read(source: Source, pieces: Iterable[Slice]) -> dict[_Key, torch.Tensor]:
    """The transformed source tensors; ranks differ in them only when they hold different experts."""
    return {
        (name, transform): transformed(source.read(name), transform, model=source.spec)
        for name, transform in {(piece.source, piece.transform) for piece in pieces}
    }


def _results(futures: list[Future[_T]]) -> list[_T]:
    try:
        return [future.result() for future in futures]
    finally:
        # An interrupt must not close a file that another thread still writes.
        wait(futures)


def _write_slice(writer: HashedFile, tensor: torch.Tensor, piece: Slice, dtype: DType) -> None:
    for block in slice_blocks(tensor, piece, dtype=dtype):
        writer.write(block)
