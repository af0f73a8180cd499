"""Reads safetensors files through a memory mapping, and trusts nothing that their headers say.

It does not know models or index files; `weight_files` decides which files belong to a checkpoint.
Source: safetensors README, "Format".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from builders.sources.base import refuse_lfs_pointer
from builders.sources.json_files import parse_json_object
from builders.sources.mapped_file import MappedFile
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
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
    """One safetensors file: its entries, and tensors that are views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Map `path` and check its header.

        Raises:
            InputRefused: missing, truncated, a Git LFS pointer, or with a header that contradicts itself.
        """
        self.path = path
        self._file = MappedFile(path)
        try:
            self.entries = _read_entries(self._file)
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


def _read_entries(file: MappedFile) -> dict[str, TensorEntry]:
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
        raise _truncated(path, file.size, data_start)
    header = parse_json_object(file.bytes(_LENGTH_BYTES, data_start), where=str(path))
    header.pop("__metadata__", None)
    entries: dict[str, TensorEntry] = {}
    problems: list[str] = []
    for name, value in header.items():
        entry = _entry(value, data_start)
        if isinstance(entry, str):
            problems.append(f"{name}: {entry}")
        else:
            entries[name] = entry
    if problems:
        raise InputRefused.listing(f"{path}: its header is broken:", problems)
    _check_layout(path, entries, data_start=data_start, size=file.size)
    return entries


def _entry(value: Any, data_start: int) -> TensorEntry | str:
    """The entry, or what is wrong with it."""
    if not isinstance(value, dict):
        return f"found {value!r}, expected an object"
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        return f"unknown dtype {dtype!r}"
    if not _counts(shape):
        return f"shape {shape!r} is not a list of sizes"
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets {offsets!r} are not [begin, end]"
    expected = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        return f"{dtype} {shape} takes {expected} bytes, data_offsets hold {offsets[1] - offsets[0]}"
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _check_layout(path: Path, entries: dict[str, TensorEntry], *, data_start: int, size: int) -> None:
    """The tensors must follow one another without holes or overlaps up to the end of the file."""
    stop = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != stop:
            found = "overlaps" if entry.start < stop else "leaves a hole after"
            raise InputRefused(f"{path}: its header is broken: {name} {found} the tensor before it")
        stop = entry.stop
    if size < stop:
        raise _truncated(path, size, stop)
    if size > stop:
        raise InputRefused(f"{path}: found {size} bytes, but its header describes {stop}; download it again")


def _truncated(path: Path, found: int, expected: int) -> InputRefused:
    return InputRefused(f"{path}: truncated: found {found} bytes, expected {expected}; download it again")
