"""Whether the header of a .gguf file stays within the file, before anybody reads it by the numbers in it.

It gives no value. gguf-py takes a count of 2^40 at its word and recurses into arrays of arrays, so this walks
over lengths alone. Source: ggml, docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from builders.sources.mapped_file import MappedFile
from tpforge.errors import InputRefused
from tpforge.printable import printable_name

MAX_KEYS = 65_536
MAX_ELEMENTS = 1 << 23
"""Of all arrays of the metadata together; the largest vocabularies and their merges have under 2 million."""
MAX_TENSORS = 300_000
MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_header(file: MappedFile) -> None:
    """Refuse a header whose counts or lengths cannot be.

    Raises:
        InputRefused: they lead beyond the end of the file, or are more than any model has.
    """
    # A version in the other byte order has nothing in its lower half.
    order = "<" if int.from_bytes(file.bytes(4, 6), "little") else ">"
    at = _Place(file, order, 8)
    num_tensors, num_keys = at.count("Q"), at.count("Q")
    at.refuse_more(num_keys, MAX_KEYS, "keys of metadata", least_bytes=13)
    at.refuse_more(num_tensors, MAX_TENSORS, "tensors", least_bytes=24)
    for _ in range(num_keys):
        key = at.text()
        at.value(at.count("I"), key)
    for _ in range(num_tensors):
        name = at.text()
        num_dimensions = at.count("I")
        at.refuse_more(num_dimensions, MAX_DIMENSIONS, f"dimensions of {name}", least_bytes=8)
        at.skip(8 * num_dimensions + 4 + 8)


@dataclass
class _Place:
    """Where the walk is."""

    file: MappedFile
    order: str
    offset: int
    num_elements: int = 0

    @property
    def path(self) -> Path:
        return self.file.path

    def count(self, kind: str) -> int:
        size = struct.calcsize(kind)
        data = self.file.bytes(self.offset, self.offset + size)
        self.skip(size)
        return int(struct.unpack(f"{self.order}{kind}", data)[0])

    def skip(self, size: int) -> None:
        if size > self.file.size - self.offset:
            raise InputRefused(
                f"{self.path}: truncated or broken: its header wants {size} bytes at byte {self.offset}, "
                f"found {self.file.size} bytes in all; download it again"
            )
        self.offset += size

    def text(self) -> str:
        """A name, for an error."""
        start, length = self.offset + 8, self.count("Q")
        self.skip(length)
        name = self.file.bytes(start, start + min(length, 200))
        return printable_name(name.decode("utf-8", errors="replace"))

    def refuse_more(self, count: int, at_most: int, what: str, *, least_bytes: int) -> None:
        if count > at_most:
            raise InputRefused(
                f"{self.path}: truncated or broken: {count} {what}, expected at most {at_most}"
            )
        if count * least_bytes > self.file.size - self.offset:
            raise InputRefused(
                f"{self.path}: truncated or broken: found {self.file.size} bytes, into which {count} {what} "
                "do not fit; download it again"
            )

    def value(self, kind: int, key: str) -> None:
        """Pass over the value of a key."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.count("Q"))
        elif kind == _ARRAY:
            self._array(key)
        else:
            raise InputRefused(f"{self.path}: {key}: found type {kind}, expected 0 to 12; it is broken")

    def _array(self, key: str) -> None:
        kind, count = self.count("I"), self.count("Q")
        self.num_elements += count
        if self.num_elements > MAX_ELEMENTS:
            raise InputRefused(
                f"{self.path}: {key}: found {count} elements, expected at most {MAX_ELEMENTS} in all arrays; "
                "it is broken"
            )
        if kind in _SIZES:
            self.skip(count * _SIZES[kind])
        elif kind == _STRING:
            self._skip_texts(count)
        else:
            raise InputRefused(
                f"{self.path}: {key}: found an array of type {kind}, expected numbers or texts"
            )

    def _skip_texts(self, count: int) -> None:
        """Pass over texts, of which a vocabulary has 100,000: without a call of ours for each."""
        unpack, read, size = struct.Struct(f"{self.order}Q").unpack, self.file.bytes, self.file.size
        for _ in range(count):
            if self.offset > size - 8:
                self.skip(8)
            self.offset += 8
            length = unpack(read(self.offset - 8, self.offset))[0]
            if length > size - self.offset:
                self.skip(length)
            self.offset += length
