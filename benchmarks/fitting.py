"""The fit of the planner's free values to published throughput.

It judges nothing (`measured`) and writes nothing (`planner`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.latency import LatencyRow, estimates
from benchmarks.published import Row, rows
from tpforge.plan.hardware.communication import LinkShares
from tpforge.plan.speed.calibration import Fit, calibration

FAMILIES = ("ampere", "ada", "hopper", "blackwell")
MEMORIES = ("ampere", "gddr", "hopper", "blackwell")
# Name, start, least, most. The bounds keep a value physical where the data says little of it.
FREE = (
    *((f"flops.{name}", 0.6, 0.1, 0.95) for name in FAMILIES),
    *((f"bandwidth.{name}", 0.8, 0.4, 0.92) for name in MEMORIES),
    ("blend", 2.0, 1.0, 8.0),
    ("kv_read", 1.2, 0.8, 3.0),
    ("attention_share", 0.4, 0.1, 0.9),
    ("vector_passes", 4.0, 0.5, 20.0),
    ("layer_us", 30.0, 0.0, 100.0),
    ("request_us.tensorrt", 5.0, 0.1, 100.0),
    ("request_us.pytorch", 5.0, 0.1, 100.0),
    ("wait_us", 15.0, 0.0, 100.0),
    ("pcie", 0.5, 0.1, 1.0),
)
# Where no measurement exists: the means of the fitted ones, rounded down, and a band that is assumed.
OTHER_FLOPS, OTHER_BANDWIDTH = 0.6, 0.75
NVLINK_SHARE, HOSTS_SHARE = 0.7, 0.7


TIME_WEIGHT = 0.7
"""Of a row of the time per token beside one of tokens/s: such rows are more alike."""
LONG_ANSWER = 1000
"""Tokens from which on answers, and not prompts, take most of a row's time."""
FREE_OF_EXPERTS = (("exchange_us", 50.0, 0.0, 1000.0), ("exchange", 0.5, 0.03, 1.0))


def make_fit(values: Sequence[float]) -> Fit:
    found = dict(zip((name for name, *_ in FREE), map(float, values), strict=True))

    def part(prefix: str) -> dict[str, float]:
        return {key.partition(".")[2]: value for key, value in found.items() if key.startswith(f"{prefix}.")}

    before = calibration().fit
    return Fit(
        flops=part("flops"),
        other_flops=OTHER_FLOPS,
        bandwidth=part("bandwidth"),
        request_us={
            "tensorrt": found.pop("request_us.tensorrt"),
            "pytorch": found.pop("request_us.pytorch"),
        },
        other_bandwidth=OTHER_BANDWIDTH,
        links=LinkShares(
            pcie=found.pop("pcie"), nvlink=NVLINK_SHARE, hosts=HOSTS_SHARE, exchange=before.links.exchange
        ),
        exchange_us=before.exchange_us,
        active_share=before.active_share,
        first_token=before.first_token,
        **{key: value for key, value in found.items() if "." not in key},
    )


def fit_values(data: Sequence[Row], times: Sequence[LatencyRow]) -> Fit:
    """All values of FREE, fitted to the logarithms of tokens/s and of the time per token under load.

    The latter say what saturated loads cannot: what a step costs in which no prompt is read.
    """
    from scipy.optimize import least_squares

    def residuals(values: Sequence[float]) -> list[float]:
        fit = make_fit(values)
        found = [math.log(row.estimate(fit) / row.measured) for row in data]
        return found + [
            TIME_WEIGHT * math.log(one.tpot_ms / row.tpot_ms) for row, one in estimates(fit, times)
        ]

    start = [first for _, first, _, _ in FREE]
    result = least_squares(
        residuals,
        start,
        bounds=([least for *_, least, _ in FREE], [most for *_, most in FREE]),
        loss="soft_l1",
        f_scale=0.15,
        x_scale=start,
        max_nfev=60,
    )
    return make_fit([float(f"{value:.4g}") for value in result.x])


def fit_exchange(fit: Fit) -> Fit:
    """With what attention data parallelism costs beside sending: fitted to Qwen3 235B in 1.0, over NVLink."""
    from scipy.optimize import least_squares

    data = rows("experts_calibration")

    def with_values(values: Sequence[float]) -> Fit:
        wait_us, share = (float(f"{value:.4g}") for value in values)
        links = fit.links.model_copy(update={"exchange": share})
        return fit.model_copy(update={"exchange_us": wait_us, "links": links})

    def residuals(values: Sequence[float]) -> list[float]:
        return [math.log(row.estimate(with_values(values)) / row.measured) for row in data]

    start = [first for _, first, _, _ in FREE_OF_EXPERTS]
    found = least_squares(
        residuals,
        start,
        bounds=([least for *_, least, _ in FREE_OF_EXPERTS], [most for *_, most in FREE_OF_EXPERTS]),
        loss="soft_l1",
        f_scale=0.15,
        x_scale=start,
        diff_step=1e-2,
    )
    return with_values(found.x)


def pipeline_rows() -> list[Row]:
    """Those with long answers: how fast prompts are read is no matter of a pipeline, and off by itself."""
    return [row for row in rows("pipeline_calibration") if row.load.output_tokens >= LONG_ANSWER]


def fit_pipeline(fit: Fit) -> Fit:
    """With what the rest of a pipeline's batch costs a pass: fitted to Llama 3.1 405B at PP8 in 1.0."""
    from scipy.optimize import minimize_scalar

    data = pipeline_rows()

    def with_share(share: float) -> Fit:
        return fit.model_copy(update={"active_share": float(f"{share:.3g}")})

    def squares(share: float) -> float:
        return sum(math.log(row.estimate(with_share(share)) / row.measured) ** 2 for row in data)

    return with_share(minimize_scalar(squares, bounds=(0, 1), method="bounded").x)
