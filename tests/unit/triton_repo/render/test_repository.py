"""The repository of the reference runtime: its five models, their parameters and limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import engines.reference
from tests.contract.fake_triton import model_config
from tests.support.records import manifest_of, model_of
from tpforge.errors import InputRefused, UsageError
from tpforge.model import SpecialTokens
from tpforge.repository_options import ReferenceOptions
from triton_repo.render.check import check_repository
from triton_repo.render.contract import MODELS
from triton_repo.render.repository import RenderedRepository, render

RUNTIME = Path(engines.reference.__file__).parent


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    for name in (
        "engine.json",
        "checkpoint/config.json",
        "checkpoint/rank0.safetensors",
        "tokenizer/tokenizer.json",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return folder


def rendered(engine: Path, out: Path, *, force: bool = False, **options: Any) -> RenderedRepository:
    return render(
        engine,
        manifest_of(),
        out=out,
        runtime_source=RUNTIME,
        options=ReferenceOptions(**options),
        force=force,
    )


def parameters(repository: Path, model: str) -> dict[str, str]:
    config = model_config((repository / model / "config.pbtxt").read_text(encoding="utf-8"))
    found = config.get("parameters", {})
    return {key: value.get("string_value", "") for key, value in found.items()}


def test_a_repository_has_five_models_and_nothing_wrong(engine: Path, tmp_path: Path) -> None:
    repository = rendered(engine, tmp_path / "repository")

    assert repository.models == MODELS
    assert sorted(path.name for path in repository.path.glob("[!.]*")) == sorted(MODELS)
    assert check_repository(repository.path) == []


def test_the_runtime_lies_beside_the_model_whole(engine: Path, tmp_path: Path) -> None:
    repository = rendered(engine, tmp_path / "repository")
    beside = repository.path / "tensorrt_llm/1/reference"
    copied = {path.relative_to(beside): path.read_bytes() for path in beside.rglob("*") if path.is_file()}

    assert copied == {path.relative_to(RUNTIME): path.read_bytes() for path in RUNTIME.rglob("*.py")}


def test_parameters_name_the_engine_and_its_limits(engine: Path, tmp_path: Path) -> None:
    path = rendered(engine, tmp_path / "repository", num_threads=3, add_special_tokens=False).path

    assert parameters(path, "preprocessing") == {
        "tokenizer_dir": f"{engine}/tokenizer",
        "add_special_tokens": "false",
        "max_input_len": "256",
        "max_seq_len": "512",
        "end_id": "256",
        "end_ids": "",
        "pad_id": "258",
    }
    generation = parameters(path, "tensorrt_llm")
    assert generation["gpt_model_path"] == str(engine)
    assert (generation["num_threads"], generation["executor"], generation["max_beam_width"]) == (
        "3",
        "auto",
        "1",
    )


@pytest.mark.parametrize(
    ("options", "waiting"), [({}, "64"), ({"max_batch_size": 2}, "32"), ({"max_queue_size": 0}, "0")]
)
def test_a_queue_is_bounded_unless_it_is_said_not_to_be(
    engine: Path, tmp_path: Path, options: dict[str, int], waiting: str
) -> None:
    """Sixteen requests wait for each of the four that the engine serves at once; 0 is no limit."""
    path = rendered(engine, tmp_path / "repository", **options).path

    assert parameters(path, "tensorrt_llm")["max_queue_size"] == waiting


def test_an_engine_without_end_tokens_leaves_them_to_the_tokenizer(engine: Path, tmp_path: Path) -> None:
    manifest = manifest_of(model=model_of(special_tokens=SpecialTokens()))
    out = tmp_path / "repository"
    render(engine, manifest, out=out, runtime_source=RUNTIME, options=ReferenceOptions())

    found = parameters(out, "preprocessing")
    assert (found["end_id"], found["pad_id"]) == ("", "")


def test_an_embedded_engine_moves_with_the_repository(engine: Path, tmp_path: Path) -> None:
    path = rendered(engine, tmp_path / "repository", embed_engine=True).path
    shutil.rmtree(engine)
    moved = path.rename(tmp_path / "moved")

    assert check_repository(moved) == []
    assert parameters(moved, "tensorrt_llm")["gpt_model_path"] == "engine"
    assert parameters(moved, "preprocessing")["tokenizer_dir"] == "../../tensorrt_llm/1/engine/tokenizer"
    embedded = moved / "tensorrt_llm/1/engine/checkpoint/rank0.safetensors"
    assert embedded.read_text(encoding="utf-8") == "checkpoint/rank0.safetensors"
    assert str(tmp_path) not in "".join(file.read_text() for file in moved.glob("*/config.pbtxt"))


def test_an_embedded_engine_is_linked_not_copied(engine: Path, tmp_path: Path) -> None:
    path = rendered(engine, tmp_path / "repository", embed_engine=True).path

    weights = "checkpoint/rank0.safetensors"
    assert (path / "tensorrt_llm/1/engine" / weights).samefile(engine / weights)


@pytest.mark.parametrize(
    "name",
    [
        'a "quoted" engine',
        "back\\slash",
        "Größe 日本",
        "{{ engine }}",
        "${HOME}",
        "{% if %}\\",
        "<TP>",
        " a ",
    ],
)
def test_a_path_with_special_characters_survives(engine: Path, tmp_path: Path, name: str) -> None:
    renamed = engine.rename(tmp_path / name)

    path = rendered(renamed, tmp_path / "repository").path

    assert parameters(path, "tensorrt_llm")["gpt_model_path"] == str(renamed)


def test_the_same_input_gives_the_same_bytes(engine: Path, tmp_path: Path) -> None:
    first, second = (rendered(engine, tmp_path / name) for name in ("one", "two"))

    assert first.files == second.files
    for name in first.files:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_decoupling_holds_for_tensorrt_llm_and_bls_alike(engine: Path, tmp_path: Path) -> None:
    for decoupled in (True, False):
        path = rendered(engine, tmp_path / f"repository-{decoupled}", decoupled=decoupled).path
        for model in ("tensorrt_llm", "tensorrt_llm_bls"):
            config = model_config((path / model / "config.pbtxt").read_text(encoding="utf-8"))
            assert config["model_transaction_policy"].get("decoupled", False) is decoupled


def test_no_model_has_a_dynamic_batcher_which_would_lose_cancelled_requests(
    engine: Path, tmp_path: Path
) -> None:
    path = rendered(engine, tmp_path / "repository").path

    for model in MODELS:
        assert "dynamic_batching" not in model_config((path / model / "config.pbtxt").read_text())


def test_the_batch_size_is_the_engines_or_less(engine: Path, tmp_path: Path) -> None:
    path = rendered(engine, tmp_path / "repository", max_batch_size=3).path
    config = model_config((path / "ensemble" / "config.pbtxt").read_text(encoding="utf-8"))

    assert config["max_batch_size"] == 3
    with pytest.raises(UsageError, match="use 1 to 4"):
        rendered(engine, tmp_path / "other", max_batch_size=5)


def test_an_incomplete_engine_is_refused_with_all_that_is_missing(engine: Path, tmp_path: Path) -> None:
    shutil.rmtree(engine / "tokenizer")
    (engine / "engine.json").unlink()

    with pytest.raises(InputRefused) as refused:
        rendered(engine, tmp_path / "repository")

    assert "engine.json: missing\n  tokenizer/tokenizer.json: missing" in str(refused.value)
    assert not (tmp_path / "repository").exists()


def test_an_engine_of_another_runtime_is_refused(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runtime tensorrt"):
        render(
            engine,
            manifest_of(runtime="tensorrt"),
            out=tmp_path / "repository",
            runtime_source=RUNTIME,
            options=ReferenceOptions(),
        )


def test_an_existing_repository_is_replaced_only_by_force(engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    rendered(engine, out)
    config = out / "ensemble" / "config.pbtxt"
    whole = config.read_text(encoding="utf-8")
    config.write_text("edited", encoding="utf-8")

    with pytest.raises(InputRefused, match="--force"):
        rendered(engine, out)
    assert config.read_text(encoding="utf-8") == "edited"
    rendered(engine, out, force=True)
    assert config.read_text(encoding="utf-8") == whole
    assert check_repository(out) == []


@pytest.mark.parametrize(
    "option",
    ["max_batch_size", "preprocessing_instances", "cancellation_check_period_ms", "stats_check_period_ms"],
)
def test_a_count_below_one_is_no_option(option: str) -> None:
    with pytest.raises(ValidationError, match=option):
        ReferenceOptions(**{option: 0})


def test_the_published_contract_is_what_is_rendered(engine: Path, tmp_path: Path) -> None:
    path = rendered(engine, tmp_path / "repository").path
    config = model_config((path / "postprocessing" / "config.pbtxt").read_text(encoding="utf-8"))

    assert json.loads(json.dumps(config["input"])) == [
        {"name": "TOKENS_BATCH", "data_type": "TYPE_INT32", "dims": ["-1", "-1"]},
        {"name": "SEQUENCE_LENGTH", "data_type": "TYPE_INT32", "dims": ["-1"]},
    ]
