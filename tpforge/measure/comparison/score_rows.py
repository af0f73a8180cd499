"""The rows of a comparison that are about quality: scores of two runs, and scores against the baseline.

What a score is, is `quality`; the other rows are made by `level_rows`. A loss is named whenever it is no
chance; a gain, or that nothing was lost, is claimed of MIN_ITEMS items or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tpforge.measure.comparison.rows import Measured, Row, Verdict, missing_side
from tpforge.measure.runs.run import QualityScore, Run

MIN_ITEMS = 200
"""Of 20 answers, all right tells no more than that at least 83 of 100 are; of 200, 98."""

DROP = "_drop"
"""Ends the name of a share's change against a baseline, answer by answer: ``structured_validity_drop``."""

_SAME_PERCENT = 1e-3
"""Of a perplexity: sums of float32 in another order, as of other ranks, differ by less."""

Scores = Mapping[str, QualityScore]


def quality_rows(baseline: Run, candidate: Run) -> list[Row]:
    """Every score that either run has; those relative to another baseline are left out."""
    return rows_of_scores(baseline.quality or {}, candidate.quality or {}, baseline_id=baseline.id)


def rows_of_scores(ours: Scores, theirs: Scores, *, baseline_id: str) -> list[Row]:
    """The same of scores alone: `tpforge evaluate` has no run to compare."""
    rows = []
    for name in sorted(ours.keys() | theirs.keys()):
        first, second = ours.get(name), theirs.get(name)
        if name.endswith(DROP):
            continue
        if second is not None and second.baseline is not None:
            if second.baseline == baseline_id:
                rows.append(_relative_row(name, second))
        elif first is None or first.baseline is None:
            drop = theirs.get(name + DROP)
            paired = drop if drop is not None and drop.baseline == baseline_id else None
            rows.append(_score_row(name, first, second, paired))
    return rows


def _relative_row(name: str, score: QualityScore) -> Row:
    """A score that was measured against this very baseline, such as the increase of the perplexity."""
    row = _row(name, None, score)
    if name != "perplexity_increase":
        reason = "says how far the answers are from the baseline's, not how good they are"
        return row.model_copy(update={"reason": reason})
    values = (score.value, score.low, score.high)
    if abs(score.value) < _SAME_PERCENT:
        values = (0.0, 0.0, 0.0)
    return _with_verdict(_changed(row, values))


def _score_row(
    name: str, first: QualityScore | None, second: QualityScore | None, paired: QualityScore | None
) -> Row:
    row = _row(name, first, second)
    if first is None or second is None:
        missing = missing_side((first, second))
        return row.model_copy(update={"reason": f"not measured in the {missing}"})
    change = _unpaired(first, second) if paired is None else _of_drop(paired)
    if change is None:
        return row.model_copy(update={"reason": "has no interval"})
    return _with_verdict(_changed(row, change))


def _changed(row: Row, values: tuple[float, float | None, float | None]) -> Row:
    names = ("change", "change_low", "change_high")
    return row.model_copy(update=dict(zip(names, values, strict=True)))


def _with_verdict(row: Row) -> Row:
    ends, loss = row.loss_ends, row.loss
    verdict: Verdict = "undecided"
    reason = "may be chance"
    if ends is None or loss is None:
        reason = "has no interval"
    elif ends == (0, 0):
        reason = "no difference"
    elif ends[0] > 0:
        verdict, reason = "worse", ""
    elif ends[1] < 0:
        verdict, reason = "better", ""
        if row.candidate is not None and row.candidate.n < MIN_ITEMS:
            verdict, reason = "undecided", f"{row.candidate.n} items; a claim needs {MIN_ITEMS}"
    return row.model_copy(update={"verdict": verdict, "reason": reason})


def _of_drop(score: QualityScore) -> tuple[float, float, float] | None:
    """The change of a share in points, from by how much it dropped."""
    if score.low is None or score.high is None:
        return None
    return -score.value, -score.high, -score.low


def _unpaired(first: QualityScore, second: QualityScore) -> tuple[float, float, float] | None:
    """The change where nobody knows which answers changed, from both intervals: points of a share; percent of
    what is above zero, by its logarithm, so that nothing falls by more than 100 %.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", 2008
    """
    ends = (first.low, first.high, second.low, second.high)
    if any(end is None for end in ends):
        return None
    present = [end for end in ends if end is not None]
    if second.unit == "%":
        return _difference((first.value, *present[:2]), (second.value, *present[2:]))
    if min(present) <= 0:
        return None
    a_low, a_high, b_low, b_high = map(math.log, present)
    before, after = (math.log(first.value), a_low, a_high), (math.log(second.value), b_low, b_high)
    change, low, high = (100 * math.expm1(end) for end in _difference(before, after))
    return change, low, high


def _difference(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, float, float]:
    """Of two values, each with the ends of its interval."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return b - a, b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)


def _row(name: str, first: QualityScore | None, second: QualityScore | None) -> Row:
    either = second or first
    assert either is not None
    sides = [
        None if score is None else Measured(value=score.value, low=score.low, high=score.high, n=score.n)
        for score in (first, second)
    ]
    return Row(
        section="quality",
        metric=name,
        statistic="avg",
        unit=either.unit,
        baseline=sides[0],
        candidate=sides[1],
        lower_is_better=not either.higher_is_better,
        verdict="undecided",
    )
