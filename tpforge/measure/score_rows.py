"""The rows of a comparison that are about quality: scores of two runs, and scores against the baseline.

What a score is, is `quality`; the other rows are made by `compare`.
"""

from __future__ import annotations

from tpforge.measure.rows import Measured, Row, Verdict, missing_side
from tpforge.measure.run import QualityScore, Run

_SAME_PERCENT = 1e-3
"""Of a perplexity: sums of float32 in another order, as of other ranks, differ by less."""

NEUTRAL = {"perplexity_increase": 0.0}
"""Scores that are measured against a baseline, and the value that says: the same."""


def quality_rows(baseline: Run, candidate: Run) -> list[Row]:
    """Every score that either run has; those relative to another baseline are left out."""
    ours, theirs = baseline.quality or {}, candidate.quality or {}
    rows = []
    for name in sorted(ours.keys() | theirs.keys()):
        first, second = ours.get(name), theirs.get(name)
        if second is not None and second.baseline is not None:
            if second.baseline == baseline.id:
                rows.append(_relative_row(name, second))
        elif first is None or first.baseline is None:
            rows.append(_score_row(name, first, second))
    return rows


def _relative_row(name: str, score: QualityScore) -> Row:
    """A score that was measured against this very baseline, such as the increase of the perplexity."""
    verdict: Verdict = "undecided"
    reason = "says how far the answers are from the baseline's, not how good they are"
    if name in NEUTRAL and score.low is not None and score.high is not None:
        same, reason = NEUTRAL[name], f"the interval holds {NEUTRAL[name]:g}"
        if abs(score.value - same) < _SAME_PERCENT:
            reason = "no difference"
        elif not score.low <= same <= score.high:
            worse = (score.low > same) != score.higher_is_better
            verdict, reason = ("worse" if worse else "better"), ""
    return _row_of_scores(name, None, score, verdict, reason)


def _score_row(name: str, first: QualityScore | None, second: QualityScore | None) -> Row:
    verdict: Verdict = "undecided"
    reason = "the intervals of both overlap"
    if first is None or second is None:
        reason = f"not measured in the {missing_side((first, second))}"
    elif first.low is None or second.low is None or first.high is None or second.high is None:
        reason = "has no interval"
    elif second.low > first.high or second.high < first.low:
        better = (second.low > first.high) == second.higher_is_better
        verdict, reason = ("better" if better else "worse"), ""
    return _row_of_scores(name, first, second, verdict, reason)


def _row_of_scores(
    name: str, first: QualityScore | None, second: QualityScore | None, verdict: Verdict, reason: str
) -> Row:
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
        verdict=verdict,
        reason=reason,
    )
