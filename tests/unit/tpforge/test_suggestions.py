"""Names that are near one that is not known, wherever one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.main import main
from tests.support.records import manifest_of
from tpforge.outputs.places import known_names
from tpforge.suggestions import did_you_mean


def test_the_nearest_names_are_offered_and_nothing_where_none_is_near() -> None:
    known = ("int4_awq", "int8_wo", "fp8")
    assert did_you_mean("INT4AWQ", known) == "; did you mean int4_awq?"
    assert did_you_mean("xyz", known) == ""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2-tp2", "llama-tp4"):
        folder = tmp_path / "out" / name / "engine"
        folder.mkdir(parents=True)
        (folder / "engine.json").write_text(manifest_of(name=name).model_dump_json())
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("verify",), ("render",), ("serve",), ("engines", "show"), ("engines", "verify"), ("engines", "rm"),
        ("deploy", "--target", "compose"), ("migrate",), ("stop",), ("logs",), ("promote",),
        ("generate", "hello"),
    ],
)  # fmt: skip
def test_a_misspelt_engine_is_answered_with_those_under_out(
    words: tuple[str, ...], engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert known_names() == ("llama-tp4", "smollm2-tp2")
    command = [*words[:1], "smolm2-tp2", *words[1:]]
    if words[0] == "engines":
        command = [*words, "smolm2-tp2"]
    assert main(command) in (2, 4)
    assert "did you mean smollm2-tp2?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bulid"], "No such command 'bulid'; did you mean build?"),
        (["engines", "shw"], "No such command 'shw'; did you mean show?"),
        (["plan", "m", "--fromat", "fp8"], "No such option '--fromat'; did you mean --format"),
        (["deploy", "m", "--target", "kubernets"], "'slurm'; did you mean kubernetes?"),
        (["deploy", "m", "--target", "xyz"], "'slurm'."),
        (["plan", "lama-3.1-8b", "--gpu", "h100-sxm"], "did you mean llama-3.1-8b or"),
        (
            ["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--format", "int4awq"],
            "'int4awq' is unknown; did you mean int4_awq or int4_wo or awq? Known are",
        ),
    ],
)
def test_other_words_are_answered_in_one_way(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words) in (2, 4)
    error = capsys.readouterr().err
    assert said in error
    assert "Did you mean" not in error


def test_an_engine_given_for_a_model_is_called_one(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "llama-tp4"]) == 4
    assert "llama-tp4: is an engine; expected a model. `tpforge engines show" in capsys.readouterr().err
