"""How far the planner's throughput is from published measurements, and the fit of its free values.

``python -m benchmarks.planner`` prints the tables of errors on the check data. ``--fit`` fits the free values
to the calibration data (with scipy), judges them by the check data and writes tpforge/plan/calibration.toml.
``--docs`` writes the tables into docs/planning.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import tomli_w

from benchmarks.bands import coverage_tables, kind_of, throughput_bands, time_bands
from benchmarks.beside_aiconfigurator import beside_table
from benchmarks.latency import fit_first_token, latency_tables
from benchmarks.orders import Error, orders
from benchmarks.published import Row, first_token_ms, first_tokens, rows
from scripts.reports.columns import table
from tpforge.outputs.atomic import write_atomic
from tpforge.plan.calibration import Band, Fit, calibration
from tpforge.plan.communication import LinkShares

ROOT = Path(__file__).resolve().parent.parent
TOML = ROOT / "tpforge/plan/calibration.toml"
PAGE = ROOT / "docs/planning.md"
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
    ("step_us", 500.0, 0.0, 5000.0),
    ("layer_us", 15.0, 0.0, 25.0),
    ("request_us", 5.0, 0.1, 100.0),
    ("pcie", 0.5, 0.1, 1.0),
)
# Where no measurement exists: the means of the fitted ones, rounded down, and a band that is assumed.
OTHER_FLOPS, OTHER_BANDWIDTH = 0.6, 0.75
NVLINK_SHARE, HOSTS_SHARE = 0.7, 0.7
ASSUMED_BAND = (0.6, 1.4)
ASSUMED_BAND_HOSTS = (0.4, 1.4)


def make_fit(values: Sequence[float]) -> Fit:
    found = dict(zip((name for name, *_ in FREE), map(float, values), strict=True))

    def part(prefix: str) -> dict[str, float]:
        return {key.partition(".")[2]: value for key, value in found.items() if key.startswith(f"{prefix}.")}

    before = calibration().fit
    return Fit(
        flops=part("flops"),
        other_flops=OTHER_FLOPS,
        bandwidth=part("bandwidth"),
        other_bandwidth=OTHER_BANDWIDTH,
        links=LinkShares(
            pcie=found.pop("pcie"), nvlink=NVLINK_SHARE, hosts=HOSTS_SHARE, exchange=before.links.exchange
        ),
        exchange_us=before.exchange_us,
        expert_skew=before.expert_skew,
        first_token=before.first_token,
        **{key: value for key, value in found.items() if "." not in key},
    )


def fit_values(data: Sequence[Row]) -> Fit:
    from scipy.optimize import least_squares

    def residuals(values: Sequence[float]) -> list[float]:
        fit = make_fit(values)
        return [math.log(row.estimate(fit) / row.measured) for row in data]

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
    """With what attention data parallelism costs, fitted to Qwen3 235B in 1.0 over NVLink alone."""
    from scipy.optimize import least_squares

    data = rows("experts_calibration")

    def with_values(values: Sequence[float]) -> Fit:
        share, wait_us, skew = (float(f"{value:.4g}") for value in values)
        links = fit.links.model_copy(update={"exchange": share})
        return fit.model_copy(update={"links": links, "exchange_us": wait_us, "expert_skew": skew})

    def residuals(values: Sequence[float]) -> list[float]:
        return [math.log(row.estimate(with_values(values)) / row.measured) for row in data]

    found = least_squares(
        residuals,
        [0.3, 50.0, 1.5],
        bounds=([0.02, 0.0, 1.0], [1.0, 1000.0, 8.0]),
        loss="soft_l1",
        f_scale=0.15,
        x_scale=[0.3, 50.0, 1.5],
        diff_step=1e-3,
    )
    return with_values(found.x)


def errors(data: Sequence[Row], fit: Fit) -> list[Error]:
    """Every row with estimate / measured - 1; -1 where not one request was thought to fit."""
    return [(row, row.estimate(fit) / row.measured - 1) for row in data]


def is_dense(row: Row) -> bool:
    return row.engine.shapes.model.moe is None


def summary(found: Sequence[Error], key: Callable[[Row], str]) -> list[tuple[str, ...]]:
    """Errors of the groups that `key` names, the worst median first."""
    groups: dict[str, list[Error]] = {}
    for row, error in found:
        groups.setdefault(key(row), []).append((row, error))
    worst = sorted(groups.items(), key=lambda one: -statistics.median(abs(error) for _, error in one[1]))
    return [(name, *_numbers(errors)) for name, errors in worst]


def _numbers(found: Sequence[Error]) -> tuple[str, ...]:
    """Rows, median error, bias, what nine of ten are within, and how many lie in the band of their kind."""
    bands = {band.kind: band for band in calibration().bands}
    inside = [
        bands[kind_of(row)].low <= 1 / (1 + error) <= bands[kind_of(row)].high
        for row, error in found
        if error > -1
    ]
    values = [error for _, error in found]
    sizes = sorted(abs(value) for value in values)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return (
        str(len(values)),
        f"{100 * statistics.median(sizes):.1f} %",
        f"{100 * statistics.median(values):+.1f} %",
        f"{100 * ninth:.0f} %",
        f"{100 * sum(inside) / len(found):.0f} %",
    )


def misses(found: Sequence[Error], *, beyond: float) -> list[tuple[str, ...]]:
    """Rows that are off by more, the worst first."""
    worst = sorted((one for one in found if abs(one[1]) > beyond), key=lambda one: -abs(one[1]))
    return [
        (
            row.release,
            f"{row.model} {row.precision}",
            row.gpu,
            f"{row.tp}x{row.pp}",
            f"{row.load.input_tokens}/{row.load.output_tokens}",
            f"{row.measured:.0f}",
            f"{row.measured * (1 + error):.0f}",
            f"{100 * error:+.0f} %",
        )
        for row, error in worst
    ]


HEADER = ("rows", "median error", "bias", "9 of 10 within", "in the band")
ORDERED_BY = {False: "tokens/s", True: "tokens/s per GPU"}
MISS_HEADER = ("release", "model", "GPU", "TP x PP", "lengths", "measured", "estimated", "error")


def report(fit: Fit) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Titled tables."""
    calibrated, checked = errors(rows("calibration"), fit), errors(rows("check"), fit)
    dense = [one for one in checked if is_dense(one[0])]
    by_order = {
        (name, per_gpu): orders(found, per_gpu=per_gpu, bands=calibration().bands)
        for name, found in (("calibration", calibrated), ("check", dense))
        for per_gpu in (False, True)
    }
    experts = errors(rows("experts"), fit)
    beyond = misses(dense, beyond=0.25)
    return [
        *coverage_tables(fit),
        (f"The 30 worst of {len(beyond)} misses beyond 25 % of {len(dense)} rows", MISS_HEADER, beyond[:30]),
        (
            "Throughput, estimate against published",
            ("data", *HEADER),
            [
                ("calibration (fitted to)", *_numbers(calibrated)),
                ("check, dense models", *_numbers(dense)),
                ("check, Mixtral", *_numbers([one for one in checked if not is_dense(one[0])])),
                ("calibration of experts (fitted to)", *_numbers(errors(rows("experts_calibration"), fit))),
                ("check, Qwen3 with experts", *_numbers(experts)),
            ],
        ),
        (
            "Check data, dense models, by GPU and precision",
            ("GPU", *HEADER),
            summary(dense, lambda row: f"{row.gpu} {row.precision}"),
        ),
        (
            "Check data, dense models, by model",
            ("model", *HEADER),
            summary(dense, lambda row: row.model),
        ),
        (
            "Check data, dense models, by lengths",
            ("prompt/answer", *HEADER),
            summary(dense, lambda row: f"{row.load.input_tokens}/{row.load.output_tokens}"),
        ),
        (
            "Check data, dense models, by release",
            ("release", *HEADER),
            summary(dense, lambda row: row.release),
        ),
        (
            "Check data, dense models, by number of GPUs",
            ("TP x PP", *HEADER),
            summary(dense, lambda row: f"{row.tp}x{row.pp}"),
        ),
        (
            "Order of TP sizes: right, undecided (within the band, so called and not ranked), wrong",
            ("data", "by", "right", "undecided", "wrong", "groups"),
            [(name, ORDERED_BY[per_gpu], *found.cells) for (name, per_gpu), found in by_order.items()],
        ),
        *(
            (
                f"Wrong orders by {ORDERED_BY[per_gpu]}, beyond the band (measured -> estimated)",
                ("release", "model", "GPU", "lengths", "TP sizes"),
                list(by_order["check", per_gpu].wrong),
            )
            for per_gpu in (True, False)
        ),
        (
            "Architectures that no fit knows, release 1.2",
            ("deployment", *HEADER),
            summary(
                errors(rows("architectures"), fit),
                lambda row: f"{row.model} {row.gpu} {row.precision} {row.tp}x{row.pp}",
            ),
        ),
        (
            "Experts in 1.0 and 1.2, above one GPU with attention data parallelism",
            ("deployment", *HEADER),
            summary(
                experts,
                lambda row: f"{row.release} {row.model} {row.gpu} {row.precision} {row.tp}x{row.pp}",
            ),
        ),
        beside_table(fit),
        *latency_tables(fit),
        _first_token_table(fit),
    ]


