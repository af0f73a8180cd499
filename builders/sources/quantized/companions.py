"""What must lie beside a quantized matrix: shapes and types of scales, zero points and group indices.

It reads headers only. A scale that belongs to other groups than those that are declared would be applied to
the wrong weights without a word, so that every tensor is held to the matrix and to the declaration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builders.sources.safetensors_reader import TensorEntry

_FLOATS = ("BF16", "F16", "F32")
WORDS = ("I32",)
BYTES = ("U8",)
E4M3 = ("F8_E4M3",)
INT8 = ("I8",)


@dataclass(frozen=True)
class Companion:
    """One tensor: its dims in words, as ``in/group``, or several where writers differ; and its types.

    A dim is a product or a rounded-up quotient of ``out`` and ``in`` with a number or ``group``.
    """

    dims: tuple[tuple[str, ...], ...]
    dtypes: tuple[str, ...] = _FLOATS

    def shapes(self, rows: int, columns: int, *, group: int) -> list[tuple[int, ...]]:
        """The shapes that are right for a matrix [rows, columns]."""
        return [tuple(_size(dim, rows, columns, group) for dim in dims) for dims in self.dims]


def companion(*dims: str, dtypes: tuple[str, ...] = _FLOATS) -> Companion:
    """One of a single shape."""
    return Companion((dims,), dtypes)


ONE = Companion(((), ("1",), ("1", "1")))
"""One number for the whole matrix."""
ROWS = Companion((("out", "1"), ("out",)))
"""One number for each row."""


def companion_problems(
    module: str,
    entries: Mapping[str, TensorEntry],
    expected: Mapping[str, Companion],
    *,
    shape: tuple[int, int],
    group: int,
) -> Iterator[str]:
    """What is wrong with the tensors of a module, whose matrix is of `shape` [out, in]."""
    rows, columns = shape
    is_grouped = any("in/group" in dims for one in expected.values() for dims in one.dims)
    if is_grouped and columns % group:
        yield f"{module}: its {columns} inputs are no multiple of the declared group_size {group}"
        return
    for suffix, one in expected.items():
        entry = entries.get(f"{module}.{suffix}")
        if entry is None:
            continue
        right = one.shapes(rows, columns, group=group)
        if entry.shape not in right:
            yield (
                f"{module}.{suffix}: found shape {list(entry.shape)}, expected {list(right[0])}, of a matrix "
                f"[{rows}, {columns}]{_groups(entry.shape, one, shape=shape, group=group)}"
            )
        if entry.dtype not in one.dtypes:
            yield f"{module}.{suffix}: found type {entry.dtype}, expected {' or '.join(one.dtypes)}"


def _groups(found: tuple[int, ...], one: Companion, *, shape: tuple[int, int], group: int) -> str:
    """Which group the tensor has instead of the declared one, where that is what is wrong."""
    place = next((dims.index("in/group") for dims in one.dims if "in/group" in dims), None)
    if place is None or len(found) <= place or not found[place] or shape[1] % found[place]:
        return ""
    own = shape[1] // found[place]
    if own == group:
        return ""
    return (
        f" in groups of {group}, as group_size declares; its own groups are of {own}: a module with other "
        "groups than the rest is not read"
    )


def _size(dim: str, rows: int, columns: int, group: int) -> int:
    known = {"out": rows, "in": columns, "group": group}
    name, slash, divisor = dim.partition("/")
    size = known[name] if name in known else int(name)
    by = known[divisor] if divisor in known else int(divisor or 1)
    return -(-size // by) if slash else size
