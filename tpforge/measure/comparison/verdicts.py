"""Verdicts on many metrics together: one primary metric, declared beforehand, and the others after Holm.

It computes no p value; `judging` does. Of equal runs, 95 in 100 comparisons get no verdict on speed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpforge.errors import UsageError
from tpforge.measure.comparison.judging import CONFIDENCE, Judgement
from tpforge.measure.comparison.level_rows import COMPARED
from tpforge.measure.comparison.rows import Row, Verdict
from tpforge.measure.statistics import holm

ALPHA = 1 - CONFIDENCE
PRIMARY_SHARE = 0.5
"""Of ALPHA, for the primary metric at all levels; the others have the rest, and what a verdict leaves."""


@dataclass(frozen=True)
class Primary:
    """The metric that was to decide, said before the numbers were seen."""

    metric: str = "output_token_throughput"
    statistic: str = "avg"

    @classmethod
    def parse(cls, text: str) -> Primary:
        """``time_to_first_token:p95``; without a statistic the mean.

        Raises:
            UsageError: a comparison has no such row, so that nothing would be judged first.
        """
        metric, _, statistic = text.partition(":")
        found = cls(metric, statistic or "avg")
        known = [str(cls(name, one)) for name, statistics in COMPARED for one in statistics]
        if str(found) not in known:
            raise UsageError(f"--primary {text}: no such metric; one of: {', '.join(known)}")
        return found

    def __str__(self) -> str:
        return self.metric if self.statistic == "avg" else f"{self.metric}:{self.statistic}"

    def is_of(self, row: Row) -> bool:
        """Whether the row is of the metric, at whatever level."""
        return (row.metric, row.statistic) == (self.metric, self.statistic)


DEFAULT_PRIMARY = Primary()


def with_verdicts(judged: Sequence[tuple[Row, Judgement]], *, primary: Primary) -> tuple[Row, ...]:
    """The rows with what was judged of each, and the verdicts that hold for all of them together."""
    places = [place for place, (_, found) in enumerate(judged) if found.p_value is not None]
    weights = _weights([judged[place][0] for place in places], primary)
    p_values = [found.p_value or 0.0 for place in places for found in (judged[place][1],)]
    adjusted = dict(zip(places, holm(p_values, weights), strict=True))
    shares = dict(zip(places, weights, strict=True))
    rows = []
    for place, (row, found) in enumerate(judged):
        smallest = found.smallest_change(ALPHA * shares[place]) if place in shares else None
        filled = row.model_copy(
            update={
                "change": row.change if found.change is None else found.change,
                "change_low": found.low,
                "change_high": found.high,
                "p_value": found.p_value,
                "smallest_change": smallest,
            }
        )
        verdict, reason = _conclude(filled, found, adjusted.get(place), len(places))
        rows.append(filled.model_copy(update={"verdict": verdict, "reason": row.reason or reason}))
    return tuple(rows)


def _weights(rows: Sequence[Row], primary: Primary) -> list[float]:
    """Shares of ALPHA that add up to 1: half for the rows of the primary metric, half for the others."""
    first = [primary.is_of(row) for row in rows]
    num_first = sum(first)
    if num_first in (0, len(rows)):
        return [1 / len(rows) for _ in rows]
    return [
        PRIMARY_SHARE / num_first if is_first else (1 - PRIMARY_SHARE) / (len(rows) - num_first)
        for is_first in first
    ]


def _conclude(row: Row, found: Judgement, adjusted: float | None, num_rows: int) -> tuple[Verdict, str]:
    if found.p_value is None or adjusted is None or found.reason or found.change is None:
        return "undecided", found.reason
    if adjusted <= ALPHA:
        return ("better" if (found.change < 0) == row.lower_is_better else "worse"), ""
    reason = "may be chance"
    if found.p_value <= ALPHA:
        reason += f" among the {num_rows} that were judged together"
    if row.smallest_change is not None:
        reason += f"; {_size(row.smallest_change)} would be seen"
    return "undecided", reason


def _size(percent: float) -> str:
    """``a change of 24 %``; what is beyond any meaning is not told in digits."""
    if percent >= 1000:
        return "only a change of more than 10 times"
    return f"a change of {percent:.0f} %" if percent >= 10 else f"a change of {percent:.1f} %"
