"""Prometheus rules: recordings that others build on, and an alert for each known way to fail.

The five modes: out of memory despite sharding, slow generation by communication, uneven GPUs, an engine that
does not load (an unsupported format, another GPU or version), latency spikes under concurrency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tpforge.yaml_text import to_yaml
from triton_repo.monitoring.queries import (
    ACTIVE,
    ERROR,
    KV_USED,
    OF,
    SUCCESS,
    TOKENS,
    UP,
    WAITING,
    called,
    mean_of,
    rate_of,
    selected,
)

_REFUSED = f"sum by ({OF}) (rate(tpforge_requests_refused[5m]))"
"""By our models, for what the client asks for; Triton 2.51 counts each as two failures of an ensemble."""
_COUNTED = called("nv_inference_request_failure", window="5m", more='reason!="CANCELED"')
_TOLD = f"sum by ({OF}) (rate(tpforge_requests_failed[5m]))"
"""By our models: Triton counts what a Python model cannot answer as its success."""
_SERVERS_OWN = '{http_code=~"5.."}'
"""Of trtllm-serve's errors, those that are no fault of the client."""
_ENDED = '{finished_reason!~"cancel.*|abort.*"}'
_FAILED = (
    f"max by ({OF}) (clamp_min(({_COUNTED}) - on ({OF}) 2 * ({_REFUSED}), 0)"
    f' or ({_COUNTED}) or label_replace({_TOLD}, "by", "models", "", ""))'
    f" or {rate_of(ERROR, window='5m', labels=_SERVERS_OWN)}"
)
_ANSWERED = (
    f"{called('nv_inference_request_success', window='5m')} or {rate_of(SUCCESS, window='5m', labels=_ENDED)}"
)
_LOADED_GPU = (
    "avg_over_time(nv_gpu_utilization[5m]) and on (namespace, engine, pod, instance, gpu_uuid)"
    " nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes > 0.1"
)
"""GPUs that hold a rank: a server also reports those of its machine that it does not use."""
_USED = f"({called('nv_inference_request_success')} or {rate_of(SUCCESS)}) > 0.2"
"""More requests/s than our probes send (9 a minute): whose median is of users, and not of the canary."""
_WRITES = f"({TOKENS}) > 1"
"""More tokens/s than answer our probes."""
_HELD = (
    "sum by (namespace, engine, pod, instance) "
    "(min_over_time(nv_trt_llm_request_metrics{request_type=~'active|waiting'}[10m])) > 0"
    f" or sum by ({OF}) (min_over_time(nv_inference_pending_request_count[10m])) > 0"
)
# Streams count at postprocessing for each token; preprocessing goes on while the generator hangs.
_PROGRESS = f'sum by ({OF}) (increase(nv_inference_request_success{{model!="preprocessing"}}[10m]))'
_STEPS = f"sum by ({OF}) (changes(tpforge_model_progress[10m])) > 0"
"""A long answer that nobody streams ends no request, but its model makes steps."""
_ASKED = (
    f"sum by ({OF}) (trtllm_num_requests_running)"
    f" and on ({OF}) sum by ({OF}) (increase({SUCCESS}{_ENDED}[10m])) == 0"
    f" unless on ({OF}) sum by ({OF}) (changes(trtllm_iteration_latency_seconds[10m])) > 0"
)
"""trtllm-serve's count of running requests is that of the last iteration, also when nothing runs: a server is
stuck, and not merely asked by nobody, when our probes, which ask several times a minute, get no answer."""
RECORDS = {
    "tpforge:request_ms:mean1m": f"({called('nv_inference_request_duration_us')}) / 1000"
    f" / (({called('nv_inference_request_success')}) > 0)"
    f" or {mean_of('trtllm_e2e_request_latency_seconds')}",
    # The model that waits longest: a mean over all models is diluted by those that are called for each token.
    "tpforge:queue_ms:mean1m": "max by (namespace, engine, pod, instance) "
    "(sum by (namespace, engine, pod, instance, model) (rate(nv_inference_queue_duration_us[1m])) / 1000"
    " / (sum by (namespace, engine, pod, instance, model) (rate(nv_inference_request_success[1m])) > 0))"
    f" or {mean_of('trtllm_request_queue_time_seconds')}",
    "tpforge:requests_waiting": WAITING,
    "tpforge:kv_used:ratio": KV_USED,
    "tpforge:ms_per_token:mean1m": f"({ACTIVE}) * 1000 / (({TOKENS}) > 0)",
    "tpforge:request_ms_used:mean1m": f"tpforge:request_ms:mean1m and on ({OF}) ({_USED})",
    "tpforge:ms_per_token_used:mean1m": f"tpforge:ms_per_token:mean1m and on ({OF}) ({_WRITES})",
    "tpforge:gpu_imbalance": f"max by ({OF}) ({_LOADED_GPU}) - min by ({OF}) ({_LOADED_GPU})",
}


@dataclass(frozen=True)
class Alert:
    """One alert: which failure mode, when, for how long, and what to do."""

    name: str
    mode: str
    expression: str
    lasts: str
    severity: str
    summary: str
    do: str


