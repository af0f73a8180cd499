"""The pod of an engine: what prepares it, the server's container, its probes, what both mount.

The objects around it are those of each target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triton_repo.deploy import files
from triton_repo.deploy.deployment import CONFIG, HOME, STORE, UNLISTED_S, Deployment
from triton_repo.deploy.kubernetes.names import labels
from triton_repo.deploy.kubernetes.placement import placed, spread
from triton_repo.deploy.kubernetes.resources import PREPARES, bounded, resources

PROBE_S = 10
_USER = 1000
Object = dict[str, Any]


def pod(deployment: Deployment, *, server: Object) -> Object:
    """The spec of a pod that prepares the engine, then runs the container that `server` is about."""
    return {
        "serviceAccountName": deployment.name,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": UNLISTED_S + deployment.stop_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"affinity": {"nodeAffinity": _node_affinity(deployment)}} if deployment.gpu_labels else {}),
        **placed(deployment),
        **(spread(key, labels(deployment)) if (key := deployment.options.spread) else {}),
        "initContainers": [_init_container(deployment)],
        "containers": [_container(deployment, server)],
        "volumes": volumes(deployment),
    }


def server_container(
    deployment: Deployment, *, command: list[str] | None = None, watched: bool = True
) -> Object:
    """The server's own fields of its container: name, words, environment, ports, probes.

    The image of trtllm-serve sets the paths of its libraries in its entrypoint, which `command` would
    replace. Source: llm-d/llm-d, guides/optimized-baseline/modelserver/gpu/trtllm/base/patch-trtllm.yaml
    @2267387c36c6.
    """
    starts = "command" if deployment.server == "triton" else "args"
    return {
        "name": deployment.server,
        starts: list(deployment.command) if command is None else command,
        "env": named_values(deployment.own_environment),
        "ports": [{"name": name.lower(), "containerPort": port} for name, port in deployment.open_ports],
        **(lifecycle(deployment) if watched else {}),
    }


def lifecycle(deployment: Deployment) -> Object:
    """The probes, and a pause before the end, in which the service forgets the pod."""
    pause = {"exec": {"command": ["sleep", str(UNLISTED_S)]}}
    return {**probes(deployment), "lifecycle": {"preStop": pause}}


def probes(deployment: Deployment) -> Object:
    """Started and ready when it generates in time, alive while it makes progress.

    Triton's own word holds though a model process is dead. An overloaded server is not ready, and is not
    restarted.
    """
    words = files.canary_words(deployment)
    ask = {"exec": {"command": words}, "timeoutSeconds": files.CANARY_TIMEOUT_S + 5}
    alive = files.alive_words(deployment)
    return {
        "startupProbe": {
            **ask,
            "periodSeconds": PROBE_S,
            "failureThreshold": -(-deployment.start_s // PROBE_S),
        },
        "readinessProbe": {**ask, "periodSeconds": 2 * PROBE_S, "failureThreshold": 2},
        "livenessProbe": {
            "exec": {"command": alive},
            "timeoutSeconds": files.alive_timeout_s(deployment) + 5,
            "periodSeconds": files.ALIVE_EVERY_S,
            "failureThreshold": files.ALIVE_FAILURES,
        },
    }


def volumes(deployment: Deployment) -> list[Object]:
    """The shared store of engines, and what a pod has for itself."""
    return [
        {"name": "store", "persistentVolumeClaim": {"claimName": f"{deployment.name}-engines"}},
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{deployment.shm_gib}Gi"}},
        {"name": "config", "configMap": {"name": f"{deployment.name}-config"}},
    ]


def locked_down() -> Object:
    """The security context of every container, as the restricted Pod Security Standard wants it.

    A capability such as IPC_LOCK would reach no process of another user than root.
    """
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def named_values(settings: Mapping[str, str]) -> list[Object]:
    """Environment variables as Kubernetes writes them."""
    return [{"name": name, "value": value} for name, value in settings.items()]


def _container(deployment: Deployment, server: Object) -> Object:
    """What all servers have alike, around what one of them is started by and asked."""
    words: Object = {name: server[name] for name in ("command", "args") if name in server}
    rest = {name: value for name, value in server.items() if name not in ("name", "env", *words)}
    return {
        "name": server["name"],
        "image": deployment.image,
        **words,
        "env": [*_environment(), *server.get("env", ()), *_given(deployment)],
        **({"ports": rest.pop("ports")} if "ports" in rest else {}),
        "resources": resources(deployment),
        "securityContext": locked_down(),
        "volumeMounts": _mounts(store_read_only=True),
        **rest,
    }


def _init_container(deployment: Deployment) -> Object:
    return {
        "name": "prepare",
        "image": deployment.tools_image,
        "command": ["sh", str(CONFIG / "prepare.sh")],
        "env": _environment(),
        # For the engine's URL (AWS_*, GOOGLE_*, AZURE_*, AUTHORIZATION): kubectl create secret generic ...
        "envFrom": [{"secretRef": {"name": f"{deployment.name}-credentials", "optional": True}}],
        "resources": bounded(PREPARES, deployment),
        "securityContext": locked_down(),
        "volumeMounts": _mounts(store_read_only=False),
    }


def _environment() -> list[Object]:
    return named_values({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HOME": "/tmp"})


def _given(deployment: Deployment) -> list[Object]:
    return named_values(dict(deployment.options.environment))


def _mounts(*, store_read_only: bool) -> list[Object]:
    return [
        {"name": "store", "mountPath": str(STORE), "readOnly": store_read_only},
        {"name": "home", "mountPath": str(HOME)},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "config", "mountPath": str(CONFIG), "readOnly": True},
    ]


def _node_affinity(deployment: Deployment) -> Object:
    wanted = [
        {"key": key, "operator": "In", "values": [value]} for key, value in deployment.gpu_labels.items()
    ]
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": wanted}]
        }
    }