def _first_token_table(fit: Fit) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Time to the first token of one request alone; nothing was fitted to it."""
    found = [(row, ms, first_token_ms(row, fit)) for row, ms in first_tokens()]
    sizes = sorted(abs(estimated / ms - 1) for _, ms, estimated in found)
    cells: list[tuple[str, ...]] = [
        (
            f"{row.model} {row.precision}",
            row.gpu,
            str(row.tp),
            str(row.load.input_tokens),
            f"{ms:.1f}",
            f"{estimated:.1f}",
            f"{100 * (estimated / ms - 1):+.0f} %",
        )
        for row, ms, estimated in found
    ]
    median = f"{100 * statistics.median(sizes):.0f} %"
    title = f"Time to the first token of one request, release 0.9: median error {median}"
    return title, ("model", "GPU", "TP", "prompt", "measured ms", "estimated ms", "error"), cells


def calibration_text(fit: Fit) -> str:
    head = [
        "# Written by `python -m benchmarks.planner --fit` from rows in benchmarks/data. Values are fitted",
        "# to planner_calibration.csv, planner_experts_calibration.csv and, for the first token, a model of",
        "# planner_latency.csv. Bands are of all others, held out by release, GPU and model (see",
        "# benchmarks/bands.py); those without rows are assumed.",
    ]
    assumed = (
        Band(kind="unmeasured GPU", low=ASSUMED_BAND[0], high=ASSUMED_BAND[1], rows=0),
        Band(kind="modelled load", low=ASSUMED_BAND[0], high=ASSUMED_BAND[1], rows=0),
        Band(kind="several hosts", low=ASSUMED_BAND_HOSTS[0], high=ASSUMED_BAND_HOSTS[1], rows=0),
    )
    found = {
        "measured_gpus": sorted({row.gpu for row in rows("check")}),
        "fit": fit.model_dump(),
        "bands": [band.model_dump(exclude_defaults=True) for band in (*throughput_bands(fit), *assumed)],
        "time_bands": {name: band.model_dump() for name, band in time_bands(fit).items()},
    }
    return "\n".join(head) + "\n" + tomli_w.dumps(found)


def _markdown(title: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells), ""])


def write_docs(fit: Fit) -> None:
    """Replace what stands between the marks of docs/planning.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- measured: begin -->")
    _, after = rest.split("<!-- measured: end -->")
    tables = "\n".join(_markdown(*one) for one in report(fit))
    write_atomic(PAGE, f"{before}<!-- measured: begin -->\n{tables}<!-- measured: end -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit again and write calibration.toml")
    parser.add_argument("--bands", action="store_true", help="take the bands of the fit again")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/planning.md")
    given = parser.parse_args()
    if given.fit:
        fit = fit_values(rows("calibration"))
        fit = fit_exchange(fit)
        fit = fit.model_copy(update={"first_token": fit_first_token(fit)})
    else:
        fit = calibration().fit
    if given.fit or given.bands:
        write_atomic(TOML, calibration_text(fit))
        calibration.cache_clear()
    for title, header, cells in report(fit):
        print(f"\n{title}\n{table(cells, header=header) if cells else 'none'}")
    if given.docs:
        write_docs(fit)


if __name__ == "__main__":
    main()
