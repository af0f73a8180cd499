"""Who reaches the pods of an engine, and what they reach.

It publishes nothing: a Service, an Ingress or a Gateway does, and the clients behind it are `allow_from`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from triton_repo.deploy.deployment import Deployment

Object = dict[str, Any]
_DNS, _HTTPS, _API = 53, 443, 6443
_LINK_LOCAL = "169.254.0.0/16"
"""Where clouds hand out the credentials of a workload's identity."""


def network_policy(deployment: Deployment, metadata: Object, *, between_pods: bool = False) -> Object:
    """Clients of the namespace and `allow_from` reach the API; Prometheus, from anywhere, a port of metrics.

    Where that port is the API's, it is the namespace of Prometheus alone. Pods reach name servers, where the
    engine is pulled from, a workload's identity, and, with `between_pods`, each other and the API server.
    """
    labels, clients = metadata["labels"], client_ports(deployment)
    ingress: list[Object] = [
        {"from": [{"podSelector": {}}], "ports": clients},
        {"from": [_prometheus(deployment)], "ports": [_port(deployment.metrics[1])]},
    ]
    if deployment.options.allow_from:
        sources = [{"ipBlock": {"cidr": cidr}} for cidr in deployment.options.allow_from]
        ingress.append({"from": sources, "ports": clients})
    pulls = {_HTTPS, urlsplit(deployment.options.engine_url or "").port or _HTTPS}
    if (deployment.options.engine_url or "").startswith("http://"):
        pulls.add(urlsplit(deployment.options.engine_url or "").port or 80)
    egress: list[Object] = [
        {"ports": [_port(_DNS, "UDP"), _port(_DNS)]},
        {"ports": [_port(number) for number in sorted(pulls | ({_API} if between_pods else set()))]},
        {"to": [{"ipBlock": {"cidr": _LINK_LOCAL}}]},
    ]
    if between_pods:
        own = {"podSelector": {"matchLabels": labels}}
        ingress.append({"from": [own]})
        egress.append({"to": [own]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def client_ports(deployment: Deployment) -> list[Object]:
    """Those of the API."""
    return [_port(number) for name, number in deployment.open_ports if name != "metrics"]


def namespace(name: str) -> Object:
    """All pods of a namespace, by the label that Kubernetes gives each."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _prometheus(deployment: Deployment) -> Object:
    if deployment.server == "triton":
        return {"namespaceSelector": {}}
    return namespace(deployment.options.monitor_namespace)


def _port(number: int, protocol: str = "TCP") -> Object:
    return {"protocol": protocol, "port": number}
