"""`tpforge gpus`: the table of GPUs, and which of them to take for a model and a load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from scripts.cli.options.common import DEBUG, JSON, SIZE
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from tpforge.plan.hardware import Gpu
    from tpforge.plan.picker import Pick

_AMOUNT = click.FloatRange(min=0, min_open=True)


@click.command("gpus")
@click.option("--model", metavar="MODEL", help="Pick a GPU for this model; without it the table is printed.")
@click.option("--isl", type=SIZE, default=1000, show_default=True, help="Tokens of a prompt.")
@click.option("--osl", type=SIZE, default=1000, show_default=True, help="Tokens of an answer.")
@click.option("--concurrency", type=SIZE, help="Requests that must run at once.")
@click.option("--max-len", type=SIZE, help="Longest request that must fit.  [default: isl + osl]")
@click.option("--ttft-ms", type=_AMOUNT, help="Most milliseconds to the first token.")
@click.option("--tpot-ms", type=_AMOUNT, help="Most milliseconds a token after it.")
@click.option(
    "--goal",
    type=click.Choice(["throughput", "latency", "cost"]),
    default="throughput",
    show_default=True,
    help="What the best option of a kind is chosen by.",
)
@click.option("--budget", type=_AMOUNT, help="Most that all GPUs may cost an hour; needs prices.")
@click.option(
    "--gpu-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML with GPUs and prices of your own.",
)
@JSON
@DEBUG
def command(
    model: str | None,
    isl: int,
    osl: int,
    concurrency: int | None,
    max_len: int | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    goal: Literal["throughput", "latency", "cost"],
    budget: float | None,
    gpu_file: Path | None,
    as_json: bool,
) -> None:
    """List the known GPUs, or pick one for a model: of every kind the fewest that do what is asked.

    Speeds are estimates (docs/planning.md). Prices come from --gpu-file alone. Exit status 5 when no kind
    does it.
    """
    from builders.blueprint import find_blueprint
    from tpforge.errors import NothingFits
    from tpforge.plan.calibration import calibration
    from tpforge.plan.hardware import Prices, gpus, read_gpu_file
    from tpforge.plan.options import Ask
    from tpforge.plan.picker import pick_gpus
    from tpforge.plan.throughput import Load

    output = Output(as_json=as_json)
    own, prices = read_gpu_file(gpu_file) if gpu_file is not None else ((), Prices())
    kinds = (*own, *gpus())
    if model is None:
        output.result(table([_specification(gpu) for gpu in kinds], header=_HEADER))
        output.record("gpus", {"gpus": [gpu.model_dump(mode="json") for gpu in kinds]})
        return
    load = Load(isl, osl, concurrency or (1 if goal == "latency" else None))
    ask = Ask(load, max_len or load.request_tokens, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
    blueprint = find_blueprint(model)
    picks = pick_gpus(
        blueprint, kinds, ask, goal=goal, calibration=calibration(), prices=prices, budget=budget
    )
    if all(pick.option is None for pick in picks):
        reasons = {f"{pick.gpu.name}: {pick.reason}" for pick in picks}
        raise NothingFits("\n  ".join([f"{model}: no kind of GPU does it:", *sorted(reasons)]))
    output.result(_text(picks))
    output.record("gpu_picks", {"model": blueprint.name, "picks": [_fields(pick) for pick in picks]})


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


def _text(picks: tuple[Pick, ...]) -> str:
    rows = []
    for pick in picks:
        option = pick.option
        if option is None or option.speed is None or option.band is None:
            continue
        tokens, price, cost = option.tokens_per_second, pick.price_per_hour, option.cost_per_million
        rows.append(
            (
                f"{option.num_gpus} x {pick.gpu.name}",
                option.label,
                f"{tokens:.0f}",
                f"{tokens * option.band.low:.0f}-{tokens * option.band.high:.0f}",
                f"{option.tokens_per_gpu:.0f}",
                f"{option.speed.tpot_ms / option.scale:.1f} ms",
                "-" if price is None else f"{price:.2f}",
                "-" if cost is None else f"{cost:.2f}",
            )
        )
    header = (
        "GPUs",
        "option",
        "tokens/s",
        "8 of 10 within",
        "a GPU",
        "a token",
        "an hour",
        "a million tokens",
    )
    refused = [(pick.gpu.name, pick.reason or "") for pick in picks if pick.option is None]
    parts = [table(rows, header=header)]
    if refused:
        parts.append(table(refused, header=("not", "why")))
    return "\n\n".join([*parts, "All speeds are estimates; see docs/planning.md."])


def _fields(pick: Pick) -> dict[str, object]:
    option = pick.option
    return {
        "gpu": pick.gpu.name,
        "gpus": option.num_gpus if option else None,
        "option": option.label if option else None,
        "tokens_per_second": round(option.tokens_per_second, 1) if option else None,
        "tpot_ms": round(option.speed.tpot_ms / option.scale, 2) if option and option.speed else None,
        "price_per_hour": pick.price_per_hour,
        "cost_per_million": option.cost_per_million if option else None,
        "reason": pick.reason,
    }