ALERTS = (
    Alert(
        "TpforgeMemoryNearlyFull",
        "out-of-memory",
        f"max by ({OF}) (nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes) > 0.98",
        "5m",
        "warning",
        "A GPU is {{ $value | humanizePercentage }} full: the next long prompt may not fit.",
        "Lower kv_cache_free_gpu_mem_fraction or max_batch_size, quantize, or use more ranks (tpforge plan).",
    ),
    Alert(
        "TpforgeKvCacheFull",
        "out-of-memory",
        "tpforge:kv_used:ratio > 0.95 and on (namespace, engine, pod, instance) tpforge:requests_waiting > 0",
        "5m",
        "warning",
        "{{ $value | humanizePercentage }} of the KV blocks are used and requests wait.",
        "Add replicas, shorten max_seq_len, or use an FP8 KV cache.",
    ),
    Alert(
        "TpforgeGenerationSlow",
        "slow-communication",
        "tpforge:ms_per_token_used:mean1m"
        " > 2 * quantile_over_time(0.5, tpforge:ms_per_token_used:mean1m[1d])",
        "15m",
        "warning",
        "A token takes {{ $value | humanize }} ms, more than twice the day's median.",
        "Look for a lost link: `nvidia-smi topo -m`, NCCL_DEBUG=INFO, `tpforge diagnose`.",
    ),
    Alert(
        "TpforgeUnevenGpus",
        "uneven-gpus",
        "tpforge:gpu_imbalance > 0.3",
        "10m",
        "warning",
        "The busiest and the idlest GPU are {{ $value | humanizePercentage }} apart.",
        "Look for a throttled GPU, another process on it, or a stage with more layers (pp).",
    ),
    Alert(
        "TpforgeServerDown",
        "does-not-load",
        # One replica that starts is a rollout; none that answers, where one did, is an outage.
        f"max by (namespace, engine) ({UP}) == 0"
        f" and max by (namespace, engine) (max_over_time({UP}[1d])) == 1",
        "2m",
        "critical",
        "No server of {{ $labels.engine }} answers, and one did within the last day.",
        "Read its log (`tpforge logs`): an engine of another GPU, version or format does not load.",
    ),
    Alert(
        "TpforgeServerDoesNotStart",
        "does-not-load",
        f"{UP} == 0",
        "90m",
        "warning",
        "{{ $labels.instance }} of {{ $labels.engine }} has not answered for longer than a start takes.",
        "Read its log: the engine is still pulled, or does not load, or it starts again and again.",
    ),
    Alert(
        "TpforgeServerRestarts",
        "does-not-load",
        # Not by resets of a counter: one that was 0 and starts at 0 again shows none.
        f"floor(changes({UP}[2h]) / 2) >= 2",
        "0m",
        "critical",
        "{{ $labels.instance }} went down {{ $value }} times or more within 2 hours, and came back.",
        "Read its log; go back to the fallback engine with `tpforge promote`.",
    ),
    Alert(
        "TpforgeModelStuck",
        "does-not-load",
        f"((({_HELD}) and on ({OF}) ({_PROGRESS}) == 0) unless on ({OF}) ({_STEPS})) or ({_ASKED})",
        "2m",
        "critical",
        "{{ $value }} requests are held by {{ $labels.instance }}, and none went on for 10 minutes.",
        "Read its log, then start it again: a rank hangs, or waits for one that is gone.",
    ),
    Alert(
        "TpforgeRequestsFail",
        "does-not-load",
        f"({_FAILED}) / ((({_FAILED}) + ({_ANSWERED})) > 0) > 0.01",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests fail.",
        "Run `tpforge smoke` against it, and read its log.",
    ),
    Alert(
        "TpforgeQueueGrows",
        "latency-spikes",
        "tpforge:queue_ms:mean1m > 1000 or tpforge:requests_waiting > 32",
        "5m",
        "warning",
        "Requests wait before they run ({{ $value | humanize }} ms, or so many of them).",
        "Add replicas, or shed load; `tpforge bench` finds the concurrency that keeps your p95.",
    ),
    Alert(
        "TpforgeLatencySpikes",
        "latency-spikes",
        "tpforge:request_ms_used:mean1m > 3 * quantile_over_time(0.5, tpforge:request_ms_used:mean1m[1d])",
        "10m",
        "warning",
        "Requests take {{ $value | humanize }} ms, more than three times the day's median.",
        "Look at queue and KV cache; long prompts stall others without chunked context.",
    ),
)


def rules(labels: str = "") -> dict[str, Any]:
    """The rule file as a value; with labels, as PromQL writes them, of the servers that have them alone.

    Rules of two engines in one Prometheus would otherwise record the same, and wake for each other.
    """

    def of(expression: str) -> str:
        return selected(expression, labels) if labels else expression

    return {
        "groups": [
            {
                "name": "tpforge-records",
                "rules": [{"record": name, "expr": of(expression)} for name, expression in RECORDS.items()],
            },
            {
                "name": "tpforge-alerts",
                "rules": [_alert(alert, of(alert.expression)) for alert in ALERTS],
            },
        ]
    }


def rules_yaml() -> str:
    """The rule file of a Prometheus that watches one engine."""
    return to_yaml(rules(), comment="generated by tpforge; triton_repo/monitoring/rules.py is the source")


def _alert(alert: Alert, expression: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": expression,
        "for": alert.lasts,
        "labels": {"severity": alert.severity, "failure_mode": alert.mode},
        "annotations": {"summary": alert.summary, "action": alert.do},
    }
