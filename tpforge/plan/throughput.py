"""How fast a deployment answers: a roofline of every step, communication, and batches that the cache limits.

A step of in-flight batching gives each running request one token and takes in the prompts that keep the batch
full. What the roofline cannot know (how much of the peak is reached, the overheads) comes from the
calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

from tpforge.plan.attention import AttentionWork
from tpforge.plan.calibration import Fit
from tpforge.plan.communication import (
    allreduce_seconds,
    exchange_seconds,
    gather_seconds,
    send_seconds,
)
from tpforge.plan.experts import busiest, sent_bytes, tile_padding, touched
from tpforge.plan.grouped import find_grouped
from tpforge.plan.hardware import Cluster
from tpforge.plan.load import Load, Tokens
from tpforge.plan.memory import RankMemory, Settings
from tpforge.plan.speculation import NO_DRAFTS, Drafts
from tpforge.quantization import Activations, find_format
from tpforge.shards.weights import Elements, RankShapes, StageWork, stage_work

_ALWAYS = 0.99
"""A share of steps that read prompts which is taken as all of them."""


@dataclass(frozen=True)
class Engine:
    """One replica: its ranks, their memory, its GPUs and settings."""

    shapes: RankShapes
    memory: RankMemory
    cluster: Cluster
    settings: Settings

    def activations(self, weight_format: str | None) -> Activations:
        """What products with weights of that format run on; None: floats."""
        return (
            "float"
            if weight_format is None
            else find_format(weight_format).activations_on(self.cluster.gpu.sm)
        )


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of a replica, by what takes them."""

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
    most = engine.settings.max_batch_size * engine.memory.cache_groups
    limits = [Batch(fitting, "KV cache"), Batch(most, "max batch size")]
    if load.concurrency is not None:
        limits.insert(0, Batch(load.concurrency, "concurrency"))
    return min(limits, key=lambda one: one.size)


def speed_at(model: StepModel, load: Load, *, batch: Batch) -> Speed:
    """The speed with exactly that many requests running; those of `load` beyond them wait.

    TTFT: a fixed start, the prompt, the prompts that came before it with the steps between, and for those
    that wait the answers of as many batches. TPOT: a step over the tokens that it gives a request.
    """
    step = model.step(batch.size, load)
    # Of all prompts that are read while a request is answered, none is its own.
    others = (
        step.total
        - (step.total - model.time(model.answers(batch.size, load), drafts=load.drafts).total) / batch.size
    )
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
        tokens_per_second=_tokens_per_second(model, load, batch=batch.size),
        ttft_ms=1e3 * ttft,
        tpot_ms=1e3 * others / load.drafts.tokens_per_step,
        communication_share=step.communication / step.total,
    )


def _tokens_per_second(model: StepModel, load: Load, *, batch: int) -> float:
    """Of a load that goes on; of a test that ends, in waves of `batch` requests and a smaller last one."""
    per_step = load.drafts.tokens_per_step
    if load.num_requests is None:
        return batch * per_step / model.step(batch, load).total
    waves, rest = divmod(load.num_requests, batch)
    seconds = waves * load.output_tokens / per_step * model.step(batch, load).total
    if rest:
        seconds += load.output_tokens / per_step * model.step(rest, load).total
    return load.num_requests * load.output_tokens / seconds


