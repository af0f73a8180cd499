"""The tables of docs/planning.md: errors, coverages and orders, as titles, headers and cells.

It measures nothing (`measured`) and writes nothing (`planner`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.beside_aiconfigurator import HEADER as BESIDE
from benchmarks.latency import latency_tables
from benchmarks.measured import Measured, spread, spreads
from benchmarks.orders import Error
from benchmarks.published import Row

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
HEADER = ("rows", "median error", "bias", "9 of 10 within", "in the band")
ORDERED_BY = {False: "tokens/s", True: "tokens/s per GPU"}
MISS_HEADER = ("release", "model", "GPU", "TP x PP", "lengths", "measured", "estimated", "error")
COVERED = (
    "band of",
    "rows",
    "groups",
    "widened by",
    "inside before",
    "inside, mean of groups",
    "inside, of all rows",
)
BEYOND = 0.25
"""An error that is called a miss."""
_SHOWN = 30


def tables(found: Measured) -> list[Table]:
    """All, the misses first."""
    missed = misses(found.dense, beyond=BEYOND)
    return [
        *_coverage(found),
        (
            f"The {min(_SHOWN, len(missed))} worst of {len(missed)} misses beyond {100 * BEYOND:.0f} % of "
            f"{len(found.dense)} rows",
            MISS_HEADER,
            missed[:_SHOWN],
        ),
        (
            "Throughput, estimate against published",
            ("data", *HEADER),
            [
                ("calibration (fitted to)", *spread(found.calibrated).cells),
                ("check, dense models", *spread(found.dense).cells),
                ("check, Mixtral", *spread(found.mixtral).cells),
                ("calibration of experts (fitted to)", *spread(found.experts_calibrated).cells),
                ("check, Qwen3 with experts", *spread(found.experts).cells),
                ("check, architectures that no fit knows", *spread(found.architectures).cells),
            ],
        ),
        *_dense(found),
        *_orders(found),
        _grouped(
            "Architectures that no fit knows, release 1.2", found.architectures, "deployment", deployment
        ),
        _grouped(
            "Experts in 1.0 and 1.2, above one GPU with attention data parallelism",
            found.experts,
            "deployment",
            lambda row: f"{row.release} {deployment(row)}",
        ),
        (
            "Times beside aiconfigurator 0.12.0, on the same rows",
            BESIDE,
            [one.cells for one in found.beside],
        ),
        *latency_tables(found.fit, found.times),
        _first_token(found),
    ]


def deployment(row: Row) -> str:
    """``gpt-oss-20b h100-sxm mxfp4 1x1``."""
    return f"{row.model} {row.gpu} {row.precision} {row.tp}x{row.pp}"


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


def _coverage(found: Measured) -> list[Table]:
    groups = sorted((one for each in found.coverage for one in each.groups), key=lambda one: one.share)
    return [
        (
            "Bands of 8 of 10: rows of groups left out that lie in what the others give",
            COVERED,
            [one.cells for one in found.coverage],
        ),
        (
            "The same by group, the misses first",
            ("band of", "left out", "group", "rows", "inside"),
            [
                (one.what, one.dimension, one.name, str(one.rows), f"{100 * one.share:.0f} %")
                for one in groups
            ],
        ),
    ]


def _dense(found: Measured) -> list[Table]:
    keys: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
        ("GPU and precision", "GPU", lambda row: f"{row.gpu} {row.precision}"),
        ("model", "model", lambda row: row.model),
        ("lengths", "prompt/answer", lambda row: f"{row.load.input_tokens}/{row.load.output_tokens}"),
        ("release", "release", lambda row: row.release),
        ("number of GPUs", "TP x PP", lambda row: f"{row.tp}x{row.pp}"),
    )
    return [
        _grouped(f"Check data, dense models, by {title}", found.dense, name, key) for title, name, key in keys
    ]


def _grouped(title: str, found: Sequence[Error], name: str, key: Callable[[Row], str]) -> Table:
    return title, (name, *HEADER), [(group, *one.cells) for group, one in spreads(found, key).items()]


def _orders(found: Measured) -> list[Table]:
    return [
        (
            "Order of TP sizes: right, undecided (within the band, so called and not ranked), wrong",
            ("data", "by", "right", "undecided", "wrong", "groups"),
            [(name, ORDERED_BY[per_gpu], *one.cells) for (name, per_gpu), one in found.orders.items()],
        ),
        *(
            (
                f"Wrong orders by {ORDERED_BY[per_gpu]}, beyond the band (measured -> estimated)",
                ("release", "model", "GPU", "lengths", "TP sizes"),
                list(found.orders["check", per_gpu].wrong),
            )
            for per_gpu in (True, False)
        ),
    ]


def _first_token(found: Measured) -> Table:
    """Time to the first token of one request alone; nothing was fitted to it."""
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
        for row, ms, estimated in found.first_tokens
    ]
    title = "Time to the first token of one request, release 0.9"
    return title, ("model", "GPU", "TP", "prompt", "measured ms", "estimated ms", "error"), cells
