"""A plan composed: the model, this host's GPUs or others, estimates scaled by a run, and `tpforge.plan`.

It prints nothing; the pages are `scripts.reports.plan`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builders.blueprint import find_blueprint
from scripts.flows.planning.gpu_file import read_gpu_file
from scripts.flows.planning.known_gpus import known_gpus
from tpforge.errors import InputRefused, NothingFits, UsageError
from tpforge.plan.choice.choose import Plan, decide
from tpforge.plan.choice.picker import Pick, pick_gpus
from tpforge.plan.hardware.gpus import Cluster, Gpu, Prices, find_gpu, make_cluster
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.simulation import Request
from tpforge.plan.speed.speculation import Drafts
from tpforge.progress import Progress
from tpforge.quantization import find_format
from tpforge.runtime import Runtime
from tpforge.shards.weights import Blueprint
from tpforge.trtllm.architectures import pytorch_only

HOST = "host"
"""The name of --gpu that stands for the GPUs of this host."""
Goal = Literal["throughput", "latency", "cost", "gpus"]
WISHED_TPOT_MS = 40.0
"""The time per token of the operating point without a load and limits: 25 tokens/s for each user.

Source: MLPerf Inference 5.0, Llama 2 70B Interactive: 40 ms per token in 99 of 100 requests.
"""


@dataclass(frozen=True)
class GpuWishes:
    """Which GPUs, in the words of `tpforge plan --help`; None leaves it to the kind of GPU or the host."""

    gpu: str
    num_gpus: int | None = None
    link: Literal["nvlink", "pcie"] | None = None
    gpus_per_host: int | None = None
    gpu_file: Path | None = None


@dataclass(frozen=True)
class LoadWishes:
    """What is asked of them; None is no limit, or what follows from the rest, and an empty choice is all.

    `requests` are those of a trace.
    """

    isl: int = 1000
    osl: int = 1000
    concurrency: int | None = None
    rate: float | None = None
    saturated: bool = False
    min_gpus: bool = False
    prefix_hit: float = 0.0
    draft_tokens: int = 0
    acceptance: float | None = None
    max_len: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    tp_sizes: tuple[int, ...] = ()
    pad: bool = True
    formats: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    runtime: Literal["tensorrt", "pytorch"] | None = None
    trtllm: str | None = None
    kv_fraction: float = 0.9
    price: float | None = None
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True)
class PlanWishes:
    """All that a plan is made of; `scale` multiplies its estimates, `calibrate` is a run that scales them.

    `describe` is a file of sizes, where config.json is of an architecture that is not known.
    """

    model: str
    gpus: GpuWishes
    load: LoadWishes
    goal: Goal = "throughput"
    alternatives: tuple[str, ...] = ()
    scale: float = 1.0
    calibrate: str | None = None
    describe: Path | None = None


def plan(wishes: PlanWishes, *, note: Progress) -> Plan:
    """The deployment of a model that suits best, with all that was weighed; `note` is told of the scale.

    Raises:
        InputRefused: model, GPU, format or run is wrong or not known.
        EnvironmentUnusable: the GPUs of this host are meant, and it has none.
        NothingFits: no option does what is asked.
    """
    blueprint = find_blueprint(wishes.model, describe=wishes.describe)
    others = [find_blueprint(name) for name in wishes.alternatives]
    if blueprint.name in {one.name for one in others}:
        raise UsageError(f"--alternative {blueprint.name} is the model itself; name another one")
    for warning in dict.fromkeys(warning for one in (blueprint, *others) for warning in one.warnings):
        note(warning)
    cluster, prices = _cluster(wishes.gpus)
    ask = _ask(
        wishes.load,
        blueprints=[blueprint, *others],
        goal=wishes.goal,
        prices=prices,
        gpu=cluster.gpu.name,
    )
    fitted = calibration().scaled(wishes.scale)
    if wishes.calibrate is not None:
        from tpforge.measure.runs.found_runs import find_run
        from tpforge.plan.options.scaled_by_run import calibrate

        run = find_run(wishes.calibrate).run
        fitted, scaled = calibrate(run, blueprint, cluster, ask, calibration=fitted)
        note(scaled)
    return decide(
        blueprint,
        cluster,
        ask,
        goal="gpus" if wishes.load.min_gpus else wishes.goal,
        calibration=fitted,
        alternatives=others,
    )


@dataclass(frozen=True)
class Picked:
    """What a model is called, and of every kind of GPU the fewest that do what is asked, or why none do.

    `currency` is that of the prices; empty where none is stated.
    """

    model: str
    picks: tuple[Pick, ...]
    currency: str


def pick(
    model: str,
    load: LoadWishes,
    *,
    goal: Goal,
    budget: float | None,
    gpu_file: Path | None,
    describe: Path | None = None,
) -> Picked:
    """Of every kind of GPU the fewest that do what is asked of a model.

    Raises:
        UsageError: there is a budget and no price.
        InputRefused: the model or the file is wrong or not known.
        NothingFits: no kind does it.
    """
    kinds, prices = known_gpus(gpu_file)
    if budget is not None and not prices.per_gpu_hour:
        raise UsageError(
            "--budget needs prices: give --gpu-file FILE with [per_gpu_hour], a price for each GPU"
        )
    blueprint = find_blueprint(model, describe=describe)
    ask = _ask(load, blueprints=[blueprint], goal=goal, prices=prices)
    picks = pick_gpus(
        blueprint, kinds, ask, goal=goal, calibration=calibration(), prices=prices, budget=budget
    )
    if all(one.option is None for one in picks):
        reasons: dict[str, list[str]] = {}
        for one in picks:
            reasons.setdefault(one.reason or "", []).append(one.gpu.name)
        lines = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
        raise NothingFits("\n  ".join([f"{model}: no kind of GPU meets what is asked:", *lines]))
    return Picked(blueprint.name, picks, prices.currency)


def _host(own: tuple[Gpu, ...]) -> Cluster:
    """The GPUs of this host."""
    from engines.host import find_host
    from engines.host_cluster import host_cluster

    return host_cluster(find_host(), own=own)


def _cluster(wishes: GpuWishes) -> tuple[Cluster, Prices]:
    own, prices = read_gpu_file(wishes.gpu_file) if wishes.gpu_file is not None else ((), Prices())
    found = _host(own) if wishes.gpu == HOST else None
    gpu = found.gpu if found is not None else find_gpu(wishes.gpu, own=own)
    if gpu.refusal is not None:
        raise InputRefused(f"{gpu.title}: {gpu.refusal}; use a GPU of compute capability 8.0 or later")
    cluster = make_cluster(
        gpu,
        num_gpus=wishes.num_gpus or (found.num_gpus if found is not None else 1),
        link=wishes.link or (found.link if found is not None else None),
        gpus_per_host=wishes.gpus_per_host or (found.gpus_per_host if found is not None else None),
    )
    return cluster, prices


def _runtime(wished: Runtime | None, blueprints: list[Blueprint]) -> Runtime:
    """The runtime that is asked for, else the first that all the models have."""
    for one in blueprints:
        if wished is not None and wished not in one.runtimes:
            advice = (
                pytorch_only(one.model.architecture)
                or "TensorRT engines are not made of its weights as stored"
            )
            raise InputRefused(f"{one.name}: --runtime {wished}: {advice}; use --runtime pytorch")
    if wished is not None:
        return wished
    return next(one for one in blueprints[0].runtimes if all(one in each.runtimes for each in blueprints))


def _ask(
    wishes: LoadWishes, *, blueprints: list[Blueprint], goal: Goal, prices: Prices, gpu: str | None = None
) -> Ask:
    _check_load(wishes)
    alone = goal == "latency" and wishes.rate is None and not wishes.saturated
    load = Load(
        wishes.isl,
        wishes.osl,
        wishes.concurrency or (1 if alone else None),
        requests_per_second=wishes.rate,
        prefix_hit=wishes.prefix_hit,
        drafts=Drafts(wishes.draft_tokens, wishes.acceptance or 0.0),
    )
    return Ask(
        load=load,
        max_len=wishes.max_len or load.request_tokens,
        runtime=_runtime(wishes.runtime, blueprints),
        version=wishes.trtllm,
        ttft_ms=wishes.ttft_ms,
        tpot_ms=wishes.tpot_ms,
        wished_tpot_ms=None if wishes.saturated else WISHED_TPOT_MS,
        fewest_gpus=wishes.min_gpus,
        tp_sizes=wishes.tp_sizes,
        formats=_formats(wishes.formats),
        kv_dtypes=wishes.kv_dtypes,
        pad=wishes.pad,
        kv_fraction=wishes.kv_fraction,
        price=wishes.price or (None if gpu is None else prices.per_gpu_hour.get(gpu)),
        currency="" if wishes.price else prices.currency,
        requests=wishes.requests,
    )


def _check_load(wishes: LoadWishes) -> None:
    """Refuse options that say different things of the load."""
    stated = {
        "--concurrency": wishes.concurrency is not None,
        "--rate": wishes.rate is not None,
        "--saturated": wishes.saturated,
    }
    given = [name for name, is_given in stated.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each state the load; give one of them")
    if bool(wishes.draft_tokens) != (wishes.acceptance is not None):
        raise UsageError(
            "--draft-tokens and --acceptance belong together: how many tokens are drafted for a step, and "
            "which share of them your own prompts accept"
        )
    limits = {"--ttft-ms": wishes.ttft_ms, "--tpot-ms": wishes.tpot_ms}
    if wishes.saturated and (kept := [name for name, limit in limits.items() if limit is not None]):
        raise UsageError(f"--saturated runs all that fit, however slow each is; leave it or {kept[0]} out")
    request = wishes.isl + wishes.osl
    if wishes.max_len is not None and wishes.max_len < request and not wishes.requests:
        raise UsageError(
            f"--max-len {wishes.max_len} is shorter than a request of {request} tokens (--isl and --osl "
            f"together); give at least {request}"
        )
    if wishes.min_gpus and not (wishes.rate or wishes.concurrency):
        raise UsageError("--min-gpus needs the load that must be served; give --rate or --concurrency")


def _formats(given: tuple[str, ...]) -> tuple[str | None, ...]:
    """The formats; ``none`` and float types stand for weights as they are."""
    plain = ("none", "float16", "bfloat16", "fp16", "bf16")
    return tuple(None if name in plain else find_format(name).name for name in given)
