"""Measured times to the first and to each later token under load, and what the planner estimates for them.

It measures nothing. Both are fitted to rows of Llama 3.1 70B alone (B200, H200) and judged by the rest.
Source: aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), systems/silicon_sample.csv: the rows of backend
trtllm, served as one pool, without attention data parallelism, of the models that the planner knows. Their
precision is its gemm_quant_mode, which tells FP8 in blocks from FP8.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.published import DATA, engine_of
from tpforge.plan.options.percentiles import Simulated, simulate
from tpforge.plan.speed.calibration import FirstToken, Fit
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Engine, Speed, StepModel, speed

FITTED_MODEL = "llama-3.1-70b"
SIMULATED = 4
"""Each so manyth row is simulated."""
Share = Callable[["LatencyRow"], float]


@dataclass(frozen=True)
class LatencyRow:
    """One measurement: `load.concurrency` requests at once of one length, over an HTTP server.

    `number` is its place in the file, from 1.
    """

    number: int
    model: str
    gpu: str
    release: str
    precision: str
    tp: int
    load: Load
    ttft_ms: float
    tpot_ms: float
    engine: Engine

    @property
    def is_fitted(self) -> bool:
        """Whether something was fitted to its times."""
        return self.model == FITTED_MODEL

    @property
    def name(self) -> str:
        """Model, precision and GPU."""
        return f"{self.model} {self.precision} {self.gpu}"


Found = tuple[LatencyRow, Speed]


def latency_rows() -> list[LatencyRow]:
    """All rows of planner_latency.csv."""
    with (DATA / "planner_latency.csv").open(encoding="utf-8", newline="") as file:
        return [_row(number, values) for number, values in enumerate(csv.DictReader(file), 1)]


def estimates(fit: Fit, rows: Sequence[LatencyRow]) -> list[Found]:
    """Each row with its estimate, but for those that the planner thinks have to wait for cache."""
    found = [(row, speed(row.engine, row.load, fit=fit)) for row in rows]
    return [(row, one) for row, one in found if one is not None and one.batch == row.load.concurrency]


def fit_first_token(fit: Fit) -> FirstToken:
    """The three values, fitted to the logarithms of the rows of FITTED_MODEL."""
    from scipy.optimize import least_squares

    rows = [row for row in latency_rows() if row.is_fitted]

    def with_values(values: Sequence[float]) -> Fit:
        return fit.model_copy(update={"first_token": _first_token(values)})

    def residuals(values: Sequence[float]) -> list[float]:
        return [math.log(one.ttft_ms / row.ttft_ms) for row, one in estimates(with_values(values), rows)]

    result = least_squares(
        residuals, [20.0, 0.1, 2.0], bounds=([0, 0, 0], [500, 1, 30]), loss="soft_l1", x_scale=[20, 0.1, 2]
    )
    return _first_token([round(float(f"{value:.3g}"), 4) for value in result.x])


def latency_tables(
    fit: Fit, found: Sequence[Found]
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Errors by model and GPU."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one[0].name, []).append(one)
    groups = {
        "not fitted to": [one for one in found if not one[0].is_fitted],
        "fitted to (Llama 3.1 70B)": [one for one in found if one[0].is_fitted],
        **dict(sorted(groups.items())),
    }
    header = ("data", "rows", "median error", "bias", "9 of 10 within")
    served = _simulated(found, fit)
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    for title, share in (
        ("Time to the first token under load", _ttft_share),
        ("Time per token under load", _tpot_share),
    ):
        cells = [(name, *_numbers(rows, share)) for name, rows in groups.items()]
        simulated = _spread([_mean_ms(one, share) / share(row) - 1 for row, one in served])
        tables.append((title, header, [("not fitted to, simulated, each 4th", *simulated), *cells]))
    return tables


def _simulated(found: Sequence[Found], fit: Fit) -> list[tuple[LatencyRow, Simulated]]:
    """What the simulated scheduler does, of a part of the rows that nothing was fitted to."""
    return [
        (row, simulate(StepModel(row.engine, fit), row.load, busy=one.batch))
        for row, one in [each for each in found if not each[0].is_fitted][::SIMULATED]
    ]


def _mean_ms(served: Simulated, share: Share) -> float:
    return (served.ttft if share is _ttft_share else served.tpot).mean_ms


def _ttft_share(row: LatencyRow) -> float:
    return row.ttft_ms


def _tpot_share(row: LatencyRow) -> float:
    return row.tpot_ms


def _error(one: Found, share: Share) -> float:
    """Estimate / measured - 1."""
    row, found = one
    return (found.ttft_ms if share is _ttft_share else found.tpot_ms) / share(row) - 1


def _numbers(found: Sequence[Found], share: Share) -> tuple[str, ...]:
    return _spread([_error(one, share) for one in found])


def _spread(errors: Sequence[float]) -> tuple[str, ...]:
    sizes = sorted(abs(error) for error in errors)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return (
        str(len(errors)),
        f"{100 * statistics.median(sizes):.1f} %",
        f"{100 * statistics.median(errors):+.1f} %",
        f"{100 * ninth:.0f} %",
    )


def _first_token(values: Sequence[float]) -> FirstToken:
    start_ms, ahead, steps = map(float, values)
    return FirstToken(start_ms=start_ms, ahead=ahead, steps=steps)


def _row(number: int, values: dict[str, str]) -> LatencyRow:
    tp, pp = int(values["tp"]), int(values["pp"])
    floats = values["precision"] == "bf16"
    return LatencyRow(
        number=number,
        model=values["model"],
        gpu=values["gpu"],
        release=values["trtllm"] or "unknown",
        precision=values["precision"],
        tp=tp,
        load=Load(int(values["isl"]), int(values["osl"]), int(values["concurrency"])),
        ttft_ms=float(values["ttft_ms"]),
        tpot_ms=float(values["tpot_ms"]),
        engine=engine_of(
            values["model"],
            gpu=values["gpu"],
            tp=tp,
            pp=pp,
            weight_format=None if floats else values["precision"],
            kv_fraction=0.9,
            moe_ep=max(1, int(values["moe_ep"])),
            runtime="pytorch",
        ),
    )
