"""What is wrong with a model repository is found by its file and field, before a server reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import engines.reference
from tests.support.records import manifest_of
from tpforge.repository_options import ReferenceOptions
from triton_repo.render.check import check_repository
from triton_repo.render.repository import render


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    engine = tmp_path / "engine"
    for name in ("engine.json", "checkpoint/config.json", "tokenizer/tokenizer.json"):
        (engine / name).parent.mkdir(parents=True, exist_ok=True)
        (engine / name).touch()
    return render(
        engine,
        manifest_of(),
        out=tmp_path / "repository",
        runtime_source=Path(engines.reference.__file__).parent,
        options=ReferenceOptions(),
    ).path


def edit(repository: Path, model: str, old: str, new: str) -> None:
    file = repository / model / "config.pbtxt"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


EDITS = [
    ("tensorrt_llm", 'string_value: "auto"', 'string_value: "${executor}"', "'${executor}' is left over"),
    ("ensemble", "max_batch_size: 4", "max_batch_size: {{ size }}", "3: '{{' is left over from a template"),
    (
        "ensemble",
        "max_batch_size: 4",
        "max_batch_size: x",
        "3:17 : 'max_batch_size: x': Couldn't parse integer: x",
    ),
    ("ensemble", "max_batch_size: 4", "max_batsh_size: 4", 'has no field named "max_batsh_size"'),
    ("ensemble", "max_batch_size: 4", "max_batch_size: 0", "max_batch_size is 0, expected 1 or more"),
    ("ensemble", 'name: "ensemble"', 'name: "other"', "name is 'other', expected 'ensemble'"),
    (
        "ensemble",
        'key: "runtime_top_k" value: "top_k"',
        'key: "runtime_top_k" value: "min_tokens"',
        "the steps",
    ),
    ("preprocessing", 'backend: "python"', 'backend: "pytorch"', "backend is 'pytorch', expected 'python'"),
    ("preprocessing", 'name: "QUERY"', 'name: "QUERRY"', "input QUERY: missing"),
    ("preprocessing", 'name: "QUERY"', 'name: "QUERRY"', "input QUERRY: unknown"),
    ("preprocessing", "TYPE_STRING", "TYPE_INT32", "QUERY: data_type is TYPE_INT32, expected TYPE_STRING"),
    ("preprocessing", "dims: [ 1 ]", "dims: [ 2 ]", "input QUERY: dims are [2], expected [1]"),
    ("preprocessing", "optional: true", "optional: false", "DECODER_QUERY: optional is False, expected True"),
    ("tensorrt_llm", "allow_ragged_batch: true", "", "input_ids: allow_ragged_batch is False, expected True"),
    ("tensorrt_llm", 'key: "executor"', 'key: "executer"', "parameter executor: missing"),
    ("tensorrt_llm", 'key: "executor"', 'key: "executer"', "parameter executer: unknown"),
    ("tensorrt_llm_bls", "/tokenizer", "/tokenizers", "holds no tokenizer.json"),
]


@pytest.mark.parametrize(("model", "old", "new", "problem"), EDITS, ids=[edit[3][:40] for edit in EDITS])
def test_a_wrong_config_is_found(repository: Path, model: str, old: str, new: str, problem: str) -> None:
    edit(repository, model, old, new)

    found = check_repository(repository)

    assert [text for text in found if problem in text], found
    assert all(text.startswith(f"{model}/config.pbtxt:") for text in found)


@pytest.mark.parametrize(
    "name",
    [
        "tensorrt_llm/1/model.py",
        "tensorrt_llm/1/reference/__init__.py",
        "postprocessing/1/serving/__init__.py",
    ],
)
def test_a_missing_file_is_found(repository: Path, name: str) -> None:
    (repository / name).unlink()

    assert check_repository(repository) == [f"{name}: missing"]


def test_missing_and_foreign_models_are_found(repository: Path) -> None:
    shutil.move(repository / "ensemble", repository / "assemble")

    assert check_repository(repository) == [
        "ensemble: the model's folder is missing",
        "assemble: is not a model of the contract",
    ]


def test_a_missing_engine_is_found(repository: Path) -> None:
    engine = repository.parent / "engine"
    (engine / "engine.json").unlink()

    assert check_repository(repository) == [
        f"tensorrt_llm/config.pbtxt: parameter gpt_model_path: '{engine}' holds no engine.json"
    ]


def test_what_is_not_a_folder_is_said(tmp_path: Path) -> None:
    [problem] = check_repository(tmp_path / "nothing")

    assert problem.endswith("is not a folder; render the repository first")
