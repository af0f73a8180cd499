"""Headers of .gguf files whose numbers cannot be: refused from the file's size, before they are obeyed.

The files are made by hand from the published layout, ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builders.sources.gguf import open_gguf
from scripts.main import main
from tpforge.errors import InputRefused

U8, U32, STRING, ARRAY = 0, 4, 8, 9


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: bytes, shape: tuple[int, ...], *, num_dimensions: int | None = None) -> bytes:
    count = len(shape) if num_dimensions is None else num_dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, 0, 0)


def gguf(*keys: bytes, tensors: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None) -> bytes:
    head = struct.pack("<4sIQQ", b"GGUF", 3, *(counts or (len(tensors), len(keys))))
    return head + b"".join(keys) + b"".join(tensors) + b"\0" * 64


def nested(depth: int) -> bytes:
    return array(ARRAY, 1) * depth + array(U8, 1, b"x")


ARCHITECTURE = key(b"general.architecture", STRING, text(b"llama"))
CASES = {
    "array count of 2^40": (gguf(key(b"a", ARRAY, array(U8, 1 << 40))), "1099511627776 elements"),
    "array count of 2^64 - 1": (gguf(key(b"a", ARRAY, array(STRING, (1 << 64) - 1))), "elements, expected"),
    "array beyond the end": (gguf(key(b"a", ARRAY, array(U32, 1000))), "header wants 4000 bytes"),
    "texts beyond the end": (gguf(key(b"a", ARRAY, array(STRING, 1000))), "header wants 8 bytes"),
    "nesting of 20 000": (gguf(key(b"a", ARRAY, nested(20_000))), "a: found an array of type 9"),
    "text of 2^63 bytes": (
        gguf(key(b"a", STRING, struct.pack("<Q", 1 << 63))),
        "header wants 92233720368547",
    ),
    "key of 2^40 bytes": (gguf(struct.pack("<Q", 1 << 40)), "header wants 1099511627776 bytes"),
    "2^60 keys": (gguf(ARCHITECTURE, counts=(0, 1 << 60)), "keys of metadata, expected at most"),
    "more keys than fit": (gguf(ARCHITECTURE, counts=(0, 60_000)), "60000 keys of metadata do not fit"),
    "2^60 tensors": (gguf(ARCHITECTURE, counts=(1 << 60, 1)), "tensors, expected at most"),
    "more tensors than fit": (gguf(ARCHITECTURE, counts=(1000, 1)), "1000 tensors do not fit"),
    "2^31 dimensions": (
        gguf(ARCHITECTURE, tensors=(tensor(b"t", (), num_dimensions=1 << 31),)),
        "2147483648 dimensions of t",
    ),
    "unknown type": (gguf(key(b"a", 99, b"")), "a: found type 99"),
    "name that a terminal obeys": (gguf(key(b"\x1b[2J", 99, b"")), r"\\x1b\[2J: found type 99"),
    "other byte order": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 1 << 60) + b"\0" * 64, "keys of metadata"),
    "nothing after the magic": (b"GGUF", "truncated or broken"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    data, words = CASES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(InputRefused, match=words):
        open_gguf(path, location=str(path))
    assert main(["inspect", str(path)]) == 4


@pytest.mark.parametrize("shape", [(1 << 62, 4), ((1 << 64) - 1,), (0,), (1, 1, 1, 1 << 50)])
def test_a_shape_that_the_file_cannot_hold_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(ARCHITECTURE, tensors=(tensor(b"output_norm.weight", shape),)))
    assert main(["inspect", str(path)]) == 4
