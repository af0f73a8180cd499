"""Reads safetensors files through a memory mapping, and trusts nothing that their headers say.

It does not know models or index files; `weight_files` decides which files belong to a checkpoint.
Source: safetensors README, "Format".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from builders.sources.input_file import refuse_lfs_pointer
from builders.sources.json_files import parse_json_object, shown
from builders.sources.mapped_file import MappedFile
from builders.sources.uncollected import uncollected
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_MAX_DIMS, _MAX_SIZE = 64, 1 << 63
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_TORCH_DTYPES = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its safetensors type, shape, and bytes [start, stop) of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """One safetensors file: its entries, and tensors that are views of the mapped file.

    `problems` are those with which the entries are known nevertheless: of the file's size and layout.
    `read` is for files without any.
    """

    def __init__(self, path: Path) -> None:
        """Map `path` and check its header.

        Raises:
            InputRefused: missing, a Git LFS pointer, or with a header that cannot be read.
        """
        self.path = path
        self._file = MappedFile(path)
        try:
            with uncollected():
                self.entries, self.problems = _read_entries(self._file)
        except InputRefused:
            self._file.close()
            raise

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as a view of the mapped file.

        Raises:
            InputRefused: its type is not one that torch has.
        """
        import torch

        entry = self.entries[name]
        dtype = _TORCH_DTYPES.get(entry.dtype)
        if dtype is None:
            raise InputRefused(f"{self.path}: {name}: type {entry.dtype} cannot be read")
        flat = self._file.tensor(entry.start, count=math.prod(entry.shape), dtype=getattr(torch, dtype))
        return flat.reshape(entry.shape)

    def close(self) -> None:
        """Unmap the file."""
        self._file.close()


def _read_entries(file: MappedFile) -> tuple[dict[str, TensorEntry], list[str]]:
    path = file.path
    refuse_lfs_pointer(path, file.bytes(0, 64))
    if file.size < _LENGTH_BYTES:
        raise InputRefused(f"{path}: truncated: found {file.size} bytes, expected at least {_LENGTH_BYTES}")
    header_bytes = int.from_bytes(file.bytes(0, _LENGTH_BYTES), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise InputRefused(
            f"{path}: not a safetensors file: its header claims {header_bytes} bytes, "
            f"the format allows {MAX_HEADER_BYTES}"
        )
    data_start = _LENGTH_BYTES + header_bytes
    if file.size < data_start:
        raise InputRefused(f"{path}: {_truncated(file.size, data_start)}")
    header = parse_json_object(file.bytes(_LENGTH_BYTES, data_start), where=str(path))
    header.pop("__metadata__", None)
    entries: dict[str, TensorEntry] = {}
    problems: list[str] = []
    for name, value in header.items():
        entry = _entry(value, data_start)
        if isinstance(entry, str):
            problems.append(f"its header is broken: {name}: {entry}")
        else:
            entries[name] = entry
    if not problems:
        problems = _layout_problems(entries, data_start=data_start, size=file.size)
    return entries, problems


def _entry(value: Any, data_start: int) -> TensorEntry | str:
    """The entry, or what is wrong with it."""
    if not isinstance(value, dict):
        return f"found {shown(value)}, expected an object"
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        return f"unknown dtype {shown(dtype)}"
    if not _counts(shape):
        return f"shape {shown(shape)} is not a list of sizes"
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets {shown(offsets)} are not [begin, end]"
    expected = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        return f"{dtype} {shape} takes {expected} bytes, data_offsets hold {offsets[1] - offsets[0]}"
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _counts(value: Any) -> TypeGuard[list[int]]:
    """Whether it is a list of sizes that a file can have; a bool is no size."""
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMS
        and all(type(one) is int and 0 <= one < _MAX_SIZE for one in value)
    )


def _layout_problems(entries: dict[str, TensorEntry], *, data_start: int, size: int) -> list[str]:
    """The tensors must follow one another without holes or overlaps up to the end of the file."""
    problems = []
    stop = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != stop:
            found = "overlaps" if entry.start < stop else "leaves a hole after"
            problems.append(f"its header is broken: {name} {found} the tensor before it")
        stop = max(stop, entry.stop)
    if problems:
        return problems
    if size < stop:
        return [_truncated(size, stop)]
    if size > stop:
        return [f"found {size} bytes, but its header describes {stop}; download it again"]
    return []


def _truncated(found: int, expected: int) -> str:
    return f"truncated: found {found} bytes, expected {expected}; download it again"
