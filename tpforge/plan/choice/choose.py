"""The decision: which option, what instead, and why; the others with their reasons.

The order of the questions is fixed: one GPU, then fewer bits, then a smaller model, then more GPUs. Speed
alone never buys complexity: of options that are nearly as good the simplest is chosen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from tpforge.errors import InputRefused, NothingFits, PlanError
from tpforge.plan.choice.case import Advice
from tpforge.plan.choice.rules import advise
from tpforge.plan.hardware.gpus import Cluster, gpus, make_cluster
from tpforge.plan.memory.host import HostNeeds, host_needs
from tpforge.plan.options.frontier import FrontierPoint, frontier
from tpforge.plan.options.listing import list_options, with_replicas
from tpforge.plan.options.option import Ask, Option
from tpforge.plan.options.percentiles import Simulated, late_rejection, simulate_option
from tpforge.plan.speed.calibration import Calibration
from tpforge.quantization import find_format
from tpforge.shards.weights import Blueprint

Goal = Literal["throughput", "latency", "cost", "gpus"]
NEARLY = 0.10
"""Options this near the best count as equal: it is less than the error of any estimate."""
_MAX_GPUS = 64
_HOST = 8
"""GPUs of a host."""


@dataclass(frozen=True)
class Plan:
    """A decision for one model on one cluster; `instead` are the best options of the alternatives named.

    `frontier` is empty where the load or a limit was stated: then the choice is no matter of taste.
    `simulated` is of one replica of the chosen option.
    """

    blueprint: Blueprint
    cluster: Cluster
    ask: Ask
    goal: Goal
    chosen: Option
    options: tuple[Option, ...]
    instead: tuple[Option, ...]
    advice: tuple[Advice, ...]
    needs: HostNeeds
    simulated: Simulated
    frontier: tuple[FrontierPoint, ...] = ()

    @property
    def working(self) -> tuple[Option, ...]:
        """The options that work, the best first."""
        return rank_options([one for one in self.options if one.rejection is None], goal=self.goal)

    @property
    def undecided(self) -> tuple[Option, ...]:
        """Other options whose tokens/s lie within the band of the chosen one: their order may be chance.

        Those of other precision in doubt are left out, and all where speed is not what was ranked by.
        """
        band = self.chosen.band
        if band is None or self.goal not in ("throughput", "cost"):
            return ()
        best = _score(self.chosen, self.goal)
        return tuple(
            one
            for one in self.working
            if one is not self.chosen
            and _doubt(one) == _doubt(self.chosen)
            and band.low * best <= _score(one, self.goal) <= band.high * best
        )

    @property
    def rejected(self) -> tuple[Option, ...]:
        """The others."""
        return tuple(one for one in self.options if one.rejection is not None)


def check_ask(blueprint: Blueprint, ask: Ask) -> None:
    """Refuse what no hardware could change.

    Raises:
        InputRefused: a request is longer than the model's positions.
    """
    limit = blueprint.model.max_position_embeddings
    wanted = max(ask.max_len, ask.load.request_tokens)
    if wanted > limit:
        raise InputRefused(
            f"requests of {wanted} tokens exceed the {limit} positions of {blueprint.name}; "
            f"use {limit} or less (prompt and answer together), or a model with more"
        )


def decide(
    blueprint: Blueprint,
    cluster: Cluster,
    ask: Ask,
    *,
    goal: Goal,
    calibration: Calibration,
    alternatives: Sequence[Blueprint] = (),
) -> Plan:
    """The plan: the option that works and is best for `goal`, and those within its band, as undecided.

    Raises:
        InputRefused: the ask is impossible on any hardware of this kind: sharding, format, positions.
        NothingFits: no option works; names the nearest that does.
    """
    check_ask(blueprint, ask)
    options = list_options(blueprint, cluster, ask, calibration=calibration)
    options, simulated = _simulated(options, ask, goal=goal, calibration=calibration)
    working = [one for one in options if one.rejection is None]
    if simulated is None:
        raise _failure(
            blueprint, cluster, ask, options, goal=goal, calibration=calibration, alternatives=alternatives
        )
    chosen = rank_options(working, goal=goal)[0]
    instead = _instead(alternatives, cluster, ask, goal=goal, calibration=calibration)
    as_sure = [one for one in working if _doubt(one) <= _doubt(chosen)]
    return Plan(
        blueprint=blueprint,
        cluster=cluster,
        ask=ask,
        goal=goal,
        chosen=chosen,
        options=options,
        instead=instead,
        advice=advise(
            chosen,
            options,
            blueprint=blueprint,
            ask=ask,
            instead=instead,
            alternatives=alternatives,
            simulated=simulated,
        ),
        needs=host_needs(
            blueprint, mapping=chosen.mapping, dtype=chosen.dtype, weight_format=chosen.weight_format
        ),
        simulated=simulated,
        frontier=() if ask.states_load else frontier(as_sure, ask.load, calibration=calibration),
    )


def _simulated(
    options: tuple[Option, ...], ask: Ask, *, goal: Goal, calibration: Calibration
) -> tuple[tuple[Option, ...], Simulated | None]:
    """What users of the best option wait; at a rate, those whose queue breaks a limit are rejected.

    Where the fewest GPUs are asked for, one that breaks it gets as many replicas more as keep it.
    """
    while working := [one for one in options if one.rejection is None]:
        best = rank_options(working, goal=goal)[0]
        found = simulate_option(best, ask, fit=calibration.fit)
        late = late_rejection(ask, found)
        if late is None:
            return options, found
        other = _widened(best, ask, calibration=calibration) or replace(best, rejection=late)
        options = tuple(other if one is best else one for one in options)
    return options, None


def _widened(option: Option, ask: Ask, *, calibration: Calibration) -> Option | None:
    """The option with the fewest more replicas whose simulated waits keep the limits."""
    most = option.cluster.num_gpus // option.mapping.world_size
    if not ask.fewest_gpus or option.replicas >= most:
        return None

    def keeps(count: int) -> bool:
        wider = with_replicas(option, count, ask=ask, calibration=calibration)
        if wider.rejection is not None:
            return False
        return late_rejection(ask, simulate_option(wider, ask, fit=calibration.fit)) is None

    counts = range(option.replicas + 1, most + 1)
    index = bisect_left(counts, True, key=keeps)
    if index == len(counts):
        return None
    return with_replicas(option, counts[index], ask=ask, calibration=calibration)


def _instead(
    alternatives: Sequence[Blueprint], cluster: Cluster, ask: Ask, *, goal: Goal, calibration: Calibration
) -> tuple[Option, ...]:
    """The best option of each alternative that has one."""
    found = (best_option(one, cluster, ask, goal=goal, calibration=calibration) for one in alternatives)
    return tuple(one for one in found if one is not None)


def best_option(
    blueprint: Blueprint, cluster: Cluster, ask: Ask, *, goal: Goal, calibration: Calibration
) -> Option | None:
    """The option that would be chosen; None when none works."""
    if max(ask.max_len, ask.load.request_tokens) > blueprint.model.max_position_embeddings:
        return None
    found = weigh(blueprint, cluster, ask, goal=goal, calibration=calibration)
    return found[0] if found and found[0].rejection is None else None


def weigh(
    blueprint: Blueprint,
    cluster: Cluster,
    ask: Ask,
    *,
    goal: Goal,
    calibration: Calibration,
    wanted: Callable[[Option], bool] = lambda option: True,
) -> tuple[Option, ...]:
    """All wanted options: those that work, the best first, then the others."""
    options = list_options(blueprint, cluster, ask, calibration=calibration, wanted=wanted)
    if ask.limits_waits:
        options, _ = _simulated(options, ask, goal=goal, calibration=calibration)
    working = [one for one in options if one.rejection is None]
    return (*rank_options(working, goal=goal), *(one for one in options if one.rejection is not None))


def rank_options(options: Sequence[Option], *, goal: Goal) -> tuple[Option, ...]:
    """The best first, by the goal; of those nearly as good, the simplest.

    Before all: what upstream lists for the GPU, then what it leaves open, then fewer than 8 bits.
    """
    share = 1.0 if goal == "gpus" else 1 - NEARLY
    levels: dict[int, list[_Ranked]] = {}
    for one in options:
        levels.setdefault(_doubt(one), []).append((_score(one, goal), _complexity(one), one))
    return tuple(one for doubt in sorted(levels) for one in _in_order(levels[doubt], share=share))


_Ranked = tuple[float, tuple[int, int, int, bool, bool, bool], Option]
"""An option with its score and its complexity."""


def _in_order(level: list[_Ranked], *, share: float) -> Iterator[Option]:
    """Again and again the simplest of those whose score is at least `share` of the best that is left."""
    rest = sorted(level, key=lambda one: -one[0])
    while rest:
        near = takewhile(lambda one: one[0] >= share * rest[0][0], rest)
        index, _ = min(enumerate(near), key=lambda one: (one[1][1], -one[1][0]))
        yield rest.pop(index)[2]


def _doubt(option: Option) -> int:
    """2 for fewer than 8 bits, whose quality only a test on one's own prompts can price; 1 for unlisted."""
    if option.weight_format is not None and find_format(option.weight_format).weight_bits < 8:
        return 2
    return 1 if option.notes else 0


