"""builders.sources.gguf_reader: reads what gguf-py reads; makes few views of the file for a vocabulary."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from builders.sources.gguf_bounds import check_header
from builders.sources.gguf_reader import Reader, in_place_of_gguf_py
from builders.sources.mapped_file import MappedFile
from engines.parity.whole_gguf import parsed_once
from tpforge.errors import InputRefused

TEXTS = ["", "a", "ünï", "\u2581the", "x" * 300]
KINDS = gguf.GGUFValueType


def write(path: Path, *, endianess: gguf.GGUFEndian) -> None:
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_string("a.text", "ünï")
    writer.add_float32("a.number", 0.25)
    writer.add_bool("a.truth", True)
    writer.add_array("texts", TEXTS)
    writer.add_array("one text", ["only"])
    for kind in (KINDS.UINT8, KINDS.INT8, KINDS.UINT16, KINDS.INT32, KINDS.UINT64, KINDS.INT64):
        writer.add_key_value(f"numbers.{kind.name}", [1, 2, 100], KINDS.ARRAY, kind)
    writer.add_key_value("numbers.float", [0.5, -2.25], KINDS.ARRAY, KINDS.FLOAT64)
    writer.add_key_value("truths", [True, False, True], KINDS.ARRAY, KINDS.BOOL)
    writer.add_tensor("w", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("v", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("endianess", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG], ids=lambda one: one.name)
def test_every_field_and_tensor_is_what_gguf_py_reads(tmp_path: Path, endianess: gguf.GGUFEndian) -> None:
    write(tmp_path / "file.gguf", endianess=endianess)
    judge = gguf.GGUFReader(tmp_path / "file.gguf")
    seen: list[gguf.ReaderField] = []
    ours = Reader(tmp_path / "file.gguf", before_tensors=seen.extend)
    assert list(ours.fields) == list(judge.fields)
    for name, field in judge.fields.items():
        found = ours.fields[name]
        assert (found.types, found.contents(), found.offset) == (field.types, field.contents(), field.offset)
        parts, expected = ([one.parts[index].tolist() for index in one.data] for one in (found, field))
        assert parts == expected
    assert ours.fields["texts"].contents() == TEXTS
    assert len(ours.fields["texts"].data) == len(TEXTS)
    tensors = [(one.name, one.data_offset, one.n_bytes, one.data.tolist()) for one in judge.tensors]
    assert [(one.name, one.data_offset, one.n_bytes, one.data.tolist()) for one in ours.tensors] == tensors
    assert [bytes(field.parts[1]) for field in seen] == [b"w", b"v"]


def test_the_file_is_asked_as_often_for_a_large_vocabulary_as_for_a_small_one(tmp_path: Path) -> None:
    counts = []
    for num_tokens in (10, 20_000):
        writer = gguf.GGUFWriter(tmp_path / "file.gguf", "llama")
        writer.add_token_list([f"token {number}" for number in range(num_tokens)])
        writer.add_token_types([1] * num_tokens)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

        class Counting(Reader):
            num_views = 0

            def _get(self, *arguments: object, **options: object) -> object:
                self.num_views += 1
                return super()._get(*arguments, **options)

        counts.append(Counting(tmp_path / "file.gguf", before_tensors=lambda fields: None).num_views)
    assert counts[0] == counts[1]


def test_transformers_reads_the_same_by_either_reader(tmp_path: Path) -> None:
    write(tmp_path / "file.gguf", endianess=gguf.GGUFEndian.LITTLE)
    theirs = load_gguf_checkpoint(str(tmp_path / "file.gguf"))
    before = gguf.GGUFReader
    with in_place_of_gguf_py():
        assert gguf.GGUFReader is Reader
        assert load_gguf_checkpoint(str(tmp_path / "file.gguf")) == theirs
    assert gguf.GGUFReader is before


def test_a_comparison_parses_a_file_once_by_gguf_py_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file.gguf", endianess=gguf.GGUFEndian.LITTLE)
    theirs = load_gguf_checkpoint(str(tmp_path / "file.gguf"))
    judge, parse, parsed = gguf.GGUFReader, gguf.GGUFReader.__init__, []

    def counted(self: gguf.GGUFReader, path: Path) -> None:
        parsed.append(path)
        parse(self, path)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", counted)
    with parsed_once():
        assert [load_gguf_checkpoint(str(tmp_path / "file.gguf")) for _ in range(3)] == [theirs] * 3
        assert isinstance(gguf.GGUFReader(str(tmp_path / "file.gguf")), judge)
    assert len(parsed) == 1
    assert gguf.GGUFReader is judge


@pytest.mark.parametrize("cut", range(1, 60))
def test_texts_that_lead_beyond_the_file_are_refused(tmp_path: Path, cut: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "file.gguf", "llama")
    writer.add_array("texts", ["first", "second", "third"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    whole = (tmp_path / "file.gguf").read_bytes()
    (tmp_path / "file.gguf").write_bytes(whole[:-cut])
    with pytest.raises(InputRefused, match="truncated or broken"):
        check_header(MappedFile(tmp_path / "file.gguf"))
