"""How fast a deployment answers: a roofline of every step, communication, and batches that the cache limits.

A step of in-flight batching gives each running request one token and takes in the prompts that keep the batch
full. What the roofline cannot know (how much of the peak is reached, the overheads) comes from the
calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from tpforge.plan.calibration import Fit
from tpforge.plan.communication import allreduce_seconds, exchange_seconds, send_seconds
from tpforge.plan.experts import busiest, exchanged_bytes, tile_padding, touched
from tpforge.plan.hardware import Cluster
from tpforge.plan.memory import RankMemory, Settings
from tpforge.plan.speculation import NO_DRAFTS, Drafts
from tpforge.quantization import find_format
from tpforge.shards.weights import RankShapes, StageWork, stage_work


@dataclass(frozen=True)
class Engine:
    """One replica: its ranks, their memory, its GPUs and settings."""

    shapes: RankShapes
    memory: RankMemory
    cluster: Cluster
    settings: Settings

    @property
    def activations(self) -> Literal["float", "int8", "fp8", "fp4"]:
        """What the matrix products run on."""
        name = self.settings.weight_format
        return "float" if name is None else find_format(name).activations


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


@dataclass(frozen=True)
class Load:
    """Requests of `input_tokens` that are answered with `output_tokens` each; as many at once as
    `concurrency`.

    None: more than can run. `num_requests` of a test that ends, where that matters; None: it goes on.
    `requests_per_second`: how fast they come, instead of how many are there at once. `prefix_hit`: the share
    of a prompt whose keys and values are in the cache already. `drafts`: what is guessed ahead of a step.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int | None = None
    num_requests: int | None = None
    requests_per_second: float | None = None
    prefix_hit: float = 0.0
    drafts: Drafts = NO_DRAFTS

    @property
    def request_tokens(self) -> int:
        """Tokens of a whole request."""
        return self.input_tokens + self.output_tokens

    @property
    def read_tokens(self) -> int:
        """Tokens of a prompt that must be read: without the prefix, and at least the last one."""
        return max(1, round(self.input_tokens * (1 - self.prefix_hit)))

    @property
    def is_modelled(self) -> bool:
        """Whether speed rests on what no published row was compared with."""
        return self.prefix_hit > 0 or self.drafts.num_tokens > 0


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
        tpot_ms=1e3 * step.total / load.drafts.tokens_per_step,
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