def _complexity(option: Option) -> tuple[int, int, int, bool, bool, bool]:
    mapping = option.mapping
    quantized_cache = option.kv_dtype != option.dtype.value
    return (
        mapping.world_size,
        mapping.pp_size,
        mapping.moe_ep_size,
        option.attention_dp,
        option.weight_format is not None,
        quantized_cache,
    )


def _score(option: Option, goal: Goal) -> float:
    """Higher is better."""
    assert option.speed is not None
    if goal == "latency":
        return 1e3 / option.speed.tpot_ms
    if goal == "gpus":
        return 1 / option.num_gpus
    return option.tokens_per_gpu if goal == "cost" else option.tokens_per_second


def _failure(
    blueprint: Blueprint,
    cluster: Cluster,
    ask: Ask,
    options: Sequence[Option],
    *,
    goal: Goal,
    calibration: Calibration,
    alternatives: Sequence[Blueprint],
) -> InputRefused | NothingFits:
    """The error for options none of which works, with what would."""
    reasons = _reasons(options)
    nearest = nearest_working(blueprint, cluster, ask, goal=goal, calibration=calibration)
    title = f"{blueprint.name} on {cluster.num_gpus} x {cluster.gpu.title}"
    lines = [f"{title}: no option works:", *(f"  {reason}" for reason in reasons)]
    lines += [f"  nearest that works: {text}" for text in nearest]
    for one in _instead(alternatives, cluster, ask, goal=goal, calibration=calibration):
        lines.append(f"  instead: {one.model}, {one.label}: about {one.tokens_per_second:.0f} tokens/s")
    text = "\n".join(lines)
    causes = {one.rejection.cause for one in options if one.rejection is not None}
    if causes == {"sharding"}:
        return PlanError(text)
    return InputRefused(text) if causes <= {"sharding", "format"} else NothingFits(text)


