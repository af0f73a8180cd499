"""Times under load as aiconfigurator 0.12.0 estimates them, beside the planner's: the same measured rows.

It asks nobody: planner_latency_aiconfigurator.csv has what aiconfigurator's ``cli_estimate`` answered for
rows of planner_latency.csv (mode agg, backend trtllm, batch_size the requests at once, cache in FP8 with
quantized weights): all of the Llamas and of Qwen3 235B, a half of Qwen3 32B, since it takes seconds for each.
Where it found no room there is no line.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.latency import Found, LatencyRow
from benchmarks.published import DATA

FILE = DATA / "planner_latency_aiconfigurator.csv"
HEADER = (
    "time",
    "data",
    "rows",
    "here: median",
    "9 of 10 within",
    "aiconfigurator: median",
    "9 of 10 within",
)


@dataclass(frozen=True)
class Beside:
    """Errors of both on the same rows: of a kind of time, and of a kind of data; medians, and nine of ten."""

    time: str
    data: str
    rows: int
    median: float
    ninth: float
    their_median: float
    their_ninth: float

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table under HEADER."""
        return (
            self.time,
            self.data,
            str(self.rows),
            f"{100 * self.median:.1f} %",
            f"{100 * self.ninth:.0f} %",
            f"{100 * self.their_median:.1f} %",
            f"{100 * self.their_ninth:.0f} %",
        )


def beside(found: Sequence[Found]) -> tuple[Beside, ...]:
    """Errors of both, of rows that nothing of the planner's times was fitted to, and of the rest."""
    pairs = _pairs(found)
    each: list[Beside] = []
    for time, word in (("ttft_ms", "to the first token"), ("tpot_ms", "per token")):
        for name, wanted in (
            ("dense, not fitted to", (False, False)),
            ("experts, not fitted to", (False, True)),
            ("Llama 3.1 70B (fitted to)", (True, False)),
        ):
            rows = [(one, theirs) for one, theirs in pairs if _kind(one[0]) == wanted]
            ours = [getattr(one[1], time) / getattr(one[0], time) - 1 for one, _ in rows]
            others = [theirs[time] / getattr(one[0], time) - 1 for one, theirs in rows]
            each.append(Beside(word, name, len(rows), *_spread(ours), *_spread(others)))
    return tuple(each)


def _kind(row: LatencyRow) -> tuple[bool, bool]:
    return row.is_fitted, row.engine.shapes.model.moe is not None


def _pairs(found: Sequence[Found]) -> list[tuple[Found, dict[str, float]]]:
    """The planner's estimate of a row and theirs, where both have one."""
    with FILE.open(encoding="utf-8", newline="") as file:
        answered = {int(one["row"]): one for one in csv.DictReader(file)}
    return [
        (one, {key: float(answered[one[0].number][key]) for key in ("ttft_ms", "tpot_ms")})
        for one in found
        if one[0].number in answered
    ]


def _spread(errors: Sequence[float]) -> tuple[float, float]:
    sizes = sorted(abs(error) for error in errors)
    return statistics.median(sizes), sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
