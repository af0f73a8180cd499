"""Estimates scaled by a run of one's own, so that they give what it measured.

It measures and plans nothing: the run's level is estimated as any option is, and the ratio is the scale.
"""

from __future__ import annotations

from tpforge.errors import InputRefused
from tpforge.measure.runs.engine_facts import formats_of
from tpforge.measure.runs.run import Level, Run
from tpforge.plan.hardware.gpus import Cluster
from tpforge.plan.options.listing import list_options
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import Calibration
from tpforge.plan.speed.load import Load
from tpforge.shards.weights import Blueprint

_THROUGHPUT = "output_token_throughput"


def calibrate(
    run: Run, blueprint: Blueprint, cluster: Cluster, ask: Ask, *, calibration: Calibration
) -> tuple[Calibration, str]:
    """`calibration` scaled so that it gives what `run` measured, and a line that says how.

    The run's busiest closed level is estimated with its own tp, pp, precision and lengths on `cluster`'s
    GPUs.

    Raises:
        InputRefused: the run is not of TensorRT-LLM, of another model or GPU, or lacks what is needed.
    """
    level = _busiest(run)
    measured = level.metrics[_THROUGHPUT].avg
    tp, pp = _integer(run, "tp"), _integer(run, "pp")
    _check(run, blueprint, cluster)
    weights, kv = formats_of(run.engine)
    lengths = [round(level.metrics[f"{side}_sequence_length"].avg) for side in ("input", "output")]
    wish = Ask(
        Load(max(1, lengths[0]), max(1, lengths[1]), level.concurrency),
        max_len=sum(lengths),
        runtime=ask.runtime,
        tp_sizes=(tp,),
        formats=(weights,),
        kv_dtypes=(kv,) if kv else (),
    )
    options = list_options(
        blueprint, cluster.model_copy(update={"num_gpus": tp * pp}), wish, calibration=calibration
    )
    same = [one for one in options if one.speed is not None and one.mapping.pp_size == pp]
    if not same:
        raise InputRefused(f"--calibrate: the plan rejects the run's tp={tp} pp={pp} works")
    estimated = same[0].tokens_per_second
    factor = measured / estimated
    said = (
        f"{run.id}: {measured:.0f} tokens/s measured, {estimated:.0f} estimated: all estimates x {factor:.2f}"
    )
    return calibration.scaled(factor), said


def _busiest(run: Run) -> Level:
    needed = (_THROUGHPUT, "input_sequence_length", "output_sequence_length")
    levels = [
        level
        for level in run.levels
        if level.concurrency is not None and all(name in level.metrics for name in needed)
    ]
    if not levels:
        raise InputRefused(f"--calibrate: {run.id} has no level of fixed concurrency with counted tokens")
    return max(levels, key=lambda level: level.metrics[_THROUGHPUT].avg)


def _integer(run: Run, name: str) -> int:
    value = run.engine[name].value
    if not isinstance(value, int):
        because = run.engine[name].unavailable_because or f"found {value!r}"
        raise InputRefused(f"--calibrate: {run.id} does not know its {name} ({because})")
    return value


def _check(run: Run, blueprint: Blueprint, cluster: Cluster) -> None:
    problems = []
    runtime = run.engine["runtime"].value
    if runtime not in ("tensorrt", "pytorch"):
        problems.append(f"its runtime is {runtime}, which says nothing of TensorRT-LLM's speed")
    model = str(run.engine["model"].value or "")
    if blueprint.name.lower() not in model.lower():
        problems.append(f"its model is {model or 'unknown'}, the plan is of {blueprint.name}")
    gpu = str(run.environment["gpu"].value or "")
    wanted = (cluster.gpu.driver_name, cluster.gpu.name, cluster.gpu.title)
    if not any(name is not None and name.lower() in gpu.lower() for name in wanted):
        problems.append(f"its GPU is {gpu or 'unknown'}, the plan is of {cluster.gpu.title}")
    if problems:
        raise InputRefused.listing(f"--calibrate: {run.id} cannot scale this plan:", problems)
