"""Has the planned rank files of a source written, with its config.json and the hashes of everything.

What goes where was decided before the first byte is written (`planned`); `rank_writing` streams.
It does not make the output folder atomic (the caller does) and does not check the result (`verify` does).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from builders.conversion.hashed_file import Workers
from builders.conversion.input_hashes import InputHashes, num_input_threads
from builders.conversion.journal import JOURNAL_NAME, Journal
from builders.conversion.layout import config_bytes, write_config
from builders.conversion.planned import Planned
from builders.conversion.rank_writing import Meter, Threads, write_rank_files
from builders.sources.base import Source
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable
from tpforge.manifest import FileRecord
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.provenance import Input, Provenance, made_of
from tpforge.processors import usable_processors
from tpforge.progress import BytesProgress
from tpforge.shards.sharding import ShardPlan
from tpforge.units import format_bytes

_CONFIG_BYTES = 1 << 16
_STAT_BLOCK_BYTES = 512
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
    source: Source, planned: Planned, *, out: Path, progress: BytesProgress | None = None
) -> Conversion:
    """Write config.json and rank{N}.safetensors of a planned conversion of `source` into the folder `out`.

    The folder is empty, or holds what an interrupted run of the same conversion left there: that is hashed
    again, and kept as far as it holds.

    Raises:
        EnvironmentUnusable: the disk is too full.
    """
    rank_files = planned.rank_files
    size = sum(file.size for file in rank_files)
    # Files have their size from the beginning; what they take is what is written.
    there = sum(path.stat().st_blocks * _STAT_BLOCK_BYTES for path in out.iterdir())
    _refuse_full_disk(out, size + _CONFIG_BYTES - there)
    _remove_strays(out, names={JOURNAL_NAME, *(file.name for file in rank_files)})
    meter = Meter(total=size, progress=progress)
    num_processors = usable_processors()
    num_inputs = num_input_threads(len(source.input_files), num_processors=num_processors)
    with (
        # Threads that are through with the input hash what is written.
        Workers(max(num_processors, num_inputs + 1)) as workers,
        InputHashes(
            source.input_files,
            relative_to=_root(source),
            pool=workers.hashing,
            num_threads=num_inputs,
            pace=lambda: meter.fraction,
        ) as hashes,
        _cutting_threads(num_processors, num_ranks=planned.plan.mapping.tp_size) as cutting,
        closing(Journal(out, fingerprint=conversion_provenance(source, planned).identity)) as journal,
    ):
        config_record = write_config(out / _CONFIG_NAME, planned.config)
        written = write_rank_files(
            source,
            rank_files,
            tp_size=planned.plan.mapping.tp_size,
            dtype=planned.dtype,
            out=out,
            journal=journal,
            meter=meter,
            threads=Threads(cutting, workers),
        )
        input_files = hashes.result()
        journal.finish()
    notes = (*source.notes, *_cast_notes(source, planned.dtype), *planned.plan.padding.notes)
    return Conversion(
        plan=planned.plan,
        dtype=planned.dtype,
        files=(config_record, *written),
        input_files=input_files,
        dropped=planned.dropped,
        notes=(*notes, *_kept_notes(meter)),
    )


@contextmanager
def _cutting_threads(num_processors: int, *, num_ranks: int) -> Iterator[ThreadPoolExecutor]:
    """A thread for each rank as far as there are processors; torch adds none: its own wait by spinning."""
    before = torch.get_num_threads()
    alone = partial(torch.set_num_threads, 1)
    try:
        with ThreadPoolExecutor(min(num_processors, num_ranks), "cut", initializer=alone) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def conversion_provenance(source: Source, planned: Planned) -> Provenance:
    """What must be equal for bytes of an earlier run to be those that would be written now.

    Rank files whose integers lie in another order have the same sizes, headers and config.json; quantization
    and code tell them apart.
    """
    quantization = planned.plan.quantization
    return made_of(
        inputs={path.relative_to(_root(source)).as_posix(): _input(path) for path in source.input_files},
        options={
            "dtype": planned.dtype.value,
            "quantization": None if quantization is None else quantization.model_dump(mode="json"),
            "config.json": hashlib.sha256(config_bytes(planned.config)).hexdigest(),
            **{file.name: hashlib.sha256(file.header).hexdigest() for file in planned.rank_files},
        },
        code=code_key(__name__, type(source).__module__),
    )


def _input(path: Path) -> Input:
    """A file of the model, by size and times: hashing it would take as long as the conversion.

    The time of its last write can be set by anybody, as `rsync --times` does; that of its last change cannot.
    """
    status = path.stat()
    place = path.resolve()
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return Input(location=str(place), identity=f"{place} {status.st_size} {times}")


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
