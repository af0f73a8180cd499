"""gguf-py's reader of a .gguf file, with arrays of metadata read at once: a vocabulary has 100,000 elements.

It checks nothing: `gguf_bounds` has by then. Importing it imports gguf-py and numpy.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

_Parts = tuple[int, list[Any], list[int], list[GGUFValueType]]
"""The bytes of a value, its parts, which of them are its content, and its types."""


class Reader(GGUFReader):  # type: ignore[misc]
    """`before_tensors` gets what is said of the tensors before their types are taken for known."""

    def __init__(self, path: Path | str, *, before_tensors: Callable[[Any], None] | None = None) -> None:
        self._before_tensors = before_tensors
        super().__init__(path)

    def _build_tensors(self, start_offs: int, fields: Any) -> None:
        if self._before_tensors is not None:
            self._before_tensors(fields)
        super()._build_tensors(start_offs, fields)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> _Parts:
        """As gguf-py, which makes several views of the mapped file for each element of an array."""
        if raw_type != GGUFValueType.ARRAY:
            found: _Parts = super()._get_field_parts(orig_offs, raw_type)
            return found
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        # gguf-py names the type of the elements by the first.
        types = [GGUFValueType.ARRAY, *([kind] if count else [])]
        if kind == GGUFValueType.STRING:
            parts = list(self._texts(start, count))
            num_bytes = sum(len(part) for part in parts) + 8 * count
            return 12 + num_bytes, parts, list(range(count)), types
        numbers = np.asarray(self._get(start, self.gguf_scalar_to_np[kind], count))
        return 12 + int(numbers.nbytes), [*numbers.reshape(count, 1)], list(range(count)), types

    def _texts(self, start: int, count: int) -> Iterator[Any]:
        """The bytes of texts that lie one after another, each behind its length."""
        is_little = (self.byte_order == "I") == (sys.byteorder == "little")
        length = struct.Struct("<Q" if is_little else ">Q")
        data: Any = np.asarray(self.data)
        for _ in range(count):
            first = start + length.size
            start = first + length.unpack_from(data, start)[0]
            yield data[first:start]


@contextmanager
def in_place_of_gguf_py() -> Iterator[None]:
    """Transformers, which reads the metadata of a .gguf file by gguf-py, reads it by ours meanwhile."""
    before = gguf.GGUFReader
    gguf.GGUFReader = Reader
    try:
        yield
    finally:
        gguf.GGUFReader = before
