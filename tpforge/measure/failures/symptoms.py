"""What numbers show of a failure mode: Triton's and trtllm-serve's metrics, and the record of a run.

Thresholds are written here, each with its reason; patterns of logs are in diagnosis.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from tpforge.measure.comparison.failed_requests import failed_runs, failures_counted
from tpforge.measure.failures.diagnosis import (
    FEW_WAITING,
    Finding,
    Mode,
    Strength,
    diagnose_log,
    diagnose_topology,
)
from tpforge.measure.failures.metric_samples import MetricSample
from tpforge.measure.runs.latencies import inter_chunk_latency, time_to_first_token
from tpforge.measure.runs.run import GpuTelemetry, Level, Run
from tpforge.measure.runs.samples import Sample
from tpforge.measure.statistics import percentile

FULL = 0.95
"""A KV cache or GPU this full has no room for a burst."""
MOSTLY_WAITING = 0.5
"""Above this share of a request's time in the queue, it waits more than it is served."""
UNEVEN_UTILIZATION, UNEVEN_MEMORY = 15.0, 0.10
"""Ranks of equal size differ by no more: points of utilization, share of the fullest GPU's memory."""
BUSY = 5.0
"""A GPU below this many percent takes no part."""
PCIE_BYTES_PER_SECOND = 5e9
"""On average, over a whole level: a good part of what a x16 slot of generation 4 carries."""
SPIKE = 5.0
"""A p99 this many times the median is not the ordinary spread of steps."""
MIN_SAMPLES = 20
KV_SHARES = ("trtllm_kv_cache_utilization", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
WAITING = ("trtllm_num_requests_waiting", "vllm:num_requests_waiting")
PIPELINE = frozenset({"preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "ensemble"})
"""The models of one engine on Triton: together they are one."""

Metrics = Sequence[MetricSample]
ReadSeries = Callable[[Iterable[tuple[str, float]]], Metrics]
"""Gives samples for the keys of a run's telemetry, which are Prometheus' notation, and values."""


def diagnose_metrics(metrics: Metrics, *, name: str) -> list[Finding]:
    """What the metrics of a server show at the moment, or at their worst during a run."""
    return [
        *_kv_cache(metrics, name),
        *_queue(metrics, name),
        *_gpus(metrics, name),
        *failures_counted(metrics, name),
    ]


def diagnose_run(run: Run, samples: Sequence[Sample], *, read_series: ReadSeries) -> list[Finding]:
    """What a run shows: errors, GPUs that differ, latencies that jump, and its server's metrics."""
    findings = []
    errors = [sample.error for sample in samples if sample.error]
    findings += diagnose_log(errors, name=f"{run.id}, errors of requests")
    findings += failed_runs(run)
    for number, level in enumerate(run.levels):
        name = f"{run.id}, {level.name}"
        worst = read_series((key, series.max) for key, series in level.telemetry.server.items())
        findings += diagnose_metrics(worst, name=name)
        findings += _uneven(level.telemetry.gpus, run, name)
        findings += _over_pcie(level, run, name)
        findings += _stalls([sample for sample in samples if sample.level == number], name)
    findings += _queueing(run, samples)
    topology = run.environment["topology"].value
    if isinstance(topology, list):
        matrix = [[str(cell) for cell in row] for row in topology if isinstance(row, list)]
        findings += diagnose_topology(matrix, name=run.id)
    return findings


def _kv_cache(metrics: Metrics, name: str) -> list[Finding]:
    used = _labelled(metrics, "nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "used")
    most = _labelled(metrics, "nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max")
    share = used[1] / most[1] if used and most and most[1] > 0 else None
    serve = _first_of(metrics, KV_SHARES)
    findings = []
    if share is None and serve is not None:
        used, share = serve, serve[1]
    if used and share is not None and share >= FULL:
        findings.append(
            _finding(
                "latency_spikes",
                "hint",
                f"the KV cache is {share:.0%} full: the next long prompt waits, or sets others aside",
                "more KV cache (fraction, quantized KV, more ranks), or a smaller max_batch_size",
                [f"{name}: {used[0]} {used[1]:g}"],
            )
        )
    paused = _labelled(
        metrics, "nv_trt_llm_inflight_batcher_metrics", "inflight_batcher_specific_metric", "paused_requests"
    )
    paused = paused or _first_of(metrics, ("vllm:num_preemptions_total", "vllm:num_preemptions"))
    if paused and paused[1] > 0:
        findings.append(
            _finding(
                "latency_spikes",
                "proof",
                f"{paused[1]:g} requests were paused, because the KV cache was full",
                "use the policy GUARANTEED_NO_EVICT, or give the KV cache more memory",
                [f"{name}: {paused[0]} {paused[1]:g}"],
            )
        )
    return findings


def _queue(metrics: Metrics, name: str) -> list[Finding]:
    findings = []
    kinds = {
        kind: _labelled(metrics, "nv_trt_llm_request_metrics", "request_type", kind)
        for kind in ("active", "max", "waiting")
    }
    waiting = kinds["waiting"] or _first_of(metrics, WAITING)
    if waiting and waiting[1] > FEW_WAITING:
        findings.append(
            _finding(
                "latency_spikes",
                "hint",
                f"{waiting[1]:g} requests wait for a place in the batch",
                "raise max_batch_size where memory allows it, add replicas, or bound the concurrency",
                [f"{name}: {waiting[0]} {waiting[1]:g}"],
            )
        )
    for sample in _family(metrics, "nv_inference_queue_duration_us"):
        queued, whole = sample.value, _beside(metrics, "nv_inference_request_duration_us", sample)
        if whole and queued / whole >= MOSTLY_WAITING:
            findings.append(
                _finding(
                    "latency_spikes",
                    "hint",
                    f"requests spent {queued / whole:.0%} of their time in Triton's queue",
                    "more instances or a larger batch of that model; else it is given more than it can do",
                    [f"{name}: {sample.key} {queued:g} of {whole:g}"],
                )
            )
    return findings


def _gpus(metrics: Metrics, name: str) -> list[Finding]:
    """Triton's own metrics of GPUs: utilization is a share there, memory in bytes."""
    findings = []
    shares = {sample.key: 100 * sample.value for sample in _family(metrics, "nv_gpu_utilization")}
    loads = {key: load for key, load in shares.items() if load >= BUSY}
    may_be_ranks = not _are_several_models(metrics)
    if may_be_ranks:
        findings += _spread(loads, name, "busy", "%", UNEVEN_UTILIZATION)
    used = {}
    for sample in _family(metrics, "nv_gpu_memory_used_bytes"):
        key, value = sample.key, sample.value
        used[key] = value
        total = _beside(metrics, "nv_gpu_memory_total_bytes", sample)
        if total and value / total >= FULL:
            findings.append(
                _finding(
                    "out_of_memory",
                    "fact",
                    f"a GPU is {value / total:.0%} full, as runtimes make it that take the rest for KV cache",
                    "where allocations fail too, lower kv_cache_free_gpu_mem_fraction a little",
                    [f"{name}: {key} {value:g} of {total:g}"],
                )
            )
    if len(used) > 1 and may_be_ranks:
        findings += _spread(used, name, "filled", "bytes", UNEVEN_MEMORY * max(used.values()))
    return findings


def _are_several_models(metrics: Metrics) -> bool:
    """Whether GPUs may differ since they serve different models: those of one pipeline are one."""
    names = {sample.labels.get("model") for sample in metrics if "model" in sample.labels}
    names |= {sample.labels["model_name"] for sample in metrics if "model_name" in sample.labels}
    return len(names - PIPELINE) > 1


def _uneven(gpus: Sequence[GpuTelemetry], run: Run, name: str) -> list[Finding]:
    """GPUs of one engine that should be alike: the ranks of one stage, and no GPU beside them."""
    tp, pp = run.engine["tp"].value, run.engine["pp"].value
    if tp == 1 or (isinstance(pp, int) and pp > 1):
        return []
    taking_part = [
        gpu for gpu in gpus if "utilization" in gpu.series and gpu.series["utilization"].avg >= BUSY
    ]
    if isinstance(tp, int) and len(taking_part) > tp:
        return []
    loads = {f"GPU {gpu.index} utilization": gpu.series["utilization"].avg for gpu in taking_part}
    memory = {
        f"GPU {gpu.index} memory_used": gpu.series["memory_used"].max
        for gpu in taking_part
        if "memory_used" in gpu.series
    }
    findings = _spread(loads, name, "busy", "%", UNEVEN_UTILIZATION)
    if len(memory) > 1:
        findings += _spread(memory, name, "filled", "bytes", UNEVEN_MEMORY * max(memory.values()))
    return findings


def _spread(values: Mapping[str, float], name: str, word: str, unit: str, limit: float) -> list[Finding]:
    if len(values) < 2 or max(values.values()) - min(values.values()) <= limit:
        return []
    return [
        _finding(
            "uneven_gpus",
            "hint",
            f"ranks of equal size should be equally {word}, and these GPUs are not: something else runs "
            "there, a link or a GPU is slower, or the ranks are of unequal size",
            "look at nvidia-smi for other processes, clocks, throttling; check which rank is on which GPU",
            [f"{name}: {key} {value:g} {unit}" for key, value in values.items()],
        )
    ]


def _over_pcie(level: Level, run: Run, name: str) -> list[Finding]:
    tp = run.engine["tp"].value
    if not isinstance(tp, int) or tp < 2:
        return []
    busy = [
        f"{name}: GPU {gpu.index} {direction} {gpu.series[direction].avg / 1e9:.1f} GB/s"
        for gpu in level.telemetry.gpus
        for direction in ("pcie_tx", "pcie_rx")
        if direction in gpu.series and gpu.series[direction].avg >= PCIE_BYTES_PER_SECOND
    ]
    if not busy:
        return []
    return [
        _finding(
            "slow_communication",
            "hint",
            "the ranks exchange over PCIe, which is busy the whole time",
            "put tensor-parallel ranks on NVLinked GPUs, take fewer of them, or quantize",
            busy,
        )
    ]


def _stalls(samples: Sequence[Sample], name: str) -> list[Finding]:
    gaps = [gap for sample in samples if sample.is_complete for gap in inter_chunk_latency(sample)]
    if len(gaps) < MIN_SAMPLES:
        return []
    usual, tail = median(gaps), percentile(gaps, 99)
    if usual <= 0 or tail < SPIKE * usual:
        return []
    return [
        _finding(
            "latency_spikes",
            "proof",
            f"1 in 100 gaps between tokens lasts {tail / usual:.0f} times as long as the median one",
            "see what happens then: long prompts joining (chunk them), paused requests, a busy host",
            [f"{name}: inter-chunk latency median {usual:.1f} ms, p99 {tail:.1f} ms, {len(gaps)} gaps"],
        )
    ]


def _queueing(run: Run, samples: Sequence[Sample]) -> list[Finding]:
    """Time to first token that grows faster than the load: requests wait for each other."""
    loads = [(level.concurrency, number) for number, level in enumerate(run.levels) if level.concurrency]
    found = []
    for load, number in sorted(loads):
        times = [
            time
            for one in samples
            if one.level == number and one.is_complete
            for time in time_to_first_token(one)
        ]
        if len(times) >= MIN_SAMPLES:
            found.append((load, percentile(times, 95)))
    if len(found) < 2:
        return []
    (low, before), (high, after) = found[0], found[-1]
    if before <= 0 or after / before < 2 * high / low:
        return []
    return [
        _finding(
            "latency_spikes",
            "proof",
            f"p95 of time to first token grows {after / before:.0f} times while the load grows "
            f"{high / low:.0f} times",
            "the server is saturated between them: bound the concurrency, or add replicas",
            [f"{run.id}: {before:.0f} ms at concurrency {low}, {after:.0f} ms at concurrency {high}"],
        )
    ]


def _finding(mode: Mode, strength: Strength, cause: str, action: str, evidence: Sequence[str]) -> Finding:
    return Finding(
        mode=mode,
        strength=strength,
        cause=cause,
        action=action,
        evidence=tuple(evidence),
        count=len(evidence),
    )


def _labelled(metrics: Metrics, family: str, label: str, value: str) -> tuple[str, float] | None:
    """The largest sample of a family with that label, over all models, by its key."""
    return _largest([sample for sample in metrics if sample.labels.get(label) == value], family)


def _first_of(metrics: Metrics, families: Sequence[str]) -> tuple[str, float] | None:
    """The largest sample of the first family that there is."""
    found = (_largest(metrics, family) for family in families)
    return next((sample for sample in found if sample is not None), None)


def _largest(metrics: Metrics, family: str) -> tuple[str, float] | None:
    found = [(sample.key, sample.value) for sample in _family(metrics, family)]
    return max(found, key=lambda item: item[1], default=None)


def _family(metrics: Metrics, name: str) -> list[MetricSample]:
    return [sample for sample in metrics if sample.name == name]


def _beside(metrics: Metrics, name: str, other: MetricSample) -> float | None:
    """The value of another metric of the same model or GPU: the sample with the same labels."""
    found = (sample.value for sample in _family(metrics, name) if sample.labels == other.labels)
    return next(found, None)
