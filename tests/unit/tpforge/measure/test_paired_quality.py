"""One rule of quality for `evaluate` and `compare`: answer by answer, and no claim from few of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from scipy import stats

from tests.support.runs import level_of, run_of
from tpforge.errors import RegressionFound
from tpforge.measure.comparison.compare import compare_runs
from tpforge.measure.comparison.gates import check_gates
from tpforge.measure.evaluation import Baseline, against, apply_limits, with_paired_quality
from tpforge.measure.quality import QUALITY_NAME, Evaluation, expected_text, outcomes_of, share_drop
from tpforge.measure.runs.found_runs import FoundRun
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import QualityScore
from tpforge.measure.statistics import sign_test

NAMES = [f"q-{number}" for number in range(400)]
PROMPTS = [Prompt(id=name, text="?", must_contain=("yes",)) for name in NAMES]


def evaluation(right: list[bool], *, mark: str = "") -> Evaluation:
    """The record of as many prompts, each answered rightly or not."""
    prompts = PROMPTS[: len(right)]
    answers = {one.id: mark + ("yes" if fits else "no") for one, fits in zip(prompts, right, strict=True)}
    score, wrong = expected_text(prompts, answers)
    assert score is not None
    return Evaluation(
        tpforge_version="0",
        created="2026-01-01",
        source="engine",
        prompts="p",
        prompts_sha256=str(len(right)),
        answers=answers,
        scores={"expected_text": score},
        outcomes=outcomes_of(prompts, answers, {"expected_text": wrong}),
    )


def drop(before: list[bool], after: list[bool], *, mark: str = "other ") -> QualityScore:
    found = against(evaluation(after, mark=mark), Baseline("base", evaluation(before)))
    return found.scores["expected_text_drop"]


def both_rules(tmp_path: Path, before: list[bool], after: list[bool], mark: str, limit: float) -> set[str]:
    """What `evaluate` and what `compare` say of the same answers."""
    base, new = evaluation(before), evaluation(after, mark=mark)
    said = set()
    try:
        apply_limits(
            against(new, Baseline("a", base)), Baseline("a", base), max_drop=limit, min_agreement=None
        )
        said.add("kept")
    except RegressionFound as error:
        said.add("failures" if "worse than allowed" in str(error) else "undecided")
    found = []
    for name, one in (("a", base), ("b", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / QUALITY_NAME).write_text(one.model_dump_json())
        run = run_of(name, [level_of([[0.1], [0.1]])[0]], quality=one.scores)
        found.append(FoundRun(tmp_path / name, run))
    first, second = with_paired_quality(found)
    result = check_gates(compare_runs(first.run, second.run), {"quality-drop": limit})
    return said | {kind for kind in ("kept", "failures", "undecided") if getattr(result, kind)}


@pytest.mark.parametrize(
    ("before", "after", "mark", "expected"),
    [
        pytest.param([True] * 18 + [False] * 2, [True] * 10 + [False] * 10, "", "failures", id="collapse"),
        pytest.param([True] * 18 + [False] * 2, [True] * 18 + [False] * 2, "", "kept", id="equal answers"),
        pytest.param([True] * 20, [True] * 20, "other ", "undecided", id="20 items are no claim"),
        pytest.param([True] * 400, [True] * 399 + [False], "other ", "kept", id="400 items are one"),
        pytest.param([True] * 400, [True] * 380 + [False] * 20, "", "undecided", id="5 points of 400"),
    ],
)
def test_evaluate_and_compare_judge_alike(
    tmp_path: Path, before: list[bool], after: list[bool], mark: str, expected: str
) -> None:
    assert both_rules(tmp_path, before, after, mark, 5.0) == {expected}


def test_the_drop_counts_answers_that_became_wrong_less_those_that_became_right() -> None:
    found = drop([True] * 150 + [False] * 50, [False] * 12 + [True] * 138 + [True] * 4 + [False] * 46)
    assert (found.value, found.n, found.baseline) == (4.0, 200, "base")
    assert found.detail.startswith("12 right answers became wrong, 4 wrong ones right")
    assert sign_test(12, 4) == pytest.approx(stats.binomtest(4, 16).pvalue)
    assert sign_test(0, 0) == 1


def test_an_answer_that_was_refused_counts_as_wrong() -> None:
    found = share_drop({"a": True, "b": True}, {"a": True}, baseline_id="x", answers_are_equal=False)
    assert found is not None and found.value == 50


def test_the_interval_of_a_drop_holds_the_truth() -> None:
    generator = random.Random(5)
    hits, draws = 0, 1500
    for _ in range(draws):
        kinds = generator.choices(["lost", "gained", "right", "wrong"], [9, 3, 70, 18], k=200)
        before = {str(n): kind in ("lost", "right") for n, kind in enumerate(kinds)}
        after = {str(n): kind in ("gained", "right") for n, kind in enumerate(kinds)}
        found = share_drop(before, after, baseline_id="b", answers_are_equal=False)
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= 6 <= found.high
    assert 0.93 < hits / draws < 0.97


def test_a_gain_is_claimed_of_many_items_and_a_loss_of_few() -> None:
    def verdict(before: list[bool], after: list[bool]) -> str:
        base = evaluation(before)
        scores = against(evaluation(after), Baseline("a", base)).scores
        found = compare_runs(run_of("a", [], quality=base.scores), run_of("b", [], quality=scores)).find(
            "expected_text"
        )
        assert found is not None
        return found.verdict

    good, bad = [True] * 38 + [False] * 2, [True] * 20 + [False] * 20
    assert verdict(good, bad) == "worse"
    assert verdict(bad, good) == "undecided"
    assert verdict(bad * 5, good * 5) == "better"
