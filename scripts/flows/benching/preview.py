"""What a measurement would do and what it could see, before a request is sent: `tpforge bench --dry-run`.

It asks no server. How long requests will take is not known, so that times are the least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from statistics import stdev

from scripts.flows.benching.plan import Asked, BenchOptions, plan_bench
from tpforge.measure.comparison.power import smallest_change
from tpforge.measure.comparison.verdicts import ALPHA, PRIMARY_SHARE
from tpforge.measure.runs.metrics import NUM_FOR_TAIL
from tpforge.measure.runs.run import Run, read_run
from tpforge.units import counted

ASSUMED_NOISE = (0.01, 0.02, 0.05, 0.1)
"""Of a repeat's tokens/s, where no run tells: a quiet machine to a busy one."""


@dataclass(frozen=True)
class Seen:
    """The change of tokens/s that two such runs, measured in turns, would show in four of five comparisons.

    `noise` is how much one repeat varies, and `smallest` the change, both as shares; None: none is seen.
    """

    noise: float
    smallest: float | None
    where: str


@dataclass(frozen=True)
class Preview:
    """A measurement that was not made; `least_s` is None where a number of requests ends a repeat."""

    url: str
    loads: tuple[str, ...]
    num_repeats: int
    num_earlier: int
    repeat: str
    prompts: str
    least_s: float | None
    num_for_p95: int
    seen: tuple[Seen, ...]


def preview_bench(url: str | None, options: BenchOptions) -> Preview:
    """The plan of a measurement, and the smallest change that a comparison of two such runs would see.

    With `join` the noise is that of the run, and its repeats count.

    Raises:
        UsageError: options that exclude each other, or that need what is not known.
        InputRefused: prompts, trace, tokenizer or the run to join are wrong.
    """
    asked = plan_bench(url, options)
    earlier = read_run(options.join) if options.join is not None else None
    plan = asked.plan
    num_earlier = earlier.workload.num_repeats if earlier is not None else 0
    extent = plan.extent
    least_s = None
    if extent.duration_s is not None and extent.num_requests is None:
        least_s = len(plan.loads) * plan.num_repeats * extent.until_s
    return Preview(
        url=asked.server.url,
        loads=tuple(load.name for load in plan.loads),
        num_repeats=plan.num_repeats,
        num_earlier=num_earlier,
        repeat=_repeat(asked),
        prompts=_prompts(asked, options.prompts),
        least_s=least_s,
        num_for_p95=NUM_FOR_TAIL * 20,
        seen=_seen(plan.num_repeats + num_earlier, earlier, len(plan.loads)),
    )


def _repeat(asked: Asked) -> str:
    extent = asked.plan.extent
    ends = []
    if extent.num_requests is not None:
        ends.append(counted(extent.num_requests, "request"))
    if extent.duration_s is not None:
        ends.append(f"{extent.duration_s:g} s")
    end = " or ".join(ends) or "the whole trace"
    if extent.num_requests is None and extent.duration_s is not None and _asks_passes(asked):
        end += f" and the pass over the prompts that has begun then, at most {2 * extent.duration_s:g} s"
    return f"{extent.warmup_s:g} s of warmup, then {end}"


def _asks_passes(asked: Asked) -> bool:
    return asked.plan.fresh is None and asked.trace is None


def _prompts(asked: Asked, given: str | None) -> str:
    plan, name = asked.plan, asked.choice.name
    if asked.trace is not None:
        return f"{len(plan.prompts)} of the trace, in its order"
    if plan.fresh is not None:
        return f"{len(plan.prompts)} new ones of {asked.choice.isl} tokens in every repeat"
    state = ", each asked once before" if plan.warm else ""
    return f"{len(plan.prompts)} of {given or name} in whole passes, shuffled{state}"


def _seen(num_repeats: int, earlier: Run | None, num_loads: int) -> tuple[Seen, ...]:
    """By the share of the level that a comparison gives its primary metric at each load."""
    smallest = partial(_smallest, num_repeats, alpha=ALPHA * PRIMARY_SHARE / num_loads)
    found = []
    for level in earlier.levels if earlier is not None else ():
        speed = level.metrics.get("output_token_throughput")
        values = speed.repeats.get("avg", ()) if speed is not None else ()
        if len(values) > 1 and min(values) > 0:
            noise = stdev(map(math.log, values))
            found.append(Seen(noise, smallest(noise), f"measured at {level.name}"))
    assumed = (Seen(noise, smallest(noise), "assumed") for noise in ASSUMED_NOISE)
    return tuple(found or assumed)


def _smallest(num_repeats: int, noise: float, *, alpha: float) -> float | None:
    return smallest_change(num_repeats, noise=noise, alpha=alpha) if num_repeats > 1 else None
