"""`tpforge gpus`: the table of GPUs, and which of them to take for a model and a load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, DESCRIBE, JSON, SIZE
from scripts.cli.options.load import ABOVE_ZERO, ISL, MAX_LEN, OSL, RATE, SATURATED, TPOT_MS, TTFT_MS
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from scripts.flows.plan import Goal
    from tpforge.plan.choice.picker import Pick
    from tpforge.plan.hardware.gpus import Gpu


@click.command("gpus")
@click.option("--model", metavar="MODEL", help="Pick a GPU for this model; without it the table is printed.")
@ISL
@OSL
@click.option("--concurrency", type=SIZE, help="Requests that must run at once.")
@RATE
@SATURATED
@MAX_LEN
@TTFT_MS
@TPOT_MS
@click.option(
    "--goal",
    type=click.Choice(["throughput", "latency", "cost"]),
    default="throughput",
    show_default=True,
    help="What the best option of a kind is chosen by.",
)
@click.option("--budget", type=ABOVE_ZERO, help="Most that all GPUs may cost an hour; needs prices.")
@click.option(
    "--gpu-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML with GPUs and prices of your own.",
)
@DESCRIBE
@JSON
@DEBUG
def command(
    model: str | None,
    goal: Goal,
    budget: float | None,
    gpu_file: Path | None,
    describe: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """List the known GPUs, or how few of each kind a model and a load need.

    Speeds are estimates (docs/planning.md). Prices come from --gpu-file alone. Exit status 5 when no kind
    does it.
    """
    from scripts.flows.planning.known_gpus import known_gpus

    output = Output(as_json=as_json)
    if model is None:
        _refuse_load()
        kinds, _ = known_gpus(gpu_file)
        output.result(table([_specification(gpu) for gpu in kinds], header=_HEADER))
        output.record("gpus", {"gpus": [gpu.model_dump(mode="json") for gpu in kinds]})
        return
    from scripts.flows.plan import LoadWishes, pick

    picked = pick(model, LoadWishes(**values), goal=goal, budget=budget, gpu_file=gpu_file, describe=describe)
    output.result(_text(picked.picks, currency=picked.currency))
    output.record(
        "gpu_picks",
        {
            "model": picked.model,
            "currency": picked.currency,
            "picks": [_fields(pick) for pick in picked.picks],
        },
    )


def _refuse_load() -> None:
    """What is asked of no model changes nothing in the table."""
    context = click.get_current_context()
    asked = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in ("model", "gpu_file", "as_json")
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if asked:
        raise UsageError(f"{', '.join(asked)}: of which model? Give --model, or leave it out for the table")


_HEADER = (
    "GPU",
    "SM",
    "GiB",
    "memory GB/s",
    "TFLOPS 16 bit",
    "FP8",
    "FP4",
    "NVLink GB/s",
    "group",
    "PCIe GB/s",
)


def _specification(gpu: Gpu) -> tuple[str, ...]:
    from tpforge.units import GIB

    shown = f"{gpu.memory_bytes / GIB:.1f}" + ("" if gpu.memory_is_published else "?")
    rates = [gpu.bandwidth_gb_s, gpu.fp16_tflops, gpu.fp8_tflops, gpu.fp4_tflops, gpu.nvlink_gb_s]
    cells = ["-" if rate is None else f"{rate:g}" for rate in rates]
    group = str(gpu.nvlink_group) if gpu.nvlink_gb_s else "-"
    return (gpu.name, str(gpu.sm), shown, *cells, group, f"{gpu.pcie_gb_s:g}")


def _text(picks: tuple[Pick, ...], *, currency: str) -> str:
    has_prices = any(pick.price_per_hour is not None for pick in picks)
    rows = []
    for pick in picks:
        option = pick.option
        if option is None or option.speed is None or option.band is None:
            continue
        (low, high), price, cost = option.tokens_between, pick.price_per_hour, option.cost_per_million
        rows.append(
            (
                f"{option.num_gpus} x {pick.gpu.name}",
                option.label,
                f"{option.tokens_per_second:.0f}",
                f"{low:.0f}-{high:.0f}",
                f"{option.tokens_per_gpu:.0f}",
                f"{option.speed.tpot_ms / option.scale:.1f} ms",
                *(("-" if one is None else f"{one:.2f}" for one in (price, cost)) if has_prices else ()),
            )
        )
    header = (
        "GPUs",
        "option",
        "tokens/s",
        "8 of 10 within",
        "per GPU",
        "TPOT",
        *(f"{currency} {what}".lstrip() for what in ("per hour", "per million output tokens") if has_prices),
    )
    refused = _refused(picks)
    parts = [table(rows, header=header)]
    if refused:
        parts.append(table(refused, header=("not", "why")))
    return "\n\n".join([*parts, "All speeds are estimates; see docs/planning.md."])


def _refused(picks: tuple[Pick, ...]) -> list[tuple[str, str]]:
    """Those that do not do it, one row for all with the same reason."""
    found: dict[str, list[str]] = {}
    for pick in picks:
        if pick.option is None:
            found.setdefault(pick.reason or "", []).append(pick.gpu.name)
    return [(_named(names), reason) for reason, names in found.items()]


def _named(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _fields(pick: Pick) -> dict[str, object]:
    option = pick.option
    low, high = option.tokens_between if option else (None, None)
    return {
        "gpu": pick.gpu.name,
        "gpus": option.num_gpus if option else None,
        "option": option.label if option else None,
        "tokens_per_second": round(option.tokens_per_second, 1) if option else None,
        "low": None if low is None else round(low, 1),
        "high": None if high is None else round(high, 1),
        "tpot_ms": round(option.speed.tpot_ms / option.scale, 2) if option and option.speed else None,
        "price_per_hour": pick.price_per_hour,
        "cost_per_million": option.cost_per_million if option else None,
        "reason": pick.reason,
    }