class StepModel:
    """The time of steps of one replica."""

    def __init__(self, engine: Engine, fit: Fit) -> None:
        self.engine = engine
        self.fit = fit
        shapes, settings = engine.shapes, engine.settings
        self._stages = tuple(
            stage_work(shapes, stage=stage, dtype=settings.dtype, weight_format=settings.weight_format)
            for stage in range(shapes.mapping.pp_size)
        )
        # What is asked of every step, and stages with the same work, once.
        self._works = tuple(dict.fromkeys(self._stages))
        self._expert_layers = sum(shapes.model.has_experts(index) for index in range(shapes.model.num_layers))
        self._scores = AttentionWork(shapes)
        self._sent_as = engine.activations(settings.weight_format)
        gpu = engine.cluster.gpu
        held = next((name for work in self._works for name, _ in work.experts), settings.weight_format)
        self._kernel = find_grouped(gpu, held)
        self._bandwidth = gpu.bandwidth_gb_s * 1e9 * fit.bandwidth_share(gpu)
        self._known_seconds: dict[Elements, float] = {}
        self._head_peak = self._peak(None)
        self._flops_share = fit.flops_share(gpu)
        self._score_flops = gpu.peak_flops("float") * fit.attention_share * len(self._stages)
        self._layers = max(1, shapes.model.num_layers / len(self._stages))

    def step(self, batch: int, load: Load) -> StepTime:
        """The mean step: `batch` requests get their tokens, and prompts of those that follow are read.

        Prompts begin in some steps, at random, and the others read none.
        """
        drafts, answers = load.drafts, self.answers(batch, load)
        prompts = batch * drafts.tokens_per_step / load.output_tokens
        chunks = math.ceil(load.read_tokens / self.engine.settings.max_num_tokens)
        share = 1 - math.exp(-prompts * chunks / len(self._stages))
        reading = replace(answers, prompt=prompts * load.read_tokens / share, seen=self._seen(load))
        mixed = self.time(reading, drafts=drafts).times(share)
        return mixed if share > _ALWAYS else mixed.plus(self.time(answers, drafts=drafts), times=1 - share)

    @staticmethod
    def answers(batch: int, load: Load) -> Tokens:
        """What passes through a step of `batch` requests that reads no prompt."""
        context = load.input_tokens + load.output_tokens / 2
        return Tokens(batch, context, queries=1 + load.drafts.num_tokens)

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
        tokens = Tokens(0, 0, load.read_tokens, self._seen(load), prompts=1)
        first, *others = (self._stage_time(work, tokens) for work in self._stages)
        return reduce(lambda total, one: total.plus(one, times=1), others, first)

    @staticmethod
    def _seen(load: Load) -> float:
        """The tokens before a token of a prompt that is read, in the mean."""
        return load.input_tokens - load.read_tokens / 2

    def _time(self, tokens: Tokens) -> StepTime:
        """The slowest stage, times the stages a token passes; each holds a part of the batch at a time."""
        pp_size = len(self._stages)
        if pp_size == 1:
            return self._stage_time(self._stages[0], tokens)
        share = replace(tokens, batch=tokens.batch / pp_size, prompt=tokens.prompt / pp_size)
        times = [self._stage_time(work, share) for work in self._works]
        slowest = max(times, key=lambda one: one.total)
        return slowest.times(pp_size)

    def _stage_time(self, work: StageWork, tokens: Tokens) -> StepTime:
        """Of one rank: its own tokens, and of all tokens what is its experts' and is sent."""
        engine, fit = self.engine, self.fit
        own = tokens.of_a_rank(engine.shapes.cache_groups)
        passes = max(1.0, own.total / engine.settings.max_num_tokens)
        bandwidth = self._bandwidth
        num_layers = self._layers
        return StepTime(
            linear=self._linear(work, own, everyones=tokens.total, passes=passes, bandwidth=bandwidth),
            attention=self._attention(own, bandwidth=bandwidth),
            communication=self._communication(
                own, everyones=tokens.total, passes=passes, num_layers=num_layers
            ),
            overhead=passes * fit.layer_us * num_layers * 1e-6
            + own.batch * fit.request_us[engine.settings.runtime] * 1e-6
            + self._elementwise(
                own.total, everyones=tokens.total, num_layers=num_layers, bandwidth=bandwidth
            ),
        )

    def _linear(
        self, work: StageWork, own: Tokens, *, everyones: float, passes: float, bandwidth: float
    ) -> float:
        """Matrix products: the p-norm of their arithmetic and of reading the weights; and the experts'."""
        share, norm = self._flops_share, self.fit.blend
        heads = own.batch * own.queries
        arithmetic = own.total * self._seconds(work.dense) / share
        arithmetic += 2 * work.head_weights * heads / self._head_peak / share
        read = (work.dense_bytes + work.head_bytes) * passes / bandwidth
        dense = float((arithmetic**norm + read**norm) ** (1 / norm))
        return dense + self._experts(work, everyones=everyones, passes=passes, bandwidth=bandwidth)

    def _experts(self, work: StageWork, *, everyones: float, passes: float, bandwidth: float) -> float:
        """The busiest rank's products of experts, of the tokens of all ranks."""
        engine, gpu = self.engine, self.engine.cluster.gpu
        moe, mapping = engine.shapes.model.moe, engine.shapes.mapping
        if moe is None:
            return 0.0
        each = everyones / passes
        uneven = busiest(moe, mapping=mapping, tokens=each)
        uneven *= tile_padding(moe, mapping=mapping)
        read = passes * touched(moe, tokens=each) * work.expert_bytes
        if self._kernel is None:
            arithmetic = everyones * uneven * self._seconds(work.experts) / self._flops_share
            norm = self.fit.blend
            return float((arithmetic**norm + (read / bandwidth) ** norm) ** (1 / norm))
        return self._kernel.seconds(
            everyones * uneven * self._seconds(work.experts),
            read / (gpu.bandwidth_gb_s * 1e9),
            layers=passes * self._expert_layers / len(self._stages),
        )

    def _seconds(self, elements: Elements) -> float:
        """Of a token's products with so many elements, at the peak of what each runs on."""
        known = self._known_seconds.get(elements)
        if known is None:
            known = sum(2 * count / self._peak(name) for name, count in elements)
            self._known_seconds[elements] = known
        return known

    def _peak(self, weight_format: str | None) -> float:
        return self.engine.cluster.gpu.peak_flops(self.engine.activations(weight_format))

    def _attention(self, tokens: Tokens, *, bandwidth: float) -> float:
        """Of new tokens the slower of reading the cache, once for all queries, and of the scores; of prompts
        the scores.
        """
        engine, fit = self.engine, self.fit
        read = tokens.batch * engine.memory.layout.read_bytes(tokens.context) * fit.kv_read / bandwidth
        answers = tokens.batch * tokens.queries * self._scores.of_answer(tokens.context)
        prompts = tokens.prompt * self._scores.of_prompt(tokens.seen)
        return max(read, answers / self._score_flops) + prompts / self._score_flops

    def _communication(self, own: Tokens, *, everyones: float, passes: float, num_layers: float) -> float:
        """Two all-reduces a layer over the tp ranks, or tokens to the experts and back; to the next stage."""
        engine, shapes, pp_size = self.engine, self.engine.shapes, len(self._stages)
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
            total = passes * (2 * num_layers * once + gathered / pp_size)
        if pp_size > 1:
            sent = 2 * hidden * own.total / passes
            total += passes * send_seconds(sent, cluster=engine.cluster, ranks=tp_size, shares=self.fit.links)
        return total

    def _elementwise(self, own: float, *, everyones: float, num_layers: float, bandwidth: float) -> float:
        """Norms, residuals, rotations, activations, quantization: passes over 16-bit vectors."""
        model, tp_size = self.engine.shapes.model, self.engine.shapes.mapping.tp_size
        width = model.mlp.intermediate_size
        if model.moe is not None:
            # What is between the products of routed experts is in their kernel, where it was measured.
            routed = 0 if self._kernel is not None else model.moe.top_k * model.moe.intermediate_size
            width = routed + model.moe.shared_intermediate_size
        values = model.hidden_size * own + 3 * width / tp_size / 4 * everyones
        return self.fit.vector_passes * 2 * values * num_layers / bandwidth
