"""`tpforge plan`: which deployment of a model on given GPUs, what it needs, how fast it would be, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from scripts.cli import options
from scripts.cli.output import Output

if TYPE_CHECKING:
    from tpforge.plan.calibration import Calibration
    from tpforge.plan.choose import Plan
    from tpforge.plan.hardware import Cluster, Gpu, Prices
    from tpforge.plan.options import Ask
    from tpforge.plan.weights import Blueprint

_TIME = click.FloatRange(min=0, min_open=True)
_FILE = click.Path(path_type=Path)


@click.command("plan")
@options.MODEL
@click.option(
    "--gpu", required=True, metavar="NAME", help="The kind of GPU, such as h100-sxm; `host`: this host's."
)
@click.option("--gpus", "num_gpus", type=options.SIZE, help="How many GPUs.  [default: 1, or the host's]")
@click.option("--link", type=click.Choice(["nvlink", "pcie"]), help="What joins them.  [default: the GPU's]")
@click.option(
    "--gpus-per-host", type=options.SIZE, help="GPUs of one host.  [default: 8, or an NVLink domain]"
)
@click.option("--gpu-file", type=_FILE, metavar="FILE", help="TOML with GPUs and prices of your own.")
@click.option("--isl", type=options.SIZE, default=1000, show_default=True, help="Tokens of a prompt.")
@click.option("--osl", type=options.SIZE, default=1000, show_default=True, help="Tokens of an answer.")
@click.option("--concurrency", type=options.SIZE, help="Requests at once.  [default: as many as run]")
@click.option("--max-len", type=options.SIZE, help="Longest request that must fit.  [default: isl + osl]")
@click.option("--ttft-ms", type=_TIME, help="Most milliseconds to the first token.")
@click.option("--tpot-ms", type=_TIME, help="Most milliseconds a token after it.")
@click.option(
    "--goal",
    type=click.Choice(["throughput", "latency", "cost"]),
    default="throughput",
    show_default=True,
    help="Rank by tokens/s, by time a token, or by tokens/s a GPU.",
)
@click.option("--tp", "tp_sizes", type=options.SIZE, multiple=True, help="Only this tp; may be repeated.")
@click.option(
    "--pad/--no-pad", default=True, show_default=True, help="Allow padding where tp does not divide."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT",
    help="Only this format of weights, or none; repeatable.",
)
@click.option("--kv", "kv_dtypes", multiple=True, metavar="TYPE", help="Only this KV cache type; repeatable.")
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "pytorch"]),
    default="tensorrt",
    show_default=True,
    help="What would run it.",
)
@click.option("--trtllm", metavar="VERSION", help="Version of TensorRT-LLM that the formats must work in.")
@click.option(
    "--kv-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of the free memory for the KV cache.",
)
@click.option(
    "--alternative", "alternatives", multiple=True, metavar="MODEL", help="A smaller model to compare."
)
@click.option("--price", type=_TIME, help="Price of an hour of one GPU.")
@click.option(
    "--scale",
    type=_TIME,
    default=1.0,
    show_default=True,
    help="Multiply all estimates: your measured tokens/s / the estimate of that run.",
)
@click.option("--calibrate", metavar="RUN", help="Scale all estimates by a run of `tpforge bench`.")
@click.option("--estimator", metavar="PROGRAM", help="Ask aiconfigurator 0.12.0 too, by its program's path.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page of the plan.")
@click.option("--recipe", type=_FILE, metavar="FILE", help="Write the chosen option for `tpforge up`.")
@click.option("--all", "show_all", is_flag=True, help="List every option and every rejection.")
@options.FORCE
@options.JSON
@options.DEBUG
def command(
    model: str,
    alternatives: tuple[str, ...],
    goal: Literal["throughput", "latency", "cost"],
    calibrate: str | None,
    estimator: str | None,
    html: Path | None,
    recipe: Path | None,
    show_all: bool,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Plan a deployment from a config.json: memory, speed, options, a verdict.

    MODEL is the name of a known model (llama-3.3-70b), a Hugging Face directory, a config.json or a hub id.
    Nothing is downloaded for known models. Speeds are estimates; how far they are off is in docs/planning.md.
    Exit status 5 when nothing fits, 4 when no hardware could do what is asked; both name what would work.
    """
    from scripts.flows.plan import find_blueprint, recipe_text
    from scripts.reports.plan import plan_text
    from tpforge.atomic import write_atomic
    from tpforge.errors import InputRefused
    from tpforge.plan.calibration import calibration
    from tpforge.plan.choose import decide
    from tpforge.plan.record import plan_record

    output = Output(as_json=as_json)
    for path in (html, recipe):
        if path is not None and path.exists() and not force:
            raise InputRefused(f"{path}: exists already; use --force to replace it")
    blueprint = find_blueprint(model)
    cluster, ask = _wishes(values, goal=goal)
    fitted = calibration().scaled(values["scale"])
    if calibrate is not None:
        fitted = _calibrated(calibrate, blueprint, cluster, ask, fitted, output)
    plan = decide(
        blueprint,
        cluster,
        ask,
        goal=goal,
        calibration=fitted,
        alternatives=[find_blueprint(name) for name in alternatives],
    )
    fields = plan_record(plan).model_dump(mode="json")
    output.result(plan_text(plan, show_all=show_all))
    if estimator is not None:
        fields["second_opinion"] = _second_opinion(estimator, model, plan, output)
    output.record("deployment_plan", fields)
    if html is not None:
        write_atomic(html, _page(plan))
        output.note(f"wrote {html}")
    if recipe is not None:
        write_atomic(recipe, recipe_text(plan, model=model))
        output.note(f"wrote {recipe}")


