"""`tpforge decide` from the command line: the record it writes and the recommendations it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.main import main
from scripts.reports.decision import commands_to_repeat, first_line
from tests.support.runs import level_of, run_of
from tpforge.measure.runs.run import write_run
from tpforge.measure.runs.samples import Sample

FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))
SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
NASTY = "</script><b>bold</b> ``` | {{ 7 * 7 }}"


def written(folder: Path, name: str, *, tp: int, seconds: float, answer: str) -> None:
    durations = [seconds, seconds * 1.01, seconds * 0.99]
    level, samples = level_of(FAST if tp == 1 else SLOW, durations=durations, copies=20)
    kinds = ("easy-1", "malformed-1")
    asked: list[Sample] = [
        sample.model_copy(update={"prompt_id": kinds[sample.index // 20], "output_text": answer})
        for sample in samples
    ]
    engine = {"tp": tp, "pp": 1, "runtime": "reference", "name": f"m-tp{tp}"}
    run = run_of(name, [level], engine=engine, environment={"num_cpus": 2}, workload={"prompts": "mixed"})
    write_run(folder / name, run.model_copy(update={"command": ("tpforge", "bench", f"a b{tp}")}), asked)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs `tp1` and `tp2`; the second is slower."""
    written(tmp_path, "tp1", tp=1, seconds=2, answer="Paris.")
    written(tmp_path, "tp2", tp=2, seconds=4, answer=NASTY)
    return tmp_path


def decide(runs: Path, *more: str, recommend: str = "tp1", fallback: str = "tp2") -> int:
    given = [str(runs / "tp1"), str(runs / "tp2"), "--recommend", recommend, "--fallback", fallback]
    return main(["decide", *given, "--because", "it is faster", "--out", str(runs / "decision"), *more])


def test_the_record_says_first_that_it_is_a_cpu_demonstration(runs: Path) -> None:
    assert decide(runs) == 0
    text = (runs / "decision" / "decision.md").read_text()
    assert text.splitlines()[0] == (
        "**This is a CPU demonstration: the reference runtime on 2 CPU cores, no GPU. "
        "Its numbers say nothing of TensorRT-LLM or of GPUs.**"
    )
    body = (runs / "decision" / "decision.html").read_text().split("<body>")[1].strip()
    assert body.startswith('<p class="first">This is a CPU demonstration')


def test_a_server_whose_machine_was_not_seen_is_no_cpu_demonstration() -> None:
    level, _ = level_of(((0.1, 0.1), (0.1, 0.2)))
    elsewhere = run_of("vllm", [level])
    assert elsewhere.engine["runtime"].value is None and elsewhere.environment["gpu"].value is None
    said = first_line([elsewhere, run_of("other", [level], engine={"runtime": "reference"})])
    assert said == "On which GPUs this was measured, if any, is not recorded: made by hand."
    ours = run_of("ours", [level], engine={"runtime": "reference"})
    assert first_line([ours]).startswith("On which GPUs"), "the cores of another machine are not known"
    seen = run_of("seen", [level], engine={"runtime": "reference"}, environment={"gpu": "H200"})
    assert first_line([seen]).startswith("Measured with the reference runtime")


def test_the_record_holds_every_part(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(runs, "--trigger", "p95 above 1 s", "--considered", "tp8: no such machine") == 0
    text = (runs / "decision" / "decision.md").read_text()
    page = (runs / "decision" / "decision.html").read_text()
    for words in (
        "Recommended: tp1",
        "when p95 above 1 s",
        "More ranks do not pay here",
        "tp8: no such machine",
        "one variable changed: tp",
        "Is a fallback linked, with its trigger?",
        "What is the capital of France?",
        "tpforge bench 'a b2'",
    ):
        assert words in text
        assert words.replace("'", "&#39;") in page
    assert page.count("<svg") == 5  # no memory was read, so that plot is a sentence
    assert "nothing was measured" in page
    found = json.loads((runs / "decision" / "decision.json").read_text())
    assert found["scaling"][1]["efficiency"] == pytest.approx(0.25, rel=0.01)
    assert "checklist:" in capsys.readouterr().out


def test_answers_stand_side_by_side_and_cannot_break_the_page(runs: Path) -> None:
    assert decide(runs) == 0
    page = (runs / "decision" / "decision.html").read_text()
    assert "&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt; ``` | {{ 7 * 7 }}" in page
    assert "</script>" not in page
    text = (runs / "decision" / "decision.md").read_text()
    assert f"````\n{NASTY}\n````" in text
    assert not [line for line in text.splitlines() if "undefined" in line.lower()]


def test_the_page_asks_for_nothing_from_elsewhere(runs: Path) -> None:
    assert decide(runs) == 0
    page = (runs / "decision" / "decision.html").read_text()
    for word in ("http://", "https://", "<script", "@import", "url(", " src="):
        assert word not in page


def test_a_recommendation_against_the_numbers_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(runs, recommend="tp2", fallback="tp1") == 0
    assert "the numbers speak against it: tp1 is better" in capsys.readouterr().out
    assert "The numbers speak against it" in (runs / "decision" / "decision.md").read_text()


@pytest.mark.parametrize(
    ("recommend", "fallback", "said"),
    [
        ("tp8", "tp1", "--recommend tp8: was not measured: no run has this name"),
        ("tp1", "int8", "--fallback int8: was not measured: no run has this name"),
        ("tp1", "tp1", "a fallback is something else"),
    ],
)
def test_what_was_not_measured_is_not_recommended(
    runs: Path, recommend: str, fallback: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide(runs, recommend=recommend, fallback=fallback) == 2
    assert said in capsys.readouterr().err
    assert not (runs / "decision").exists()


def test_limits_are_shown_and_judged(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(runs, "--ttft-p95-ms", "50") == 0
    assert "tp1 does not keep TTFT p95 <= 50 ms" in capsys.readouterr().out
    text = (runs / "decision" / "decision.md").read_text()
    assert "p95 of time to first token at most 50 ms" in text
    assert "at no level" in text


def test_the_commands_to_repeat_take_the_turns_that_were_taken() -> None:
    command = ("tpforge", "bench", "host:1", "--repeats", "1", "--label", "old")
    runs = [
        run_of(name, [level_of(FAST, minutes=minutes)[0]]).model_copy(update={"command": command})
        for name, minutes in (("a", (0, 3, 4)), ("b", (1, 2, 5)))
    ]
    first, join = "--label {0} --out out/repeated/{0}", "--join out/repeated/{}"
    bench = "tpforge bench host:1 --repeats 1"
    assert commands_to_repeat(runs) == [
        ("a", f"{bench} {first.format('a')}"),
        ("b", f"{bench} {first.format('b')}"),
        ("b", f"{bench} {join.format('b')}"),
        ("a", f"{bench} {join.format('a')}"),
        ("a", f"{bench} {join.format('a')}"),
        ("b", f"{bench} {join.format('b')}"),
    ]


def test_json_is_one_object(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(runs, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["schema_version"]) == ("decision", 1)
    assert found["request"]["recommend"] == "tp1"
