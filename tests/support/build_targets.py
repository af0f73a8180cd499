"""What trtllm-build would compile: a checkpoint's facts and GPUs that are made up.

It reads no checkpoint.
"""

from __future__ import annotations

from typing import Any

from builders.tensorrt.target import BuildTarget, CheckpointFacts
from tpforge.trtllm.versions import find_release

RELEASE = find_release("1.2.1")


def target_of(*, sm: int | None = 90, num_gpus: int | None = 8, **changes: Any) -> BuildTarget:
    facts: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quant_algo": None,
        "tp_size": 4,
        "pp_size": 1,
        "moe_ep_size": 1,
        "world_size": 4,
        "max_positions": 131072,
        **changes,
    }
    return BuildTarget(RELEASE, CheckpointFacts(**facts), sm=sm, num_gpus=num_gpus)
