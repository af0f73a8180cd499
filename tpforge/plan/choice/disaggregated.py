"""Prefill and decode on workers of their own: how many of each, and what that gives beside both in one.

It is modelled, and compared with no measurement. It plans no router; NVIDIA Dynamo is one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tpforge.plan.choice.choose import Plan
from tpforge.plan.options.listing import MAX_BATCH_SIZE
from tpforge.plan.options.option import Option
from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Batch, Engine, StepModel, largest_batch, speed_at

MOST_BUSY = 0.8
"""The share of its time that a prefill worker reads: a queue grows without end towards 1."""


@dataclass(frozen=True)
class Worker:
    """One engine that does one of the two: requests a second, and milliseconds a request (or a token) takes.

    `batch` requests are in it at once; a prefill worker reads one after the other.
    """

    option: Option
    requests_per_second: float
    milliseconds: float
    batch: int = 1


@dataclass(frozen=True)
class Disaggregation:
    """So many workers that read prompts, and so many that answer.

    `transfer_ms` moves the cache of a prompt from one to the other.
    """

    prefill: Worker
    num_prefill: int
    decode: Worker
    num_decode: int
    requests_per_second: float
    ttft_ms: float
    transfer_ms: float

    @property
    def num_gpus(self) -> int:
        """GPUs of all workers."""
        return (
            self.num_prefill * self.prefill.option.mapping.world_size
            + self.num_decode * self.decode.option.mapping.world_size
        )

    @property
    def label(self) -> str:
        """``3 x TP1 prefill + 1 x TP2 decode``."""
        return (
            f"{self.num_prefill} x {_sizes(self.prefill.option)} prefill + "
            f"{self.num_decode} x {_sizes(self.decode.option)} decode"
        )


def disaggregate(plan: Plan, *, fit: Fit) -> Disaggregation | None:
    """The most requests a second, each at least as fast for its user as the plan; None when no pair fits.

    Workers are of the plan's precision. A limit on the time to the first token is kept.
    """
    assert plan.chosen.speed is not None
    load = replace(plan.ask.load, concurrency=None, requests_per_second=None)
    tpot_ms = plan.chosen.speed.tpot_ms / plan.chosen.scale
    options = list(_engines(plan))
    readers = [_prefill_worker(one, engine, load, fit=fit) for one, engine in options]
    found = [_decode_worker(one, engine, load, tpot_ms=tpot_ms, fit=fit) for one, engine in options]
    answerers = [one for one in found if one is not None]
    pairs = [
        pair
        for reader in readers
        for answerer in answerers
        for pair in _pairs(reader, answerer, plan, fit=fit)
        if plan.ask.ttft_ms is None or pair.ttft_ms <= plan.ask.ttft_ms
    ]
    return max(pairs, key=lambda one: (one.requests_per_second, -one.num_gpus), default=None)


def _engines(plan: Plan) -> Iterator[tuple[Option, Engine]]:
    """One engine of every division at the plan's precision, though it may be too slow for both."""
    chosen = plan.chosen
    for one in plan.options:
        same = (one.precision, one.kv_dtype) == (chosen.precision, chosen.kv_dtype)
        if same and one.engine is not None:
            # Not held to the requests that a replica of the plan would have of the load.
            yield (
                one,
                replace(one.engine, settings=replace(one.engine.settings, max_batch_size=MAX_BATCH_SIZE)),
            )


def _prefill_worker(option: Option, engine: Engine, load: Load, *, fit: Fit) -> Worker:
    """It reads prompts one after the other."""
    seconds = StepModel(engine, fit).prefill(load).total / option.scale
    return Worker(option, 1 / seconds, 1e3 * seconds)


def _decode_worker(option: Option, engine: Engine, load: Load, *, tpot_ms: float, fit: Fit) -> Worker | None:
    """It reads of a prompt the last token; its batch is the largest that keeps `tpot_ms`."""
    answered = replace(load, prefix_hit=1.0)
    model, most = StepModel(engine, fit), largest_batch(engine, answered)
    assert most is not None, "an engine that was judged holds a request"

    def tpot(size: int) -> float:
        return speed_at(model, answered, batch=Batch(size, most.limit)).tpot_ms / option.scale

    # A hair more than the plan's: its own batch must not fail by rounding.
    size = bisect_right(range(1, most.size + 1), tpot_ms * (1 + 1e-9), key=tpot)
    if size == 0:
        return None
    return Worker(option, size * 1e3 / tpot(size) / load.output_tokens, tpot(size), size)


def _pairs(prefill: Worker, decode: Worker, plan: Plan, *, fit: Fit) -> Iterator[Disaggregation]:
    """For every number of prefill workers as many for decoding as the GPUs leave, and need."""
    each, other = prefill.option.mapping.world_size, decode.option.mapping.world_size
    for num_prefill in range(1, plan.cluster.num_gpus // each + 1):
        held = (plan.cluster.num_gpus - num_prefill * each) // other
        if held < 1:
            return
        read = MOST_BUSY * num_prefill * prefill.requests_per_second
        needed = min(held, -(-read // decode.requests_per_second))
        rate = min(read, needed * decode.requests_per_second)
        transfer_ms = _transfer_ms(prefill.option, decode.option, plan, fit=fit)
        busy = rate / (num_prefill * prefill.requests_per_second)
        # The mean wait of a queue with random arrivals and equal times (M/D/1, Pollaczek-Khinchine).
        waited = prefill.milliseconds * busy / (2 * (1 - busy))
        ttft_ms = fit.first_token.start_ms + waited + prefill.milliseconds + transfer_ms + decode.milliseconds
        yield Disaggregation(prefill, num_prefill, decode, int(needed), rate, ttft_ms, transfer_ms)


def _transfer_ms(prefill: Option, decode: Option, plan: Plan, *, fit: Fit) -> float:
    """Moving the cache of a prompt between two ranks: over the host's link, or the network between hosts."""
    cluster, tokens = plan.cluster, plan.ask.load.input_tokens
    sizes = [one.memory.layout.read_bytes(tokens) for one in (prefill, decode) if one.memory is not None]
    rate = cluster.link_gb_s * (fit.links.nvlink if cluster.link == "nvlink" else fit.links.pcie)
    if cluster.num_gpus > cluster.gpus_per_host:
        rate = cluster.host_link_gb_s * fit.links.hosts
    return max(sizes) / (rate * 1e9) * 1e3


def _sizes(option: Option) -> str:
    return option.label.partition(" x ")[0].partition(f" {option.precision}")[0]
