"""The demonstration's choice follows from its numbers, and its prompts hold every kind of case."""

from __future__ import annotations

from pathlib import Path

from scripts.dev.decide_demo import LEVELS, OPTIONS, _bottleneck, _choose, _prompts, turns
from tests.support.runs import level_of, run_of, score
from tpforge.measure.decisions.checklist import CASES
from tpforge.measure.runs.found_runs import FoundRun
from tpforge.measure.runs.run import QualityScore

TTFTS = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


def found(name: str, seconds: float, **quality: QualityScore) -> FoundRun:
    """Two requests of four tokens in about `seconds`, at the highest load."""
    durations = [seconds, seconds * 1.01, seconds * 0.99]
    level, _ = level_of(TTFTS, concurrency=LEVELS[-1], durations=durations)
    return FoundRun(Path(name), run_of(name, [level], quality=quality or None))


def worse_text(baseline: str) -> QualityScore:
    return score(9, 8, 10, higher_is_better=False, baseline=baseline)


def test_the_fastest_at_the_highest_load_is_chosen() -> None:
    chosen, because = _choose(found("tp1", 3), [found("tp2", 2), found("tp4", 1)])
    assert chosen.run.id == "tp4"
    assert "better than that of tp2" in because


def test_slower_or_undecided_options_leave_the_baseline() -> None:
    chosen, because = _choose(found("tp1", 2), [found("tp2", 2), found("tp4", 4)])
    assert chosen.run.id == "tp1"
    assert because.startswith("no other option was shown to give more tokens")


def test_a_faster_option_with_worse_answers_is_not_chosen() -> None:
    baseline, faster = found("tp1", 2), found("int8", 1, perplexity_increase=worse_text("tp1"))
    assert _choose(baseline, [faster])[0].run.id == "tp1"
    assert _choose(baseline, [found("int8", 1, perplexity_increase=worse_text("other"))])[0].run.id == "int8"
    assert _choose(baseline, [found("tp2", 1.5), faster])[0].run.id == "tp2"


def test_every_case_of_the_checklist_is_asked() -> None:
    prompts = _prompts()
    assert {prompt.id.rpartition("-")[0] for prompt in prompts} >= set(CASES) | {"structured-output"}
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 14


def test_the_baseline_is_one_rank_and_each_option_changes_one_thing() -> None:
    assert OPTIONS[0].build == ("--tp", "1")
    for option in OPTIONS[1:]:
        assert option.build[:2] == ("--tp", "1") or len(option.build) == 2


def test_the_bottleneck_is_named_in_the_baselines_own_numbers() -> None:
    assert _bottleneck(found("tp1", 2)) == "4 output tokens/s at concurrency 4"


def test_options_take_turns_so_that_a_steady_drift_favours_none() -> None:
    order = list(turns(4))
    assert [turn for turn, _ in order] == [turn for turn in range(4) for _ in OPTIONS]
    means = {sum(n for n, (_, option) in enumerate(order) if option == one) / 4 for one in OPTIONS}
    assert means == {(len(order) - 1) / 2}
