"""A split .gguf is the model that the whole one is; parts that do not belong together are refused.

The parts are written by gguf-py itself; transformers judges the proof of an engine that is made of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from builders.audit.survey import survey
from builders.sources import locate, open_source
from engines.parity.whole_gguf import whole_gguf
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_gguf import write_gguf
from tpforge.errors import InputRefused


def refusal(path: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        open_source(str(path))
    assert survey(locate(str(path))).problems
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model")


def split(model: Path, path: Path, *, each: int = 9) -> list[Path]:
    """The parts, in order; the tiny llama has 21 tensors."""
    path.parent.mkdir(exist_ok=True)
    write_gguf(
        model, path, kind=GGMLQuantizationType.Q8_0, tensors_a_part=each, extra={"llama.vocab_size": 320}
    )
    return sorted(path.parent.glob(f"{path.stem}-*.gguf"))


def test_the_parts_hold_the_tensors_and_the_config_of_the_whole(tmp_path: Path, model: Path) -> None:
    parts = split(model, tmp_path / "parts" / "tiny.gguf")
    assert [path.name for path in parts] == [f"tiny-0000{one}-of-00003.gguf" for one in (1, 2, 3)]
    whole = write_gguf(model, tmp_path / "whole.gguf", kind=GGMLQuantizationType.Q8_0)
    with open_source(str(parts[0])) as found, open_source(str(whole)) as expected:
        assert found.spec == expected.spec
        assert found.shapes == expected.shapes and len(found.shapes) == 21
        assert found.input_files == tuple(parts)
        for name in expected.shapes:
            assert torch.equal(found.read(name), expected.read(name)), name
    assert [name for name, _ in survey(locate(str(parts[0]))).files] == [path.name for path in parts]


def test_an_engine_of_a_split_gguf_is_proven(tmp_path: Path, model: Path) -> None:
    first = split(model, tmp_path / "parts" / "tiny.gguf")[0]
    engine = tmp_path / "engine"
    assert main(["build", str(first), "--tp", "2", "--out", str(engine)]) == 0
    files = json.loads((engine / "engine.json").read_text())["source"]["files"]
    assert [one["path"] for one in files] == [f"tiny-0000{one}-of-00003.gguf" for one in (1, 2, 3)]
    assert main(["verify", str(engine)]) == 0


def test_a_whole_file_is_not_joined(tmp_path: Path, model: Path) -> None:
    path = write_gguf(model, tmp_path / "whole.gguf")
    with whole_gguf(path) as found:
        assert found == path


def test_another_part_than_the_first_names_the_first(tmp_path: Path, model: Path) -> None:
    words = refusal(split(model, tmp_path / "parts" / "tiny.gguf")[1])
    assert "is part 2 of 3 of a split .gguf; give the first, tiny-00001-of-00003.gguf" in words


def test_missing_parts_are_named(tmp_path: Path, model: Path) -> None:
    parts = split(model, tmp_path / "parts" / "tiny.gguf")
    parts[1].unlink()
    words = refusal(parts[0])
    assert "missing beside it: tiny-00002-of-00003.gguf; download all of them" in words


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny-00001-of-00004.gguf"])
def test_a_part_that_was_renamed_is_said(tmp_path: Path, model: Path, name: str) -> None:
    first = split(model, tmp_path / "parts" / "tiny.gguf")[0]
    words = refusal(first.rename(first.with_name(name)))
    assert "is part 1 of 3 of a split .gguf, and its name does not end in -00001-of-00003.gguf" in words


def test_parts_that_changed_places_are_refused(tmp_path: Path, model: Path) -> None:
    first, second, third = split(model, tmp_path / "parts" / "tiny.gguf")
    held = second.read_bytes()
    shutil.copyfile(third, second)
    third.write_bytes(held)
    words = refusal(first)
    assert "tiny-00002-of-00003.gguf: says part 3 of 3, expected part 2 of 3" in words


def test_a_part_of_another_model_is_refused(tmp_path: Path, model: Path) -> None:
    first, second, _ = split(model, tmp_path / "parts" / "tiny.gguf")
    other = split(model, tmp_path / "other" / "tiny.gguf", each=8)
    shutil.copyfile(other[1], second)
    words = refusal(first)
    assert "its parts do not belong together" in words and "expected 21 (split.tensors.count)" in words


def test_a_part_that_is_cut_off_is_called_truncated(tmp_path: Path, model: Path) -> None:
    first, second, _ = split(model, tmp_path / "parts" / "tiny.gguf")
    second.write_bytes(second.read_bytes()[:-2000])
    assert "tiny-00002-of-00003.gguf: truncated" in refusal(first)


def test_a_file_that_transformers_reads_otherwise_is_refused_at_verify(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without vocab_size it takes its own default, and the embedding is of another shape."""
    path, engine = write_gguf(model, tmp_path / "whole.gguf"), tmp_path / "engine"
    assert main(["build", str(path), "--out", str(engine)]) == 0
    assert main(["verify", str(engine)]) == 4
    assert f"{path}: transformers cannot load it" in capsys.readouterr().err
