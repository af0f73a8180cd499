"""The fallback of a decision record is found again, and every difference from the record is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.recorded_engine import find_recorded
from engines.store import read_manifest, remove_engine, write_manifest
from scripts.flows.decide import write_decision
from tests.support.runs import level_of, run_of
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import InputRefused, UsageError
from tpforge.measure.decisions.decided import decide
from tpforge.measure.decisions.decision import Request, read_decision
from tpforge.measure.runs.engine_facts import engine_facts
from tpforge.measure.runs.found_runs import FoundRun

TTFTS = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """out/ with a tiny engine at tp=1 and one at tp=2, and a decision for the second."""
    runs = []
    for tp in (1, 2):
        engine, written, _ = write_tiny_engine(tmp_path / "out" / f"tp{tp}", tp_size=tp)
        manifest = written.model_copy(update={"name": f"tiny-tp{tp}"})
        write_manifest(engine, manifest)
        facts = {name: fact.value for name, fact in engine_facts(manifest).items() if fact.value is not None}
        level, _ = level_of(TTFTS, durations=[3.0 / tp] * 3)
        runs.append(FoundRun(engine, run_of(f"run-{tp}", [level], engine=facts)))
    request = Request(question="?", recommend="run-2", fallback="run-1", because="it is faster")
    write_decision(tmp_path / "decision", decide(runs, request))
    return tmp_path


def test_the_record_keeps_the_engines_of_both_choices(root: Path) -> None:
    found = read_decision(root / "decision")
    assert found.recommended is not None and found.fallback is not None
    assert (found.recommended.run, found.recommended.engine["tp"].value) == ("run-2", 2)
    assert (found.fallback.run, found.fallback.engine["tp"].value) == ("run-1", 1)
    manifest = read_manifest(root / "out" / "tp1" / "engine")
    source = [file.sha256 for file in manifest.source.files if file.path.endswith(".safetensors")]
    assert [found.fallback.engine["weights_sha256"].value] == source


def test_the_fallback_is_found_by_name_or_by_folder_and_proven(root: Path) -> None:
    engine = root / "out" / "tp1" / "engine"
    assert find_recorded(root / "decision", given=None, root=root / "out").engine == engine
    moved = engine.rename(root / "elsewhere")
    assert find_recorded(root / "decision" / "decision.json", given=str(moved), root=root).engine == moved


def test_a_fallback_that_is_not_here_is_refused_with_what_is(root: Path) -> None:
    remove_engine(root / "out" / "tp1" / "engine")
    with pytest.raises(InputRefused, match=r"tiny-tp1 \(run run-1\) is not under .*, which has: tiny-tp2;"):
        find_recorded(root / "decision", given=None, root=root / "out")


def test_two_engines_of_that_name_are_not_chosen_between(root: Path) -> None:
    other = root / "out" / "tp2" / "engine"
    write_manifest(other, read_manifest(other).model_copy(update={"name": "tiny-tp1"}))
    with pytest.raises(UsageError, match="several engines have this name"):
        find_recorded(root / "decision", given=None, root=root / "out")


def test_another_engine_is_refused_with_every_difference(root: Path) -> None:
    other = root / "out" / "tp2" / "engine"
    manifest = read_manifest(other)
    weights = [file.model_copy(update={"sha256": "0" * 64}) for file in manifest.source.files]
    source = manifest.source.model_copy(update={"files": tuple(weights)})
    write_manifest(other, manifest.model_copy(update={"source": source}))
    with pytest.raises(InputRefused) as caught:
        find_recorded(root / "decision", given=str(other))
    problems = str(caught.value).splitlines()[1:]
    assert problems[0] == "  tp: 2, the record says 1"
    assert problems[1].startswith(f"  weights_sha256: {'0' * 64}, the record says ")
    assert len(problems) == 2


def test_an_altered_file_of_the_fallback_is_refused(root: Path) -> None:
    engine = root / "out" / "tp1" / "engine"
    rank = engine / "checkpoint" / "rank0.safetensors"
    data = bytearray(rank.read_bytes())
    data[-1] ^= 1
    rank.write_bytes(data)
    with pytest.raises(InputRefused, match=r"checkpoint/rank0.safetensors: SHA-256 \w+, engine.json says"):
        find_recorded(root / "decision", given=None, root=root / "out")


def test_a_record_without_engines_and_a_file_that_is_no_record_are_refused(root: Path) -> None:
    path = root / "decision" / "decision.json"
    old = read_decision(path).model_copy(update={"recommended": None, "fallback": None})
    path.write_text(old.model_dump_json())
    with pytest.raises(InputRefused, match="does not keep the engine of its fallback"):
        find_recorded(path, given=None)
    path.write_text("{}")
    with pytest.raises(InputRefused, match="not a record of tpforge decide:\n  against: Field required"):
        find_recorded(path, given=None)
    with pytest.raises(InputRefused, match="no such decision record"):
        find_recorded(root / "nowhere", given=None)
