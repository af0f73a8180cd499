"""What scales and watches the pods of target kubernetes: autoscaler, Prometheus operator, adapter.

It writes no file and talks to no cluster.
"""

from __future__ import annotations

from typing import Any

from triton_repo.deploy.deployment import Deployment
from triton_repo.monitoring.rules import rules

Object = dict[str, Any]
WAITING, KV_USED = "tpforge_requests_waiting", "tpforge_kv_used"
"""Metrics of a pod: requests that wait, and the share of KV blocks that are used."""


def watching(deployment: Deployment, metadata: Object) -> dict[str, list[Object]]:
    """Objects that need the Prometheus operator, and metrics for the autoscaler (prometheus-adapter)."""
    scaled = {"autoscaling": [_autoscaler(deployment, metadata)]} if deployment.tells_load else {}
    return {
        **scaled,
        "monitoring": [_service_monitor(deployment, metadata), _prometheus_rule(deployment, metadata)],
    }


def _autoscaler(deployment: Deployment, metadata: Object) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name},
            "minReplicas": deployment.options.replicas,
            "maxReplicas": max(deployment.options.replicas, deployment.options.max_replicas),
            "metrics": [_average(name, most) for name, most in _scaled_on(deployment).items()],
            "behavior": _behavior(deployment),
        },
    }


def _scaled_on(deployment: Deployment) -> dict[str, str]:
    """What a replica may have on average, by metric: one more is asked for when any has more.

    Requests wait where the batch is full, or the KV cache; blocks are counted by TensorRT-LLM alone.
    """
    return {WAITING: "4", **({KV_USED: "900m"} if deployment.needs_gpus else {})}


def _average(metric: str, most: str) -> Object:
    return {
        "type": "Pods",
        "pods": {
            "metric": {"name": metric},
            "target": {"type": "AverageValue", "averageValue": most},
        },
    }


def _behavior(deployment: Deployment) -> Object:
    """One replica more at once, the next when that one may have started; down slowly.

    Until it serves, a new replica takes no load off the others, and more would be asked for. The longest
    period that autoscaling/v2 takes is 1800 s, the longest window 3600 s.
    """
    one = {"type": "Pods", "value": 1, "periodSeconds": min(1800, deployment.start_s)}
    window = min(3600, max(300, 2 * deployment.start_s))
    return {
        "scaleUp": {"policies": [one], "stabilizationWindowSeconds": 0},
        "scaleDown": {"stabilizationWindowSeconds": window},
    }


def _service_monitor(deployment: Deployment, metadata: Object) -> Object:
    port, _, path = deployment.metrics
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _found_by(deployment, metadata),
        "spec": {
            "selector": {"matchLabels": metadata["labels"]},
            "endpoints": [
                {
                    "port": port,
                    **({"path": path} if path != "/metrics" else {}),
                    "interval": "15s",
                    "relabelings": [
                        {"targetLabel": "engine", "replacement": deployment.name},
                        {"targetLabel": "job", "replacement": deployment.server},
                    ],
                }
            ],
        },
    }


def _found_by(deployment: Deployment, metadata: Object) -> Object:
    """With the labels that the cluster's Prometheus selects monitors and rules by."""
    return {**metadata, "labels": {**metadata["labels"], **dict(deployment.options.monitor_labels)}}


def _prometheus_rule(deployment: Deployment, metadata: Object) -> Object:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": _found_by(deployment, metadata),
        "spec": rules(f'namespace="{deployment.options.namespace}",engine="{deployment.name}"'),
    }


def _adapted(name: str, series: str, query: str) -> Object:
    """A metric of pods for the autoscaler; any of `series` says that there is something to ask."""
    return {
        "seriesQuery": f'{{__name__=~"{series}",namespace!="",pod!=""}}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": name},
        "metricsQuery": query,
    }


ADAPTER = {
    "rules": {
        "custom": [
            # Means of a minute: a prompt that waits for the next step is no reason for a replica.
            _adapted(
                WAITING,
                "nv_trt_llm_request_metrics|trtllm_num_requests_waiting",
                "sum by (<<.GroupBy>>) (avg_over_time("
                'nv_trt_llm_request_metrics{<<.LabelMatchers>>,request_type="waiting"}[1m])'
                " or avg_over_time("
                'nv_inference_pending_request_count{<<.LabelMatchers>>,model="tensorrt_llm"}[1m])'
                " or avg_over_time(trtllm_num_requests_waiting{<<.LabelMatchers>>}[1m]))",
            ),
            _adapted(
                KV_USED,
                "nv_trt_llm_kv_cache_block_metrics|trtllm_kv_cache_utilization",
                "max by (<<.GroupBy>>) (avg_over_time("
                'nv_trt_llm_kv_cache_block_metrics{<<.LabelMatchers>>,kv_cache_block_type="fraction"}[1m])'
                " or avg_over_time(trtllm_kv_cache_utilization{<<.LabelMatchers>>}[1m]))",
            ),
        ]
    }
}
