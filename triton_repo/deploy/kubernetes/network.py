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
    """Clients of the namespace and `allow_from` reach gRPC and HTTP; Prometheus, from anywhere, the metrics.

    Pods reach name servers, where the engine is pulled from, a workload's identity, and, with
    `between_pods`, each other and the API server.
    """
    ports, labels = deployment.ports, metadata["labels"]
    clients = [_port(ports.http), _port(ports.grpc)]
    ingress: list[Object] = [
        {"from": [{"podSelector": {}}], "ports": clients},
        {"from": [{"namespaceSelector": {}}], "ports": [_port(ports.metrics)]},
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


def _port(number: int, protocol: str = "TCP") -> Object:
    return {"protocol": protocol, "port": number}
