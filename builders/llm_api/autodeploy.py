"""What AutoDeploy, the LLM API's other backend, takes: it divides a model over `world_size` ranks by itself.

Which architectures it alone runs is `tpforge.trtllm.architectures`'s. Source: NVIDIA/TensorRT-LLM,
tensorrt_llm/_torch/auto_deploy/llm_args.py @01e5db066ef7 (main, 2026), LlmArgs and its validators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tpforge.shards.mapping import Mapping as RankMapping

AUTODEPLOY = "_autodeploy"
_DIVIDES = (
    "pp_partition",
    "context_parallel_size",
    "moe_cluster_parallel_size",
    "moe_tensor_parallel_size",
    "moe_expert_parallel_size",
    "enable_attention_dp",
    "enable_lm_head_tp_in_adp",
    "cp_config",
    "attention_dp_config",
)
_FIXED = ("gpus_per_node",)
WARNING = (
    "backend _autodeploy: upstream's PyTorch backend does not know this architecture; AutoDeploy, a "
    "prototype, divides it over world_size ranks by rules of its own, which no figure of a plan follows"
)


def autodeploy_ranks(mapping: RankMapping) -> dict[str, Any]:
    """The arguments that say how many ranks there are."""
    return {"world_size": mapping.world_size}


def autodeploy_problems(given: Mapping[str, Any], *, mapping: RankMapping) -> Iterator[str]:
    """What AutoDeploy ends its start on, where the PyTorch backend would take it."""
    for option, size in (("--pp", mapping.pp_size), ("--moe-ep", mapping.moe_ep_size)):
        if size > 1:
            yield f"{option} {size}: AutoDeploy divides the model over --tp ranks by itself; leave it out"
    for name, value in given.items():
        if value and any(name == one or name.startswith(f"{one}.") for one in _DIVIDES):
            yield f"{name}: AutoDeploy divides the model by itself, and takes no such setting; leave it out"
        if value is not None and name in _FIXED:
            yield f"{name}: AutoDeploy takes that of the host; leave it out"
    if (given.get("max_beam_width") or 1) > 1:
        yield "max_beam_width: AutoDeploy has no beam search; use 1"
