"""Headers of many tensors: what is not done for each of them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from builders.sources import directory, safetensors_reader
from builders.sources.json_files import parse_json_object
from builders.sources.safetensors_reader import SafetensorsFile
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import InputRefused

PLENTY = 20_000


def test_a_header_is_read_without_a_search_for_cycles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    read, searched = safetensors_reader._entry, []

    def watch(value: Any, data_start: int) -> safetensors_reader.TensorEntry | str:
        searched.append(gc.isenabled())
        return read(value, data_start)

    monkeypatch.setattr(safetensors_reader, "_entry", watch)
    entries = SafetensorsFile(model / "model.safetensors").entries
    assert searched == [False] * len(entries)
    assert gc.isenabled()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "[" * PLENTY])
def test_the_search_goes_on_after_what_is_refused(text: str) -> None:
    with pytest.raises(InputRefused):
        parse_json_object(text.encode(), where="x")
    assert gc.isenabled()


def test_who_has_turned_the_search_off_finds_it_so() -> None:
    gc.disable()
    try:
        assert parse_json_object(b'{"a": [{}]}', where="x") == {"a": [{}]}
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_type_of_quantized_matrices_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    write_quantized(plain, tmp_path / "model", method="gptq")
    found = directory.examine(tmp_path / "model")
    asked: list[int] = []
    common = directory.most_common_dtype

    def count(dtypes: dict[str, DType]) -> DType:
        asked.append(len(dtypes))
        return common(dtypes)

    monkeypatch.setattr(directory, "most_common_dtype", count)
    assert set(found.dtypes.values()) == {DType.FLOAT16}
    assert found.dtypes.keys() == found.names.keys()
    assert len(asked) == 2
    found.weights.close()
