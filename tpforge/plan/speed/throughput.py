"""How fast a deployment answers: a roofline of every step, communication, and batches that the cache limits.

A step of in-flight batching gives each running request one token and takes in the prompts that keep the batch
full. What the roofline cannot know (how much of the peak is reached, the overheads) comes from the
calibration.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

from tpforge.plan.hardware.communication import (
    allreduce_seconds,
    exchange_seconds,
    gather_seconds,
    send_seconds,
)
from tpforge.plan.hardware.gpus import Cluster
from tpforge.plan.memory.rank import RankMemory, Settings
from tpforge.plan.speed.attention import attention_work
from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.experts import sent_bytes
from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.products import StageProducts, runs_on
from tpforge.plan.speed.speculation import NO_DRAFTS, Drafts
from tpforge.shards.weights import RankShapes, StageWork, stage_work


@dataclass(frozen=True)
class Engine:
    """One replica: its ranks, their memory, its GPUs and settings."""

    shapes: RankShapes
    memory: RankMemory
    cluster: Cluster
    settings: Settings


class StepTime(NamedTuple):
    """Seconds of one step of a replica, by what takes them. A plan makes many: a named tuple costs least."""

    linear: float
    attention: float
    communication: float
    overhead: float

    @property
    def total(self) -> float:
        """Seconds of all parts, one after another: no overlap is assumed."""
        return self.linear + self.attention + self.communication + self.overhead

    def times(self, factor: float) -> StepTime:
        """A multiple."""
        return StepTime(
            linear=factor * self.linear,
            attention=factor * self.attention,
            communication=factor * self.communication,
            overhead=factor * self.overhead,
        )

    def plus(self, other: StepTime, *, times: float) -> StepTime:
        """With `times` another."""
        return StepTime(
            linear=self.linear + times * other.linear,
            attention=self.attention + times * other.attention,
            communication=self.communication + times * other.communication,
            overhead=self.overhead + times * other.overhead,
        )


Limit = Literal["concurrency", "rate", "latency limit", "operating point", "KV cache", "max batch size"]


@dataclass(frozen=True)
class Batch:
    """Requests that run at once, and what keeps them from being more."""

    size: int
    limit: Limit


@dataclass(frozen=True)
class Speed:
    """What a replica does with `batch` requests running at once.

    Tokens a second are output tokens. `limit` says what keeps the batch from being larger.
    """

    batch: int
    limit: Limit
    tokens_per_second: float
    ttft_ms: float
    tpot_ms: float
    communication_share: float


def speed(engine: Engine, load: Load, *, fit: Fit) -> Speed | None:
    """The speed of one replica under `load`, unscaled; None when not even one request fits its cache."""
    batch = largest_batch(engine, load)
    return None if batch is None else speed_at(StepModel(engine, fit), load, batch=batch)


def largest_batch(engine: Engine, load: Load) -> Batch | None:
    """The most requests of `load` that run at once; None when not even one fits the cache."""
    fitting = engine.memory.max_requests(load.request_tokens)
    if fitting < 1:
        return None
    stages = engine.shapes.mapping.pp_size
    most = engine.settings.max_batch_size * engine.memory.cache_groups * stages
    limits = [Batch(fitting, "KV cache"), Batch(most, "max batch size")]
    if load.concurrency is not None:
        limits.insert(0, Batch(load.concurrency, "concurrency"))
    return min(limits, key=lambda one: one.size)


def speed_at(model: StepModel, load: Load, *, batch: Batch) -> Speed:
    """The speed with exactly that many requests running; those of `load` beyond them wait.

    TTFT: a fixed start, the prompt, the prompts that came before it with the steps between, and for those
    that wait the answers of as many batches. TPOT: a step over the tokens that it gives a request.
    """
    step, without = model.steps(batch.size, load)
    # Of all prompts that are read while a request is answered, none is its own.
    others = step.total - (step.total - without.total) / batch.size
    waiting = max(0, (load.concurrency or batch.size) - batch.size)
    prefill = model.prefill(load)
    steps = load.output_tokens / load.drafts.tokens_per_step
    first = model.fit.first_token
    # Others' prompts that came first are read before, and steps of the running batch go on between.
    among = prefill.total * first.ahead * (batch.size - 1) + first.steps * step.total * (1 - 1 / batch.size)
    queued = waiting / batch.size * steps * step.total
    ttft = first.start_ms / 1e3 + prefill.total + among + queued
    return Speed(
        batch=batch.size,
        limit=batch.limit,
        tokens_per_second=_tokens_per_second(model, load, batch=batch.size, step=step.total),
        ttft_ms=1e3 * ttft,
        tpot_ms=1e3 * others / load.drafts.tokens_per_step,
        communication_share=step.communication / step.total,
    )


def _tokens_per_second(model: StepModel, load: Load, *, batch: int, step: float) -> float:
    """Of a load that goes on; of a test that ends, in waves of `batch` requests and a smaller last one."""
    per_step = load.drafts.tokens_per_step
    if load.num_requests is None:
        return batch * per_step / step
    waves, rest = divmod(load.num_requests, batch)
    seconds = waves * load.output_tokens / per_step * step
    if rest:
        seconds += load.output_tokens / per_step * model.step(rest, load).total
    return load.num_requests * load.output_tokens / seconds


class StepModel:
    """The time of steps of one replica."""

    def __init__(self, engine: Engine, fit: Fit) -> None:
        self.engine = engine
        self.fit = fit
        shapes, settings = engine.shapes, engine.settings
        works: Counter[StageWork] = Counter()
        for stage, count in shapes.stages.items():
            work = stage_work(shapes, stage=stage, dtype=settings.dtype, weight_format=settings.weight_format)
            works[work] += count
        gpu, held = engine.cluster.gpu, settings.weight_format
        # What is asked of every step, and stages with the same work, once.
        self._groups = shapes.cache_groups
        self._stages = {
            StageProducts(work, shapes, gpu=gpu, weight_format=held, fit=fit): count
            for work, count in works.items()
        }
        self._pp_size = shapes.mapping.pp_size
        self._slowest = tuple(_slowest(self._stages))
        self._layers = max(1, shapes.model.num_layers / self._pp_size)
        self._expert_layers = shapes.num_expert_layers
        self._scores = attention_work(shapes)
        self._sent_as = runs_on(held, gpu=gpu)
        self._bandwidth = gpu.bandwidth_gb_s * 1e9 * fit.bandwidth_share(gpu)
        self._flops = gpu.peak_flops("float") * fit.attention_share
        self._alone: dict[tuple[int, int], StepTime] = {}

    def step(self, batch: int, load: Load) -> StepTime:
        """The mean step: `batch` requests get their tokens, and prompts of those that follow are read."""
        mean, _ = self.steps(batch, load)
        return mean

    def steps(self, batch: int, load: Load) -> tuple[StepTime, StepTime]:
        """The mean step, and one that reads no prompt: prompts begin in some steps, at random."""
        drafts = load.drafts
        context = load.input_tokens + load.output_tokens / 2
        answers = Tokens(batch, context, queries=1 + drafts.num_tokens)
        without = self.time(answers, drafts=drafts)
        prompts = batch * drafts.tokens_per_step / load.output_tokens
        chunks = math.ceil(load.read_tokens / self.engine.settings.max_num_tokens)
        share = 1 - math.exp(-prompts * chunks / self._pp_size)
        reading = Tokens(batch, context, prompts * load.read_tokens / share, _seen(load), answers.queries)
        return self.time(reading, drafts=drafts).times(share).plus(without, times=1 - share), without

    def time(self, tokens: Tokens, *, drafts: Drafts = NO_DRAFTS) -> StepTime:
        """A step of exactly these tokens.

        Drafts are made before, each by one layer of the model's own size: it is modelled, not measured.
        """
        step = self._time(tokens)
        if not drafts.num_tokens or not tokens.batch:
            return step
        drafting = self._time(Tokens(tokens.batch, tokens.context))
        return step.plus(drafting, times=drafts.num_tokens / self.engine.shapes.model.num_layers)

    def prefill(self, load: Load) -> StepTime:
        """Reading one prompt of `load` alone, in one stage after the other."""
        size = load.read_tokens, load.input_tokens
        if size not in self._alone:
            times = self.stage_times(Tokens(0, 0, load.read_tokens, _seen(load), prompts=1))
            each = (time.times(count) for time, count in zip(times, self._stages.values(), strict=True))
            self._alone[size] = reduce(lambda total, one: total.plus(one, times=1), each)
        return self._alone[size]

    def stage_times(self, tokens: Tokens) -> list[StepTime]:
        """A pass of each kind of stage."""
        return self._times(tokens, self._stages)

    def _time(self, tokens: Tokens) -> StepTime:
        """The slowest stage, times the stages a token passes; each holds a part of the batch at a time."""
        pp_size = self._pp_size
        if pp_size > 1:
            tokens = tokens.part(pp_size)
        times = self._times(tokens, self._slowest)
        slowest = times[0] if len(times) == 1 else max(times, key=lambda one: one.total)
        return slowest.times(pp_size) if pp_size > 1 else slowest

    def _times(self, tokens: Tokens, stages: Iterable[StageProducts]) -> list[StepTime]:
        """Of one rank of each: its own tokens, and of all tokens what is its experts' and is sent.

        Stages differ in their products, and in which vectors are in the time of those.
        """
        engine, fit = self.engine, self.fit
        own = tokens.of_a_rank(self._groups)
        everyones, heads, total = tokens.total, own.batch * own.queries, own.total
        passes = max(1.0, total / engine.settings.max_num_tokens)
        # Of a pipeline every pass goes over all that run, also those of the other parts of the batch.
        requests = own.batch * (1 + fit.active_share * (self._pp_size - 1))
        overhead = passes * fit.layer_us * self._layers + requests * fit.request_us[engine.settings.runtime]
        attention = self._attention(own)
        communication = self._communication(own, everyones=everyones, passes=passes)
        found = []
        for stage in stages:
            linear = stage.seconds(total, heads=heads, everyones=everyones, passes=passes)
            width = self._widths(total, everyones=everyones, measured=stage.has_measured_experts)
            vectors = fit.vector_passes * 2 * width * self._layers / self._bandwidth
            found.append(StepTime(linear, attention, communication, overhead * 1e-6 + vectors))
        return found

    def _attention(self, tokens: Tokens) -> float:
        """Of new tokens the slower of reading the cache, once for all queries, and of the scores; of prompts
        the scores.
        """
        flops = self._flops * self._pp_size
        read = tokens.batch * self.engine.memory.layout.read_bytes(tokens.context) * self.fit.kv_read
        answers = tokens.batch * tokens.queries * self._scores.of_answer(tokens.context)
        prompts = tokens.prompt * self._scores.of_prompt(tokens.seen) if tokens.prompt else 0.0
        return max(read / self._bandwidth, answers / flops) + prompts / flops

    def _communication(self, own: Tokens, *, everyones: float, passes: float) -> float:
        """Two all-reduces a layer over the tp ranks, or tokens to the experts and back; to the next stage."""
        engine, shapes, pp_size = self.engine, self.engine.shapes, self._pp_size
        links, cluster = self.fit.links, engine.cluster
        hidden, tp_size = shapes.model.hidden_size, shapes.mapping.tp_size
        each = hidden * everyones / passes
        if shapes.has_attention_dp:
            sizes = sent_bytes(self._sent_as) * each, 2 * each
            once = sum(exchange_seconds(one, ranks=tp_size, cluster=cluster, shares=links) for one in sizes)
            total = passes * self._expert_layers / pp_size * (once + self.fit.exchange_us * 1e-6)
        else:
            once = allreduce_seconds(2 * each, ranks=tp_size, cluster=cluster, shares=links)
            once += self.fit.wait_us * 1e-6 if own.prompt and tp_size > 1 else 0.0
            logits = 2 * own.batch * own.queries / passes * shapes.model.vocab_size
            gathered = gather_seconds(logits, ranks=tp_size, cluster=cluster, shares=links)
            total = passes * (2 * self._layers * once + gathered / pp_size)
        if pp_size > 1:
            sent = 2 * hidden * own.total / passes
            total += passes * send_seconds(sent, cluster=engine.cluster, ranks=tp_size, shares=self.fit.links)
        return total

    def _widths(self, own: float, *, everyones: float, measured: bool) -> float:
        """Values of 16 bits of a layer: norms, residuals, rotations, activations, quantization.

        What is between the products of routed experts is in their kernel, where that was `measured`.
        """
        model, tp_size = self.engine.shapes.model, self.engine.shapes.mapping.tp_size
        width = model.mlp.intermediate_size
        if model.moe is not None:
            routed = 0 if measured else model.moe.top_k * model.moe.intermediate_size
            width = routed + model.moe.shared_intermediate_size
        return model.hidden_size * own + 3 * width / tp_size / 4 * everyones


def _slowest(stages: Iterable[StageProducts]) -> list[StageProducts]:
    """Those that may take longest, in their order: of none does another take as long in every step."""
    kept: list[StageProducts] = []
    for stage in stages:
        if not any(map(stage.takes_at_most, kept)):
            kept = [*(one for one in kept if not one.takes_at_most(stage)), stage]
    return kept


def _seen(load: Load) -> float:
    """The tokens before a token of a prompt that is read, in the mean."""
    return load.input_tokens - load.read_tokens / 2
