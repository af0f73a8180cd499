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

from benchmarks.latency import estimates, fit_first_token, latency_rows, latency_tables, time_bands
from benchmarks.published import Row, first_token_ms, first_tokens, rows
from scripts.reports.columns import table
from tpforge.outputs.atomic import write_atomic
from tpforge.plan.calibration import Fit, calibration
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
Error = tuple[Row, float]


def make_fit(values: Sequence[float]) -> Fit:
    found = dict(zip((name for name, *_ in FREE), map(float, values), strict=True))

    def part(prefix: str) -> dict[str, float]:
        return {key.partition(".")[2]: value for key, value in found.items() if key.startswith(f"{prefix}.")}

    return Fit(
        flops=part("flops"),
        other_flops=OTHER_FLOPS,
        bandwidth=part("bandwidth"),
        other_bandwidth=OTHER_BANDWIDTH,
        links=LinkShares(pcie=found.pop("pcie"), nvlink=NVLINK_SHARE, hosts=HOSTS_SHARE),
        first_token=calibration().fit.first_token,
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


def errors(data: Sequence[Row], fit: Fit) -> list[Error]:
    """Every row with estimate / measured - 1; -1 where not one request was thought to fit."""
    return [(row, row.estimate(fit) / row.measured - 1) for row in data]


def is_dense(row: Row) -> bool:
    return row.engine.shapes.model.moe is None


def band_kind(row: Row) -> str:
    if not is_dense(row):
        return "experts"
    return "one GPU" if row.tp * row.pp == 1 else row.engine.cluster.link


def summary(found: Sequence[Error], key: Callable[[Row], str]) -> list[tuple[str, ...]]:
    groups: dict[str, list[float]] = {}
    for row, error in found:
        groups.setdefault(key(row), []).append(error)
    return [(name, *_numbers(values)) for name, values in sorted(groups.items())]


def _numbers(values: Sequence[float]) -> tuple[str, ...]:
    sizes = sorted(abs(value) for value in values)
    ninth = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return (
        str(len(values)),
        f"{100 * statistics.median(sizes):.1f} %",
        f"{100 * statistics.median(values):+.1f} %",
        f"{100 * ninth:.0f} %",
    )


def orders(found: Sequence[Error], *, per_gpu: bool = False) -> tuple[int, int, list[tuple[str, ...]]]:
    """Groups of rows that differ in tp only: how many have the right order, of how many; the wrong ones.

    The order is by tokens/s, or by tokens/s per GPU.
    """

    def value(row: Row, tokens: float) -> float:
        return tokens / (row.tp if per_gpu else 1)

    groups: dict[tuple[str, ...], list[Error]] = {}
    for row, error in found:
        groups.setdefault(row.group, []).append((row, error))
    wrong: list[tuple[str, ...]] = []
    several = [sorted(group, key=lambda one: one[0].tp) for group in groups.values() if len(group) > 1]
    for group in several:
        measured = sorted(group, key=lambda one: value(one[0], one[0].measured))
        estimated = sorted(group, key=lambda one: value(one[0], one[0].measured * (1 + one[1])))
        if [one[0].tp for one in measured] != [one[0].tp for one in estimated]:
            release, model, gpu, precision, _, lengths = group[0][0].group
            cells = ", ".join(
                f"TP{row.tp} {value(row, row.measured):.0f} -> {value(row, row.measured * (1 + error)):.0f}"
                for row, error in group
            )
            wrong.append((release, f"{model} {precision}", gpu, lengths, cells))
    return len(several) - len(wrong), len(several), wrong


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


HEADER = ("rows", "median error", "bias", "9 of 10 within")
MISS_HEADER = ("release", "model", "GPU", "TP x PP", "lengths", "measured", "estimated", "error")


def report(fit: Fit) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Titled tables."""
    calibrated, checked = errors(rows("calibration"), fit), errors(rows("check"), fit)
    dense = [one for one in checked if is_dense(one[0])]
    right, _, wrong = orders(dense)
    own_right, _, _ = orders(calibrated)
    gpu_right, gpu_total, gpu_wrong = orders(dense, per_gpu=True)
    own_gpu_right, own_gpu_total, _ = orders(calibrated, per_gpu=True)
    beyond = misses(dense, beyond=0.25)
    return [
        (
            "Throughput, estimate against published",
            ("data", *HEADER),
            [
                ("calibration (fitted to)", *_numbers([error for _, error in calibrated])),
                ("check, dense models", *_numbers([error for _, error in dense])),
                ("check, Mixtral", *_numbers([error for row, error in checked if not is_dense(row)])),
            ],
        ),
        (
            "Check data, dense models, by GPU and precision",
            ("GPU", *HEADER),
            summary(dense, lambda row: f"{row.gpu} {row.precision}"),
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
            "Order of TP sizes, by tokens/s and by tokens/s per GPU",
            ("data", "right by tokens/s", "right per GPU", "of"),
            [
                ("calibration", str(own_right), str(own_gpu_right), str(own_gpu_total)),
                ("check", str(right), str(gpu_right), str(gpu_total)),
            ],
        ),
        (
            "Wrong orders per GPU (measured -> estimated tokens/s per GPU)",
            ("release", "model", "GPU", "lengths", "TP sizes"),
            gpu_wrong,
        ),
        (
            "Wrong orders (measured -> estimated tokens/s)",
            ("release", "model", "GPU", "lengths", "TP sizes"),
            wrong,
        ),
        (
            "Experts with attention data parallelism, which is not modelled (release 1.0)",
            ("deployment", *HEADER),
            summary(
                errors(rows("experts"), fit), lambda row: f"{row.model} {row.gpu} {row.precision} TP{row.tp}"
            ),
        ),
        *latency_tables(fit),
        _first_token_table(fit),
        (f"The 30 worst of {len(beyond)} misses beyond 25 % of {len(dense)} rows", MISS_HEADER, beyond[:30]),
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
    checked = errors(rows("check"), fit)
    head = [
        "# Written by `python -m benchmarks.planner --fit`: fitted to planner_calibration.csv. The bands are",
        "# where 8 of 10 rows of planner_check.csv lie, which the fit has not seen. Both in benchmarks/data.",
    ]
    bands = []
    for kind in ("one GPU", "nvlink", "pcie", "experts"):
        shares = sorted(1 / (1 + error) for row, error in checked if band_kind(row) == kind)
        low, high = shares[len(shares) // 10], shares[-1 - len(shares) // 10]
        bands.append(_band(kind, low, high, len(shares)))
    bands.append(_band("unmeasured GPU", *ASSUMED_BAND, 0))
    bands.append(_band("modelled load", *ASSUMED_BAND, 0))
    bands.append(_band("several hosts", *ASSUMED_BAND_HOSTS, 0))
    times = time_bands(estimates(fit, latency_rows()))
    found = {
        "measured_gpus": sorted({row.gpu for row, _ in checked}),
        "fit": fit.model_dump(),
        "bands": bands,
        "time_bands": {name: band.model_dump() for name, band in times.items()},
    }
    return "\n".join(head) + "\n" + tomli_w.dumps(found)


def _band(kind: str, low: float, high: float, num_rows: int) -> dict[str, str | float]:
    return {"kind": kind, "low": round(low, 3), "high": round(high, 3), "rows": num_rows}


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
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/planning.md")
    given = parser.parse_args()
    if given.fit:
        fit = fit_values(rows("calibration"))
        fit = fit.model_copy(update={"first_token": fit_first_token(fit)})
        write_atomic(TOML, calibration_text(fit))
    else:
        fit = calibration().fit
    for title, header, cells in report(fit):
        print(f"\n{title}\n{table(cells, header=header) if cells else 'none'}")
    if given.docs:
        write_docs(fit)


if __name__ == "__main__":
    main()
