"""`tpforge compare` from the command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.runs import level_of, run_of
from tpforge.measure.runs.run import write_run

SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs `base` (tp 1) and `other` (tp 2, three times as slow) in a folder."""
    written(tmp_path, "base", FAST, tp=1)
    written(tmp_path, "other", SLOW, tp=2)
    return tmp_path


def written(folder: Path, name: str, ttfts: Sequence[Sequence[float]], *, tp: int) -> None:
    level, samples = level_of(ttfts, copies=20)
    write_run(folder / name, run_of(name, [level], engine={"tp": tp, "name": f"m-tp{tp}"}), samples)


def test_it_says_what_changed_and_gives_a_verdict_per_metric(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs / "base"), str(runs / "other")]) == 0
    out = capsys.readouterr().out
    assert "one variable changed: tp\n  tp: 1 -> 2" in out
    (line,) = [line for line in out.splitlines() if line.startswith("time to first token (TTFT), p95")]
    assert line.rstrip().endswith("worse")
    assert "n=3" in line
    assert "judged together, output_token_throughput first: of equal runs, 1 comparison in 20" in out


def test_json_is_one_object_with_kind_and_version(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "base"), str(runs / "other"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["kind"]) == (1, "comparison")
    assert found["comparisons"][0]["variables"]["changed"][0]["name"] == "tp"


def test_the_pages_are_written_and_hold_every_metric(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs / "comparison"
    assert (
        main(["compare", str(runs / "base"), str(runs / "other"), "--out", str(out), "--hourly-cost", "2"])
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == [
        ".tpforge.json",
        "comparison.html",
        "comparison.json",
        "comparison.md",
    ]
    page, text = (out / "comparison.html").read_text(), (out / "comparison.md").read_text()
    for words in (
        "time to first token (TTFT), p95",
        "cost per million output tokens",
        "one variable changed",
    ):
        assert words in page
        assert words in text
    assert "http" not in page.replace("http-equiv", "")
    capsys.readouterr()
    assert main(["compare", str(runs / "base"), str(runs / "other"), "--out", str(out)]) == 4
    assert "exists already" in capsys.readouterr().err


def test_a_loss_beyond_the_limit_is_exit_7(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(runs / "base"), str(runs / "other")]
    assert main(["compare", *names, "--max-p95-increase", "20"]) == 7
    assert "p95 time_to_first_token at concurrency 1 is worse by" in capsys.readouterr().err
    assert main(["compare", *reversed(names), "--max-p95-increase", "20"]) == 0


def test_a_limit_that_cannot_be_checked_is_exit_4(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "base"), str(runs / "other"), "--max-quality-drop", "1"]) == 4
    assert "none of perplexity_increase" in capsys.readouterr().err


def test_a_missing_run_names_those_that_exist(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    (runs / "out" / "m" / "runs").mkdir(parents=True)
    (runs / "base").rename(runs / "out" / "m" / "runs" / "base")
    assert main(["compare", "base", "nobody"]) == 2
    assert "nobody: no such run; under out/ there are: base" in capsys.readouterr().err
    assert main(["compare", "base", "other"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["base"], 2, "needs at least two runs"),
        (["base", "base"], 2, "given more than once"),
        (["base", "other", "--hourly-cost", "free"], 2, "expected AMOUNT"),
        (
            ["base", "other", "--hourly-cost", "x=3"],
            2,
            "--hourly-cost x: was not measured: no run has this name",
        ),
        (["base", "other", "--hourly-cost", "-1"], 2, "above zero"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(
    runs: Path,
    arguments: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    assert main(["compare", *arguments]) == status
    assert said in capsys.readouterr().err
