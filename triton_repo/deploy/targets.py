"""The targets of `tpforge deploy`: what each writes, and the command that applies it.

A target is one module with a function from a Deployment to texts by path; adding one is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tpforge.errors import InputRefused, UsageError
from triton_repo.deploy.compose import compose_files
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.dynamo_compose import dynamo_compose_files
from triton_repo.deploy.kubernetes.dynamo import dynamo_files
from triton_repo.deploy.kubernetes.gateway import refuse_gateway
from triton_repo.deploy.kubernetes.helm import helm_files
from triton_repo.deploy.kubernetes.kserve import kserve_files
from triton_repo.deploy.kubernetes.leaderworkerset import leaderworkerset_files
from triton_repo.deploy.kubernetes.objects import kubernetes_files
from triton_repo.deploy.slurm import slurm_files


@dataclass(frozen=True)
class Target:
    """`apply` is run in the folder of the files; NAME, NAMESPACE and TIMEOUT in it are the deployment's.

    `server` answers clients, where it is not what serves the engine by itself.
    """

    name: str
    files: Callable[[Deployment], dict[str, str]]
    apply: tuple[str, ...]
    server: Literal["dynamo"] | None = None


_COMPOSE = ("docker", "compose", "up", "--detach", "--wait")
TARGETS = {
    target.name: target
    for target in (
        Target("compose", compose_files, _COMPOSE),
        Target("kubernetes", kubernetes_files, ("kubectl", "apply", "--kustomize", "overlays/trial")),
        Target(
            "helm",
            helm_files,
            (
                *("helm", "upgrade", "--install", "NAME", ".", "--namespace", "NAMESPACE"),
                *("--wait", "--timeout", "TIMEOUT"),
            ),
        ),
        Target("multi-node", leaderworkerset_files, ("kubectl", "apply", "--kustomize", ".")),
        Target("dynamo", dynamo_files, ("kubectl", "apply", "--kustomize", "."), "dynamo"),
        Target("dynamo-compose", dynamo_compose_files, _COMPOSE, "dynamo"),
        Target("kserve", kserve_files, ("kubectl", "apply", "--kustomize", ".")),
        Target("slurm", slurm_files, ("sbatch", "job.sh")),
    )
}


_PLACEHOLDERS = ("VALUE_", "RELEASENAME", "NAMESPACEOFRELEASE", "PICKEROFRELEASE")


def target_files(target: str, deployment: Deployment) -> dict[str, str]:
    """The files of a target and deployment.json, by their path.

    Raises:
        UsageError: there is no such target, or it does not fit the engine.
    """
    if target not in TARGETS:
        raise UsageError(f"--target {target}: expected one of {', '.join(TARGETS)}")
    refuse_gateway(deployment, target)
    found = TARGETS[target].files(deployment)
    left = [path for path, text in found.items() if any(word in text for word in _PLACEHOLDERS)]
    if left:
        raise InputRefused(f"placeholders are left in {', '.join(sorted(left))}")
    return {**found, "deployment.json": served(target, deployment).model_dump_json(indent=2) + "\n"}


def served(target: str, deployment: Deployment) -> Deployment:
    """The deployment as its target records it: with the server that answers clients there."""
    return deployment.model_copy(update={"server": TARGETS[target].server or deployment.server})


def apply_words(target: str, deployment: Deployment) -> list[str]:
    """The command that applies a target's files."""
    names = {
        "NAME": deployment.name,
        "NAMESPACE": deployment.options.namespace,
        "TIMEOUT": f"{deployment.rollout_s}s",  # Helm's own is 5 min, and it calls what takes longer failed.
        **({} if deployment.options.gateway is None else {"overlays/trial": "overlays/gateway"}),
    }
    return [names.get(word, word) for word in TARGETS[target].apply]
