"""Times under load as aiconfigurator 0.12.0 estimates them, beside the planner's: the same measured rows.

It asks nobody: planner_latency_aiconfigurator.csv has what aiconfigurator's `cli_estimate` answered for rows
of planner_latency.csv (mode agg, backend trtllm, batch_size the requests at once, cache in FP8 with quantized
weights): all of the Llamas and of Qwen3 235B, a half of Qwen3 32B, since it takes seconds for each. Where it
found no room there is no line.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence

from benchmarks.latency import Found, LatencyRow, estimates, latency_rows
from benchmarks.published import DATA
from tpforge.plan.calibration import Fit

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


def beside_table(fit: Fit) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Errors of both, of rows that nothing of the planner's times was fitted to, and of the rest."""
    pairs = _pairs(fit)
    cells: list[tuple[str, ...]] = []
    for time in ("ttft_ms", "tpot_ms"):
        for name, wanted in (
            ("dense, not fitted to", (False, False)),
            ("experts, not fitted to", (False, True)),
            ("Llama 3.1 70B (first token fitted)", (True, False)),
        ):
            rows = [(found, theirs) for found, theirs in pairs if _kind(found[0]) == wanted]
            ours = [getattr(found[1], time) / getattr(found[0], time) - 1 for found, _ in rows]
            others = [theirs[time] / getattr(found[0], time) - 1 for found, theirs in rows]
            words = {"ttft_ms": "to the first token", "tpot_ms": "a token"}
            cells.append((words[time], name, str(len(rows)), *_spread(ours), *_spread(others)))
    return "Times beside aiconfigurator 0.12.0, on the same rows", HEADER, cells


def _kind(row: LatencyRow) -> tuple[bool, bool]:
    return row.is_fitted, row.engine.shapes.model.moe is not None


def _pairs(fit: Fit) -> list[tuple[Found, dict[str, float]]]:
    """The planner's estimate of a row and theirs, where both have one."""
    with FILE.open(encoding="utf-8", newline="") as file:
        answered = {int(one["row"]): one for one in csv.DictReader(file)}
    rows = latency_rows()
    theirs = {id(rows[index - 1]): one for index, one in answered.items()}
    return [
        (found, {key: float(theirs[id(found[0])][key]) for key in ("ttft_ms", "tpot_ms")})
        for found in estimates(fit, rows)
        if id(found[0]) in theirs
    ]


def _spread(errors: Sequence[float]) -> tuple[str, str]:
    sizes = sorted(abs(error) for error in errors)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return f"{100 * statistics.median(sizes):.1f} %", f"{100 * ninth:.0f} %"