def _reasons(options: Sequence[Option]) -> list[str]:
    """One line for each cause and precision: that of the option that came nearest, the last one listed."""
    found: dict[tuple[str, str], str] = {}
    for one in options:
        assert one.rejection is not None
        key = (one.rejection.cause, "" if one.rejection.cause == "sharding" else one.precision)
        found[key] = one.rejection.reason if not key[1] else f"{one.label}: {one.rejection.reason}"
    return list(found.values())


def nearest_working(
    blueprint: Blueprint, cluster: Cluster, ask: Ask, *, goal: Goal, calibration: Calibration
) -> list[str]:
    """What to change so that it works: one thing each, the smallest change of its kind."""

    def best(where: Cluster, wish: Ask) -> Option | None:
        return best_option(blueprint, where, wish, goal=goal, calibration=calibration)

    found: list[str] = []
    narrowed = replace(ask, formats=(), kv_dtypes=(), tp_sizes=(), pad=True)
    if narrowed != ask and (option := best(cluster, narrowed)) is not None:
        found.append(f"{option.label} on the same GPUs")
    if option := _more_gpus(cluster, lambda where: best(where, ask)):
        found.append(f"{option.num_gpus} x {option.cluster.gpu.title}: {option.label}")
    if option := _another_gpu(cluster, lambda where: best(where, narrowed)):
        found.append(f"{option.num_gpus} x {option.cluster.gpu.title}: {option.label}")
    if not found:
        # Neither more of these nor as many of others: a host full of others.
        host = cluster.model_copy(update={"num_gpus": max(_HOST, cluster.num_gpus)})
        if option := _another_gpu(host, lambda where: best(where, narrowed)):
            found.append(f"{option.num_gpus} x {option.cluster.gpu.title}: {option.label}")
    shorter = replace(ask, max_len=0, ttft_ms=None, tpot_ms=None, load=replace(ask.load, concurrency=1))
    if not found and (option := best(cluster, shorter)) is not None:
        found.append(f"without the limits on length and latency: {option.label}")
    return found


def _more_gpus(cluster: Cluster, best: Callable[[Cluster], Option | None]) -> Option | None:
    count = cluster.num_gpus
    while (count := count * 2) <= _MAX_GPUS:
        if option := best(cluster.model_copy(update={"num_gpus": count})):
            return option
    return None


def _another_gpu(cluster: Cluster, best: Callable[[Cluster], Option | None]) -> Option | None:
    """The GPU with the least memory on as many GPUs."""
    larger = [
        gpu
        for gpu in gpus()
        if gpu.refusal is None
        and gpu.name != cluster.gpu.name
        and gpu.memory_bytes >= cluster.gpu.memory_bytes
    ]
    for gpu in sorted(larger, key=lambda one: (one.memory_bytes, one.bandwidth_gb_s)):
        if option := best(make_cluster(gpu, num_gpus=cluster.num_gpus)):
            return option
    return None
