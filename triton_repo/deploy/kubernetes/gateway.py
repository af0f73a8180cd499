"""Before trtllm-serve on Kubernetes: the Gateway API inference extension, which chooses a pod by its load.

A gateway of the cluster asks an endpoint picker, which reads the pods' waiting requests and KV cache. Pool
and route are ours; the picker is upstream's chart with the values written here. It writes no file.
Sources: kubernetes-sigs/gateway-api-inference-extension v1.6.0, config/crd (InferencePool);
kubernetes-sigs/gateway-api v1.6.1 (HTTPRoute); llm-d/llm-d-router v0.9.0, config/charts (values, and the
names of what they make), where that extension's picker lives since v1.6.0.
"""

from __future__ import annotations

from typing import Any

from tpforge.errors import UsageError
from tpforge.yaml_text import to_documents, to_yaml
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.kubernetes.names import labels, metadata
from triton_repo.deploy.kubernetes.network import client_ports, namespace

Object = dict[str, Any]
PICKER_PORT = 9002
CHART, CHART_VERSION = "oci://ghcr.io/llm-d/charts/llm-d-router-gateway", "v0.9.0"
PICKER_VALUES = "endpoint-picker.yaml"
_TARGETS = ("kubernetes", "helm")
_POOLS = "inference.networking.k8s.io"
_GATEWAYS = "gateway.networking.k8s.io"


def refuse_gateway(deployment: Deployment, target: str) -> None:
    """Raise where no picker could choose, or nothing would write what it needs.

    Raises:
        UsageError: names what does have a front.
    """
    if deployment.options.gateway is None:
        return
    if target not in _TARGETS:
        raise UsageError(f"--gateway: is of targets {' and '.join(_TARGETS)}, not of {target}")
    if deployment.server == "triton":
        raise UsageError(
            "--gateway: an endpoint picker reads requests of OpenAI's API, which Triton does not take; leave "
            "it out, or use --target dynamo, whose front routes by itself"
        )


def gateway_files(deployment: Deployment) -> dict[str, str]:
    """The overlay over production, and the values of the picker's chart; none where no gateway is named."""
    kinds = gateway_objects(deployment, picker=deployment.name)
    if not kinds:
        return {}
    overlay = {
        "resources": ["../production", *(f"{kind}.yaml" for kind in kinds)],
        "namespace": deployment.options.namespace,
    }
    return {
        "overlays/gateway/kustomization.yaml": to_yaml(overlay),
        **{f"overlays/gateway/{kind}.yaml": to_documents([found]) for kind, found in kinds.items()},
        **picker_files(deployment, picker=deployment.name),
    }


def gateway_objects(deployment: Deployment, *, picker: str) -> dict[str, Object]:
    """Pool, route and policy; none where no gateway is named. `picker`: the release of the picker's chart."""
    if deployment.options.gateway is None:
        return {}
    return {
        "inferencepool": _pool(deployment, picker=picker),
        "httproute": _route(deployment),
        "network": _policy(deployment),
    }


def picker_files(deployment: Deployment, *, picker: str) -> dict[str, str]:
    """The values of the picker's chart, with the line that installs it as the release `picker`."""
    install = (
        f"helm upgrade --install {picker} {CHART} --version {CHART_VERSION} \\\n"
        f"  --namespace {deployment.options.namespace} --values {PICKER_VALUES}"
    )
    return {PICKER_VALUES: to_yaml(picker_values(deployment), comment=install)}


def _pool(deployment: Deployment, *, picker: str) -> Object:
    """The pods, the port of their API, and whom a gateway asks for one of them.

    A gateway whose picker does not answer chooses by itself.
    """
    return {
        "apiVersion": f"{_POOLS}/v1",
        "kind": "InferencePool",
        "metadata": metadata(deployment),
        "spec": {
            "selector": {"matchLabels": labels(deployment)},
            "targetPorts": [{"number": deployment.ports.http}],
            "endpointPickerRef": {
                "name": f"{picker}-epp",  # The Service that the chart makes of a release.
                "port": {"number": PICKER_PORT},
                "failureMode": "FailOpen",
            },
        },
    }


def _route(deployment: Deployment) -> Object:
    """OpenAI's paths of the gateway to the pool, without a limit of the gateway on the time of an answer."""
    gateway_namespace, name = _gateway(deployment)
    return {
        "apiVersion": f"{_GATEWAYS}/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(deployment),
        "spec": {
            "parentRefs": [
                {"group": _GATEWAYS, "kind": "Gateway", "namespace": gateway_namespace, "name": name}
            ],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                    "backendRefs": [{"group": _POOLS, "kind": "InferencePool", "name": deployment.name}],
                    "timeouts": {"request": "0s"},
                }
            ],
        },
    }


def _policy(deployment: Deployment) -> Object:
    """The gateway's pods reach the API beside those that the base lets in; the picker is of our namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(deployment, "-gateway"),
        "spec": {
            "podSelector": {"matchLabels": labels(deployment)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [namespace(_gateway(deployment)[0])], "ports": client_ports(deployment)}],
        },
    }


def picker_values(deployment: Deployment) -> Object:
    """Values of the picker's chart: it makes no pool, as there is ours, and finds pods by their labels."""
    _, port, path = deployment.metrics
    return {
        "router": {
            "epp": {
                "image": {
                    "registry": "ghcr.io/llm-d",
                    "repository": "llm-d-router-endpoint-picker",
                    "tag": CHART_VERSION,
                    "pullPolicy": "IfNotPresent",
                },
                "extProcPort": PICKER_PORT,
                "metricsDataSource": {"path": path},
            },
            "inferencePool": {"create": False},
            "modelServers": {
                "type": "trtllm-serve",
                "targetPorts": [{"number": port}],
                "matchLabels": labels(deployment),
            },
        }
    }


def _gateway(deployment: Deployment) -> tuple[str, str]:
    """Namespace and name of the cluster's gateway."""
    given, slash, name = (deployment.options.gateway or "").partition("/")
    return (given, name) if slash else (deployment.options.namespace, given)
