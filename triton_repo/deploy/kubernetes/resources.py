"""What containers ask for and may have: GPUs, CPUs, memory; pods of quality of service Guaranteed.

It places no pod: placement.py does.
"""

from __future__ import annotations

from typing import Any

from triton_repo.deploy.deployment import Deployment

Object = dict[str, Any]
PREPARES: Object = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
"""Of the container that brings and proves the engine."""


def resources(deployment: Deployment) -> Object:
    """What the server's container asks for and may have."""
    memory = f"{deployment.memory_gib}Gi"
    if not deployment.needs_gpus:
        asked = {"requests": {"cpu": "2", "memory": memory}, "limits": {"memory": memory}}
        return bounded(asked, deployment)
    gpus = str(deployment.ranks_per_node)
    requests = {"cpu": str(4 * deployment.ranks_per_node), "memory": memory, "nvidia.com/gpu": gpus}
    return bounded({"requests": requests, "limits": {"nvidia.com/gpu": gpus}}, deployment)


def bounded(asked: Object, deployment: Deployment) -> Object:
    """With limits that are the requests, where the pods are to be of quality of service Guaranteed."""
    if not deployment.options.guaranteed:
        return asked
    most = {**asked["requests"], **asked["limits"]}
    return {"requests": most, "limits": most}
