"""Whatever the metadata of a .gguf says, the answer is an error of ours or success.

The header's own numbers, by which a reader would run out of the file, are in test_gguf_bounds as well.
"""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

from builders.audit import audit
from builders.audit.survey import survey
from builders.sources import locate, open_source
from tests.fuzz.junk import fuzz, put
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_gguf import write_gguf
from tpforge.errors import TpforgeError

Kind = GGUFValueType
Value = tuple[Any, GGUFValueType]
Tensors = dict[str, np.ndarray[Any, Any]]

_COUNTS = st.sampled_from([0, 1, 2, 3, 7, 64, 1 << 31, (1 << 32) - 1])
_TEXTS = st.text(max_size=6) | st.sampled_from(["llama", "gpt2", "default", "bert", "none", "linear", "yarn"])
_FLOATS = st.sampled_from([0.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), 2.0])
VALUES = st.one_of(
    st.tuples(_COUNTS, st.just(Kind.UINT32)),
    st.tuples(st.sampled_from([-(1 << 31), -1, 0, 5]), st.just(Kind.INT32)),
    st.tuples(st.sampled_from([(1 << 64) - 1, 1 << 40]), st.just(Kind.UINT64)),
    st.tuples(_FLOATS, st.just(Kind.FLOAT32)),
    st.tuples(st.booleans(), st.just(Kind.BOOL)),
    st.tuples(_TEXTS | st.binary(max_size=4), st.just(Kind.STRING)),
    st.tuples(
        st.lists(_COUNTS, min_size=1, max_size=3)
        | st.lists(_TEXTS, min_size=1, max_size=3)
        | st.lists(st.booleans(), min_size=1, max_size=300),
        st.just(Kind.ARRAY),
    ),
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), VALUES | st.none()), min_size=1, max_size=3)
EXTRA = (
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.expert_count",
    "split.count",
    "split.no",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.scores",
    "tokenizer.chat_template",
    "general.alignment",
)


class Sound:
    """The metadata and the tensors of a sound file; no record, for they would be shown with a failure."""

    def __init__(self, values: dict[str, Value], tensors: Tensors) -> None:
        self.values, self.tensors = values, tensors


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("gguf")
    path = write_gguf(write_tiny_llama(folder / "model", num_layers=1), folder / "tiny.gguf")
    reader = GGUFReader(path)
    values = {name: (one.contents(), one.types[0]) for name, one in reader.fields.items()}
    values = {name: value for name, value in values.items() if not name.startswith("GGUF.")}
    return Sound(values, {one.name: np.array(one.data) for one in reader.tensors})


_FORMATS = {Kind.UINT32: "I", Kind.INT32: "i", Kind.UINT64: "Q", Kind.FLOAT32: "f", Kind.BOOL: "?"}
_ALIGNMENT = 32


def write(path: Path, values: dict[str, Value], tensors: Tensors) -> None:
    """A file with these values and tensors, by the published layout (ggml, docs/gguf.md)."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    for name, (value, kind) in values.items():
        head += _text(name) + struct.pack("<I", kind) + _packed(value, kind)
    data = b""
    for name, tensor in tensors.items():
        sizes = tuple(reversed(tensor.shape))
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, len(data))
        data += _padded(tensor.astype("<f4").tobytes())
    put(path, _padded(head) + data)


def _packed(value: Any, kind: GGUFValueType) -> bytes:
    if kind is Kind.STRING:
        return _text(value)
    if kind is not Kind.ARRAY:
        return struct.pack("<" + _FORMATS[kind], value)
    inner = (
        Kind.STRING if isinstance(value[0], str) else Kind.BOOL if isinstance(value[0], bool) else Kind.INT32
    )
    if inner is Kind.INT32 and max(value) >= 1 << 31:
        inner = Kind.UINT32
    return struct.pack("<IQ", inner, len(value)) + b"".join(_packed(one, inner) for one in value)


def _text(value: str | bytes) -> bytes:
    content = value.encode("utf-8") if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % _ALIGNMENT)


def look(path: Path, out: Path) -> None:
    """All that reads a .gguf, its tokenizer too; each may fail by an error of ours only."""
    found = survey(locate(str(path)))
    json.dumps([found.problems, found.warnings, found.notes, found.license]).encode()
    with suppress(TpforgeError), open_source(str(path)) as source:
        audit(source)
        assert found.problems == []
        for name in source.shapes:
            assert tuple(source.read(name).shape) == source.shapes[name], name
        with suppress(TpforgeError):
            source.write_tokenizer(out)


@fuzz(50)
@given(changes=CHANGES)
def test_any_metadata_is_refused_or_harmless(sound: Sound, changes: list[tuple[int, Value | None]]) -> None:
    values = dict(sound.values)
    names = [*values, *EXTRA]
    for place, value in changes:
        name = names[place % len(names)]
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "tiny.gguf", Path(folder) / "out"
        out.mkdir()
        write(path, values, sound.tensors)
        look(path, out)


@fuzz(50)
@given(position=st.integers(0, 12_000), new=st.binary(max_size=12), cut=st.none() | st.integers(0, 20_000))
def test_any_bytes_of_a_header_are_refused_or_harmless(
    sound: Sound, position: int, new: bytes, cut: int | None
) -> None:
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "tiny.gguf", Path(folder) / "out"
        out.mkdir()
        write(path, sound.values, sound.tensors)
        content = path.read_bytes()
        changed = content[:position] + new + content[position + len(new) :]
        put(path, changed if cut is None else changed[:cut])
        look(path, out)
