"""What tensor parallelism costs when it leaves its node, by the planner's figures, and what to do instead.

It decides nothing: a deployment that crosses is warned about, not refused.
"""

from __future__ import annotations

from tpforge.manifest import Manifest
from tpforge.plan.hardware.communication import allreduce_seconds
from tpforge.plan.hardware.gpus import Cluster, find_gpu
from tpforge.plan.speed.calibration import calibration
from triton_repo.deploy.deployment import Deployment

_TOKENS = 64
"""Tokens of a decoding step: as many requests as commonly run at once."""
_GPU = "h100-sxm"
"""Whose measured all-reduce stands for a node with NVLink; the warning names it."""


def crossing_warnings(deployment: Deployment, manifest: Manifest) -> tuple[str, ...]:
    """A warning when the ranks of a stage lie on more than one node."""
    inside = deployment.ranks_per_node
    if deployment.tp_size <= inside:
        return ()
    count = 2 * manifest.model.num_layers
    within = 1e3 * count * _seconds(manifest, inside, fast_group=None)
    across = 1e3 * count * _seconds(manifest, deployment.tp_size, fast_group=inside)
    return (
        f"tp={deployment.tp_size} crosses nodes of {inside} GPUs: by the planner, a step of {_TOKENS} tokens "
        f"then waits {across:.1f} ms for its {count} all-reduces over 400 Gb/s per GPU, against "
        f"{within:.1f} ms for tp={inside} within a node of {_GPU}; keep TP inside and put PP across: "
        f"tpforge build --tp {inside} --pp {deployment.world_size // inside}",
    )


def _seconds(manifest: Manifest, ranks: int, *, fast_group: int | None) -> float:
    """One all-reduce of a step's activations in 16 bits; over the network beyond `fast_group` ranks."""
    gpu = find_gpu(_GPU)
    if fast_group is not None:  # Under a name of its own: what was measured was measured within a node.
        gpu = gpu.model_copy(update={"name": f"{_GPU} across nodes", "nvlink_group": fast_group})
    cluster = Cluster(gpu=gpu, num_gpus=ranks, link="nvlink")
    num_bytes = _TOKENS * manifest.model.hidden_size * 2
    return allreduce_seconds(num_bytes, ranks=ranks, cluster=cluster, shares=calibration().fit.links)
