"""`tpforge plan`: which deployment of a model on given GPUs, what it needs, how fast it would be, and why."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import COUNT, DEBUG, DESCRIBE, FORCE, JSON, MODEL, SIZE, VERSION, Amount
from scripts.cli.options.load import ABOVE_ZERO, ISL, MAX_LEN, OSL, RATE, SATURATED, TPOT_MS, TTFT_MS
from scripts.cli.output import Output
from tpforge.errors import InputRefused, UsageError
from tpforge.outputs.atomic import write_atomic

if TYPE_CHECKING:
    from tpforge.plan.choice.choose import Plan

_FILE = click.Path(path_type=Path)


@click.command("plan")
@MODEL
@click.option(
    "--gpu", required=True, metavar="NAME", help="The kind of GPU, such as h100-sxm; `host`: this host's."
)
@click.option("--gpus", "num_gpus", type=SIZE, help="How many GPUs.  [default: 1, or the host's]")
@click.option("--link", type=click.Choice(["nvlink", "pcie"]), help="What joins them.  [default: the GPU's]")
@click.option("--gpus-per-host", type=SIZE, help="GPUs of one host.  [default: 8, or an NVLink domain]")
@click.option("--gpu-file", type=_FILE, metavar="FILE", help="TOML with GPUs and prices of your own.")
@ISL
@OSL
@click.option(
    "--trace",
    type=_FILE,
    metavar="FILE",
    help="JSONL of requests: its lengths and rate, instead of --isl, --osl.",
)
@click.option("--concurrency", type=SIZE, help="Requests at once.  [default: the most within the limits]")
@RATE
@SATURATED
@click.option("--min-gpus", is_flag=True, help="Choose the fewest of the GPUs that do what is asked.")
@click.option(
    "--prefix-hit",
    type=Amount(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of a prompt that the KV cache holds already (modelled).",
)
@click.option(
    "--draft-tokens", type=COUNT, default=0, help="Tokens drafted for a step: speculation (modelled)."
)
@click.option(
    "--acceptance",
    type=Amount(0, 1, max_open=True),
    help="Share of drafted tokens that are accepted, of your own prompts.",
)
@MAX_LEN
@TTFT_MS
@TPOT_MS
@click.option(
    "--goal",
    type=click.Choice(["throughput", "latency", "cost"]),
    default="throughput",
    show_default=True,
    help="Rank by tokens/s, by time per token, or by tokens/s per GPU.",
)
@click.option("--tp", "tp_sizes", type=SIZE, multiple=True, help="Only this tp; may be repeated.")
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
    help="What would run it.  [default: tensorrt, where the model has it]",
)
@click.option(
    "--trtllm", type=VERSION, metavar="VERSION", help="Version of TensorRT-LLM that the formats must work in."
)
@click.option(
    "--kv-fraction",
    type=Amount(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of the free memory for the KV cache.",
)
@click.option(
    "--alternative", "alternatives", multiple=True, metavar="MODEL", help="A smaller model to compare."
)
@click.option("--price", type=ABOVE_ZERO, help="Price of an hour of one GPU.")
@click.option(
    "--scale",
    type=ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="Multiply all estimates: your measured tokens/s / the estimate of that run.",
)
@click.option("--calibrate", metavar="RUN", help="Scale all estimates by a run of `tpforge bench`.")
@click.option("--disaggregated", is_flag=True, help="Show prefill and decode on GPUs of their own, too.")
@click.option(
    "--estimator",
    metavar="PROGRAM",
    help="Ask aiconfigurator 0.12.0 too, by its program's path (deprecated upstream for aisimulate).",
)
@DESCRIBE
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page of the plan.")
@click.option("--recipe", type=_FILE, metavar="FILE", help="Write the chosen option for `tpforge up`.")
@click.option("--all", "show_all", is_flag=True, help="List every option and every rejection.")
@FORCE
@JSON
@DEBUG
def command(
    model: str,
    trace: Path | None,
    disaggregated: bool,
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
    from scripts.flows.plan import GpuWishes, LoadWishes, PlanWishes, plan
    from scripts.reports.plan import plan_text

    output = Output(as_json=as_json)
    if html is not None and recipe is not None and html.absolute() == recipe.absolute():
        raise UsageError(f"--html and --recipe both name {html}; give each a file of its own")
    for path in (html, recipe):
        if path is not None and path.exists() and not force:
            raise InputRefused(f"{path}: exists already; use --force to replace it")
    gpus = GpuWishes(**{field.name: values.pop(field.name) for field in fields(GpuWishes)})
    load = LoadWishes(**{one.name: values.pop(one.name) for one in fields(LoadWishes) if one.name in values})

    def note(said: str) -> None:
        output.note(f"note: {said}")

    if trace is not None:
        from scripts.flows.planning.plan_trace import with_trace

        load = with_trace(load, _only(trace), note=note)
    wishes = PlanWishes(model, gpus, load, **values)
    chosen = plan(wishes, note=note)
    record = _record(chosen) if as_json else {}
    output.result(plan_text(chosen, show_all=show_all))
    if disaggregated:
        record["disaggregated"] = _apart(chosen, output)
    if estimator is not None:
        record["second_opinion"] = _second_opinion(estimator, model, chosen, output)
    output.record("deployment_plan", record)
    if html is not None:
        write_atomic(html, _page(chosen))
        output.note(f"wrote {html}")
    if recipe is not None:
        from scripts.flows.planning.plan_recipe import recipe_text

        write_atomic(recipe, recipe_text(chosen, model=model, path=recipe, describe=wishes.describe))
        output.note(f"wrote {recipe}")


def _record(plan: Plan) -> dict[str, object]:
    from tpforge.plan.record import plan_record

    return plan_record(plan).model_dump(mode="json")


def _only(trace: Path) -> Path:
    """The trace, where no length is stated beside it."""
    context = click.get_current_context()
    stated = [
        f"--{name}"
        for name in ("isl", "osl")
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if stated:
        raise UsageError(f"--trace states the lengths; leave out {' and '.join(stated)}")
    return trace


def _apart(plan: Plan, output: Output) -> dict[str, object] | None:
    from scripts.reports.plan_apart import apart_fields, apart_text
    from tpforge.plan.choice.disaggregated import disaggregate
    from tpforge.plan.speed.calibration import calibration

    found = disaggregate(plan, fit=calibration().fit)
    output.result("\n" + apart_text(plan, found))
    return None if found is None else apart_fields(found)


def _second_opinion(program: str, model: str, plan: Plan, output: Output) -> dict[str, object]:
    from builders.blueprint import find_config
    from scripts.flows.planning.second_opinion import ask, said

    output.progress(f"asking {program}")
    opinion = ask(program, plan, config=find_config(model).values)
    output.result(said(opinion, plan.chosen))
    return {"unavailable_because": opinion} if isinstance(opinion, str) else asdict(opinion)


def _page(plan: Plan) -> str:
    from scripts.reports.plan_page import plan_html

    return plan_html(plan)
