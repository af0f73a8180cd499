"""What scales and watches the pods of target kubernetes: autoscaler, Prometheus operator, adapter.

It writes no file and talks to no cluster.
"""

from __future__ import annotations

from typing import Any

from triton_repo.deploy.deployment import Deployment
from triton_repo.monitoring.rules import rules

Object = dict[str, Any]


def watching(deployment: Deployment, metadata: Object) -> dict[str, list[Object]]:
    """Objects that need the Prometheus operator, and metrics for the autoscaler (prometheus-adapter)."""
    return {
        "autoscaling": [_autoscaler(deployment, metadata)],
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
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "tpforge_queue_ms"},
                        "target": {"type": "AverageValue", "averageValue": "500"},
                    },
                }
            ],
            "behavior": _behavior(deployment),
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
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": _found_by(deployment, metadata),
        "spec": {
            "selector": {"matchLabels": metadata["labels"]},
            "endpoints": [
                {
                    "port": "metrics",
                    "interval": "15s",
                    "relabelings": [
                        {"targetLabel": "engine", "replacement": deployment.name},
                        {"targetLabel": "job", "replacement": "triton"},
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
        "spec": rules(),
    }


ADAPTER = {
    "rules": {
        "custom": [
            {
                "seriesQuery": 'nv_inference_queue_duration_us{namespace!="",pod!=""}',
                "resources": {
                    "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
                },
                "name": {"as": "tpforge_queue_ms"},
                # The model that waits longest, as tpforge:queue_ms:mean1m.
                "metricsQuery": "max by (<<.GroupBy>>) (sum by (<<.GroupBy>>, model) "
                "(rate(nv_inference_queue_duration_us{<<.LabelMatchers>>}[1m]))"
                " / 1000 / (sum by (<<.GroupBy>>, model)"
                " (rate(nv_inference_request_success{<<.LabelMatchers>>}[1m])) > 0))",
            }
        ]
    }
}