@dataclass(frozen=True)
class Tokens:
    """What passes through a step: of `batch` requests `queries` each, that see `context`, and prompts.

    `prompt`: tokens of `prompts` that are read, of which each sees `seen` others in the mean.
    """

    batch: float
    context: float
    prompt: float = 0.0
    seen: float = 0.0
    queries: int = 1
    prompts: float = math.inf

    def of_a_rank(self, groups: int) -> Tokens:
        """Those of one of so many ranks with requests of their own: a prompt is read by one of them."""
        read = min(groups, max(1.0, self.prompts))
        return self if groups == 1 else replace(self, batch=self.batch / groups, prompt=self.prompt / read)

    @property
    def total(self) -> float:
        """All of them."""
        return self.batch * self.queries + self.prompt


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
        self._activations = engine.activations
        gpu = engine.cluster.gpu
        self._flops = gpu.peak_flops(self._activations) * fit.flops_share(gpu)
        self._head_flops = gpu.peak_flops("float") * fit.flops_share(gpu)
        self._bandwidth = gpu.bandwidth_gb_s * 1e9 * fit.bandwidth_share(gpu)

    def step(self, batch: int, load: Load) -> StepTime:
        """A step in which `batch` requests get their tokens, and prompts of those that follow are read."""
        drafts = load.drafts
        context = load.input_tokens + load.output_tokens / 2
        prompts = batch * drafts.tokens_per_step / load.output_tokens
        tokens = Tokens(
            batch, context, prompts * load.read_tokens, self._seen(load), queries=1 + drafts.num_tokens
        )
        return self.time(tokens, drafts=drafts)

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
        """Reading one prompt of `load` alone."""
        return self._time(Tokens(0, 0, load.read_tokens, self._seen(load), prompts=1))

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
        return StepTime(
            linear=pp_size * slowest.linear,
            attention=pp_size * slowest.attention,
            communication=pp_size * slowest.communication,
            overhead=pp_size * slowest.overhead,
        )

    def _stage_time(self, work: StageWork, tokens: Tokens) -> StepTime:
        """Of one rank: its own tokens, and of all tokens what is its experts' and is sent."""
        engine, fit = self.engine, self.fit
        own = tokens.of_a_rank(engine.shapes.cache_groups)
        passes = max(1.0, own.total / engine.settings.max_num_tokens)
        bandwidth = self._bandwidth
        num_layers = max(1, engine.shapes.model.num_layers / len(self._stages))
        return StepTime(
            linear=self._linear(work, own, everyones=tokens.total, passes=passes, bandwidth=bandwidth),
            attention=self._attention(own, bandwidth=bandwidth),
            communication=self._communication(
                own.total, everyones=tokens.total, passes=passes, num_layers=num_layers
            ),
            overhead=passes * (fit.step_us + fit.layer_us * num_layers) * 1e-6
            + own.batch * fit.request_us * 1e-6
            + self._elementwise(
                own.total, everyones=tokens.total, num_layers=num_layers, bandwidth=bandwidth
            ),
        )

    def _linear(
        self, work: StageWork, own: Tokens, *, everyones: float, passes: float, bandwidth: float
    ) -> float:
        """Matrix products: the p-norm of their arithmetic and of reading the weights."""
        engine, fit = self.engine, self.fit
        moe, mapping = engine.shapes.model.moe, engine.shapes.mapping
        heads = own.batch * own.queries
        products = work.dense_weights * own.total
        read = float(work.dense_bytes + work.head_bytes)
        if moe is not None:
            each = everyones / passes
            uneven = busiest(moe, mapping=mapping, tokens=each, skew=fit.expert_skew)
            uneven *= tile_padding(moe, mapping=mapping)
            products += work.expert_weights * everyones * uneven
            read += touched(moe, tokens=each) * work.expert_bytes
        arithmetic = 2 * products / self._flops + 2 * work.head_weights * heads / self._head_flops
        norm = fit.blend
        return float((arithmetic**norm + (read * passes / bandwidth) ** norm) ** (1 / norm))

    def _attention(self, tokens: Tokens, *, bandwidth: float) -> float:
        """Reading the cache for new tokens, once for all queries of a request; the scores of prompts."""
        engine, fit = self.engine, self.fit
        attention, tp_size = engine.shapes.model.attention, engine.shapes.attention_tp_size
        read = tokens.batch * engine.memory.layout.read_bytes(tokens.context) * fit.kv_read / bandwidth
        heads = engine.shapes.plan.padding.heads.num_heads / tp_size
        num_layers = engine.shapes.num_attention_layers / len(self._stages)
        window = attention.sliding_window
        seen = tokens.seen
        if window is not None and attention.sliding_layers is None:
            seen = min(seen, window)
        flops = 4 * tokens.prompt * seen * heads * attention.head_size * num_layers
        return read + flops / (engine.cluster.gpu.fp16_tflops * 1e12 * fit.attention_share)

    def _communication(self, own: float, *, everyones: float, passes: float, num_layers: float) -> float:
        """Two all-reduces a layer over the tp ranks, or tokens to the experts and back; to the next stage."""
        engine, shapes, pp_size = self.engine, self.engine.shapes, len(self._stages)
        hidden, tp_size = shapes.model.hidden_size, shapes.mapping.tp_size
        each = hidden * everyones / passes
        if shapes.has_attention_dp:
            moved = exchanged_bytes(each, activations=self._activations)
            once = exchange_seconds(moved, ranks=tp_size, cluster=engine.cluster, shares=self.fit.links)
            total = passes * self._expert_layers / pp_size * (once + self.fit.exchange_us * 1e-6)
        else:
            once = allreduce_seconds(2 * each, ranks=tp_size, cluster=engine.cluster, shares=self.fit.links)
            total = passes * 2 * num_layers * once
        if pp_size > 1:
            sent = 2 * hidden * own / passes
            total += passes * send_seconds(sent, cluster=engine.cluster, ranks=tp_size, shares=self.fit.links)
        return total

    def _elementwise(self, own: float, *, everyones: float, num_layers: float, bandwidth: float) -> float:
        """Norms, residuals, rotations, activations, quantization: passes over 16-bit vectors."""
        model, tp_size = self.engine.shapes.model, self.engine.shapes.mapping.tp_size
        width = model.mlp.intermediate_size
        if model.moe is not None:
            width = model.moe.top_k * model.moe.intermediate_size + model.moe.shared_intermediate_size
        values = model.hidden_size * own + 3 * width / tp_size / 4 * everyones
        return self.fit.vector_passes * 2 * values * num_layers / bandwidth