def _second_opinion(program: str, model: str, plan: Plan, output: Output) -> dict[str, object]:
    from dataclasses import asdict

    from scripts.flows.plan import find_config
    from scripts.flows.second_opinion import ask, said

    output.progress(f"asking {program}")
    opinion = ask(program, plan, config=find_config(model).values)
    output.result(said(opinion, plan.chosen))
    return {"unavailable_because": opinion} if isinstance(opinion, str) else asdict(opinion)


def _page(plan: Plan) -> str:
    from scripts.reports.plan_page import plan_html

    return plan_html(plan)


def _wishes(values: dict[str, Any], *, goal: str) -> tuple[Cluster, Ask]:
    from tpforge.errors import InputRefused
    from tpforge.plan.hardware import find_gpu, make_cluster
    from tpforge.plan.options import Ask
    from tpforge.plan.throughput import Load

    own, prices = _own(values["gpu_file"])
    found = _host(own) if values["gpu"] == "host" else None
    gpu = found.gpu if found is not None else find_gpu(values["gpu"], own=own)
    if gpu.refusal is not None:
        raise InputRefused(f"{gpu.title}: {gpu.refusal}; use a GPU of compute capability 8.0 or later")
    cluster = make_cluster(
        gpu,
        num_gpus=values["num_gpus"] or (found.num_gpus if found is not None else 1),
        link=values["link"] or (found.link if found is not None else None),
        gpus_per_host=values["gpus_per_host"] or (found.gpus_per_host if found is not None else None),
    )
    concurrency = values["concurrency"] or (1 if goal == "latency" else None)
    load = Load(values["isl"], values["osl"], concurrency)
    ask = Ask(
        load=load,
        max_len=values["max_len"] or load.request_tokens,
        runtime=values["runtime"],
        version=values["trtllm"],
        ttft_ms=values["ttft_ms"],
        tpot_ms=values["tpot_ms"],
        tp_sizes=values["tp_sizes"],
        formats=_formats(values["formats"]),
        kv_dtypes=values["kv_dtypes"],
        pad=values["pad"],
        kv_fraction=values["kv_fraction"],
        price=values["price"] or prices.per_gpu_hour.get(gpu.name),
    )
    return cluster, ask


def _host(own: tuple[Gpu, ...]) -> Cluster:
    from engines.host import find_host
    from scripts.flows.plan_inputs import host_cluster

    return host_cluster(find_host(), own=own)


def _calibrated(
    run: str, blueprint: Blueprint, cluster: Cluster, ask: Ask, fitted: Calibration, output: Output
) -> Calibration:
    from scripts.flows.compare import find_run
    from scripts.flows.plan_inputs import calibrate

    scaled, said = calibrate(find_run(run).run, blueprint, cluster, ask, calibration=fitted)
    output.note(f"note: {said}")
    return scaled


def _own(path: Path | None) -> tuple[tuple[Gpu, ...], Prices]:
    from tpforge.plan.hardware import Prices, read_gpu_file

    return read_gpu_file(path) if path is not None else ((), Prices())


def _formats(given: tuple[str, ...]) -> tuple[str | None, ...]:
    """The formats; ``none`` and float types stand for weights as they are."""
    from tpforge.quantization import find_format

    plain = ("none", "float16", "bfloat16", "fp16", "bf16")
    return tuple(None if name in plain else find_format(name).name for name in given)
