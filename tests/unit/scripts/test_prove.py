"""scripts.flows.prove on tiny engines: golden answers are kept, and what is wrong fails with status 6."""

import json
import os
import shutil
from pathlib import Path

import pytest

from engines.store import read_manifest, write_manifest
from scripts.flows.prove import fresh_proof
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tpforge.outputs.atomic import hash_file

ENGINE = Path("out/tiny-llama-tp2/engine")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny llama with a tp=2 engine of it under out/ of the current directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    source = write_tiny_llama(tmp_path / "tiny-llama")
    assert main(["build", str(source), "--tp", "2"]) == 0
    return source


def test_a_proof_is_written_once_and_kept_until_the_engine_changes(model: Path) -> None:
    from tpforge.outputs.places import Places

    assert main(["verify"]) == 0
    manifest = read_manifest(ENGINE)
    assert manifest.parity is not None
    assert (manifest.parity.passed, manifest.parity.num_unequal_tensors) == (True, 0)
    assert manifest.parity.num_greedy_equal == manifest.parity.num_greedy_tokens > 0
    assert len(manifest.golden) == manifest.parity.num_prompts > 0
    kept = json.loads((ENGINE / "parity.json").read_text())
    assert kept["schema_version"] == 1
    assert kept["parity"] == json.loads(manifest.parity.model_dump_json())
    assert [row["name"] for row in kept["golden"]] == [answer.name for answer in manifest.golden]

    assert fresh_proof(Places(ENGINE), progress=print) == (manifest.parity, True)
    assert main(["build", str(model), "--tp", "2", "--force"]) == 0
    parity, was_kept = fresh_proof(Places(ENGINE), progress=print)
    assert (parity, was_kept) == (manifest.parity, False)


def test_a_build_that_keeps_the_engine_keeps_its_proof_and_a_new_one_has_none(model: Path) -> None:
    assert main(["verify"]) == 0
    assert main(["build", str(model), "--tp", "2"]) == 0
    assert read_manifest(ENGINE).parity is not None
    assert main(["build", str(model), "--tp", "2", "--force"]) == 0
    assert read_manifest(ENGINE).parity is None
    assert not (ENGINE / "parity.json").exists()


def test_swapped_rank_files_fail_with_6_and_leave_no_golden_answers(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks exchanged, and the manifest's hashes made to agree: only the comparison can tell."""
    first, second = (ENGINE / "checkpoint" / f"rank{rank}.safetensors" for rank in (0, 1))
    shutil.copy(first, "spare")
    shutil.copy(second, first)
    shutil.copy("spare", second)
    manifest = read_manifest(ENGINE)
    files = tuple(hash_file(ENGINE / file.path, relative_to=ENGINE) for file in manifest.files)
    write_manifest(ENGINE, manifest.model_copy(update={"files": files}))

    assert main(["verify"]) == 6
    captured = capsys.readouterr()
    assert "error: out/tiny-llama-tp2/engine: is not what its source computes:" in captured.err
    assert "lm_head.weight" in captured.err
    assert "FAILED" in captured.out
    failed = read_manifest(ENGINE)
    assert failed.parity is not None
    assert (failed.parity.passed, failed.golden) == (False, ())
    assert failed.parity.num_unequal_tensors > 0


def test_an_engine_that_cannot_be_written_is_refused_before_anything_is_computed(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a read-only file system: the proof took hours, and was lost when it was to be written."""
    asked = os.access
    monkeypatch.setattr("os.access", lambda path, mode: path != ENGINE and asked(path, mode))
    monkeypatch.setattr("engines.parity.parity.measure_parity", lambda *_, **__: pytest.fail("computed"))
    assert main(["verify", str(ENGINE)]) == 3
    assert "nothing can be written there; make it writable, or verify a copy" in capsys.readouterr().err


def test_a_damaged_file_fails_with_6_before_anything_is_run(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (ENGINE / "checkpoint" / "rank1.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert main(["verify"]) == 6
    captured = capsys.readouterr()
    assert "the files are not those that were built:" in captured.err
    assert "transformers" not in captured.err
    assert read_manifest(ENGINE).parity is None


def test_a_source_that_moved_is_found_by_model_and_another_one_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = model.rename(model.with_name("moved"))
    assert main(["verify"]) == 4
    assert "if it has moved, say where it is with --model" in capsys.readouterr().err
    assert main(["verify", "--model", str(moved)]) == 0
    other = write_tiny_llama(model.with_name("other"), seed=1)
    assert main(["verify", "--model", str(other)]) == 4
    assert "is not the model that out/tiny-llama-tp2/engine was made of" in capsys.readouterr().err
