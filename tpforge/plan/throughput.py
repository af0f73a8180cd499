"""How fast a deployment answers: a roofline of every step, communication, and batches that the cache limits.

A step of in-flight batching gives each running request one token and takes in the prompts that keep the batch
full. What the roofline cannot know (how much of the peak is reached, the overheads) comes from the
calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpforge.plan.calibration import Fit
from tpforge.plan.communication import allreduce_seconds, send_seconds
from tpforge.plan.hardware import Cluster
from tpforge.plan.memory import RankMemory, Settings
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
        """Nothing overlaps."""
        return self.linear + self.attention + self.communication + self.overhead


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
    `requests_per_second`: how fast they come, instead of how many are there at once.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int | None = None
    num_requests: int | None = None
    requests_per_second: float | None = None

    @property
    def request_tokens(self) -> int:
        """Tokens of a whole request."""
        return self.input_tokens + self.output_tokens


def speed(engine: Engine, load: Load, *, fit: Fit) -> Speed | None:
    """The speed of one replica under `load`, unscaled; None when not even one request fits its cache."""
    batch = largest_batch(engine, load)
    return None if batch is None else speed_at(StepModel(engine, fit), load, batch=batch)


def largest_batch(engine: Engine, load: Load) -> Batch | None:
    """The most requests of `load` that run at once; None when not even one fits the cache."""
    fitting = engine.memory.max_requests(load.request_tokens)
    if fitting < 1:
        return None
    limits = [Batch(fitting, "KV cache"), Batch(engine.settings.max_batch_size, "max batch size")]
    if load.concurrency is not None:
        limits.insert(0, Batch(load.concurrency, "concurrency"))
    return min(limits, key=lambda one: one.size)


def speed_at(model: StepModel, load: Load, *, batch: Batch) -> Speed:
    """The speed with exactly that many requests running; those of `load` beyond them wait."""
    step = model.step(batch.size, load)
    waiting = max(0, (load.concurrency or batch.size) - batch.size)
    prefill = model.prefill(load.input_tokens)
    first = model.fit.first_token
    # Others' prompts that came first are read before, and steps of the running batch go on between.
    among = prefill.total * first.ahead * (batch.size - 1) + first.steps * step.total * (1 - 1 / batch.size)
    queued = waiting / batch.size * load.output_tokens * step.total
    ttft = first.start_ms / 1e3 + prefill.total + among + queued
    return Speed(
        batch=batch.size,
        limit=batch.limit,
        tokens_per_second=_tokens_per_second(model, load, batch=batch.size),
        ttft_ms=1e3 * ttft,
        tpot_ms=1e3 * step.total,
        communication_share=step.communication / step.total,
    )


def _tokens_per_second(model: StepModel, load: Load, *, batch: int) -> float:
    """Of a load that goes on; of a test that ends, in waves of `batch` requests and a smaller last one."""
    if load.num_requests is None:
        return batch / model.step(batch, load).total
    waves, rest = divmod(load.num_requests, batch)
    seconds = waves * load.output_tokens * model.step(batch, load).total
    if rest:
        seconds += load.output_tokens * model.step(rest, load).total
    return load.num_requests * load.output_tokens / seconds


class StepModel:
    """The time of steps of one replica."""

    def __init__(self, engine: Engine, fit: Fit) -> None:
        self._engine = engine
        self.fit = fit
        shapes, settings = engine.shapes, engine.settings
        self._stages = tuple(
            stage_work(shapes, stage=stage, dtype=settings.dtype, weight_format=settings.weight_format)
            for stage in range(shapes.mapping.pp_size)
        )

    def step(self, batch: int, load: Load) -> StepTime:
        """A step in which `batch` requests get a token each, and the prompts of those that follow are
        read.
        """
        prompts = batch / load.output_tokens
        return self._time(
            batch,
            context=load.input_tokens + load.output_tokens / 2,
            prompt_tokens=prompts * load.input_tokens,
            prompt_length=load.input_tokens,
        )

    def prefill(self, prompt_length: int) -> StepTime:
        """Reading one prompt alone."""
        return self._time(0, context=0, prompt_tokens=prompt_length, prompt_length=prompt_length)

    def _time(self, batch: int, *, context: float, prompt_tokens: float, prompt_length: int) -> StepTime:
        """The slowest stage, times the stages a token passes; each holds a part of the batch at a time."""
        pp_size = len(self._stages)
        times = [
            self._stage_time(
                work,
                batch / pp_size,
                context=context,
                prompt_tokens=prompt_tokens / pp_size,
                prompt_length=prompt_length,
            )
            for work in self._stages
        ]
        slowest = max(times, key=lambda one: one.total)
        return StepTime(
            linear=pp_size * slowest.linear,
            attention=pp_size * slowest.attention,
            communication=pp_size * slowest.communication,
            overhead=pp_size * slowest.overhead,
        )

    def _stage_time(
        self, work: StageWork, batch: float, *, context: float, prompt_tokens: float, prompt_length: int
    ) -> StepTime:
        engine, fit = self._engine, self.fit
        gpu = engine.cluster.gpu
        tokens = batch + prompt_tokens
        passes = max(1.0, tokens / engine.settings.max_num_tokens)
        bandwidth = gpu.bandwidth_gb_s * 1e9 * fit.bandwidth_share(gpu)
        num_layers = max(1, engine.shapes.model.num_layers / len(self._stages))
        return StepTime(
            linear=self._linear(work, batch, tokens=tokens, passes=passes, bandwidth=bandwidth),
            attention=self._attention(batch, context, prompt_tokens, prompt_length, bandwidth=bandwidth),
            communication=self._communication(tokens, passes=passes, num_layers=num_layers),
            overhead=passes * (fit.step_us + fit.layer_us * num_layers) * 1e-6
            + batch * fit.request_us * 1e-6
            + self._elementwise(tokens, num_layers=num_layers, bandwidth=bandwidth),
        )

    def _linear(
        self, work: StageWork, batch: float, *, tokens: float, passes: float, bandwidth: float
    ) -> float:
        """Matrix products: the p-norm of their arithmetic and of reading the weights."""
        engine, fit = self._engine, self.fit
        gpu, moe = engine.cluster.gpu, engine.shapes.model.moe
        flops = gpu.peak_flops(engine.activations) * fit.flops_share(gpu)
        head_flops = gpu.peak_flops("float") * fit.flops_share(gpu)
        arithmetic = 2 * work.linear_weights * tokens / flops + 2 * work.head_weights * batch / head_flops
        touched = 1.0 if moe is None else 1 - (1 - moe.top_k / moe.num_experts) ** max(1.0, tokens / passes)
        read = (work.dense_bytes + work.head_bytes + touched * work.expert_bytes) * passes / bandwidth
        norm = fit.blend
        return float((arithmetic**norm + read**norm) ** (1 / norm))

    def _attention(
        self, batch: float, context: float, prompt_tokens: float, prompt_length: int, *, bandwidth: float
    ) -> float:
        """Reading the cache for new tokens; the triangle of scores for prompts."""
        engine, fit = self._engine, self.fit
        attention, tp_size = engine.shapes.model.attention, engine.shapes.mapping.tp_size
        read = batch * engine.memory.layout.read_bytes(context) * fit.kv_read / bandwidth
        heads = engine.shapes.plan.padding.heads.num_heads / tp_size
        num_layers = engine.shapes.num_attention_layers / len(self._stages)
        window = attention.sliding_window
        seen = prompt_length / 2
        if window is not None and attention.sliding_layers is None:
            seen = min(seen, window)
        flops = 4 * prompt_tokens * seen * heads * attention.head_size * num_layers
        return read + flops / (engine.cluster.gpu.fp16_tflops * 1e12 * fit.attention_share)

    def _communication(self, tokens: float, *, passes: float, num_layers: float) -> float:
        """Two all-reduces a layer over the tp ranks; a hand-over to the next stage."""
        engine, shares = self._engine, self.fit.links
        tp_size, pp_size = engine.shapes.mapping.tp_size, len(self._stages)
        num_bytes = 2 * engine.shapes.model.hidden_size * tokens / passes
        once = allreduce_seconds(num_bytes, ranks=tp_size, cluster=engine.cluster, shares=shares)
        total = passes * 2 * num_layers * once
        if pp_size > 1:
            total += passes * send_seconds(num_bytes, cluster=engine.cluster, ranks=tp_size, shares=shares)
        return total

    def _elementwise(self, tokens: float, *, num_layers: float, bandwidth: float) -> float:
        """Norms, residuals, rotations, activations, quantization: passes over 16-bit vectors."""
        model, tp_size = self._engine.shapes.model, self._engine.shapes.mapping.tp_size
        width = model.mlp.intermediate_size
        if model.moe is not None:
            width = model.moe.top_k * model.moe.intermediate_size + model.moe.shared_intermediate_size
        values = model.hidden_size + 3 * width / tp_size / 4
        return self.fit.vector_passes * 2 * values * tokens * num_layers / bandwidth
