"""What an engine is built from and for: the checkpoint's config.json, the release, the GPUs.

It decides nothing; `relations` judges arguments against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused
from tpforge.trtllm.versions import Release


@dataclass(frozen=True)
class CheckpointFacts:
    """The fields of a TensorRT-LLM checkpoint's config.json that decide how it can be built.

    `architecture` is TensorRT-LLM's name; `max_positions` None when the model has no fixed number.
    """

    architecture: str
    dtype: str
    quant_algo: str | None
    tp_size: int
    pp_size: int
    moe_ep_size: int
    world_size: int
    max_positions: int | None

    @property
    def is_fp8(self) -> bool:
        """Whether weights and activations are FP8 with one scale per tensor."""
        return self.quant_algo == "FP8"


@dataclass(frozen=True)
class BuildTarget:
    """A checkpoint, a release, and the GPUs; `sm` (90 for Hopper) and `num_gpus` None are not known."""

    release: Release
    checkpoint: CheckpointFacts
    sm: int | None = None
    num_gpus: int | None = None


def read_facts(config: Mapping[str, Any], *, where: Path | str) -> CheckpointFacts:
    """The facts of a checkpoint's config.json.

    Raises:
        InputRefused: it is not one; names every field that is missing.
    """
    mapping = config.get("mapping")
    problems = [f"{key}: missing" for key in ("architecture", "dtype") if key not in config]
    problems += ["mapping: missing"] if not isinstance(mapping, dict) else []
    if problems or not isinstance(mapping, dict):
        raise InputRefused.listing(f"{where}: is not the config.json of a TensorRT-LLM checkpoint:", problems)
    quantization = config.get("quantization") or {}
    tp, pp = int(mapping.get("tp_size", 1)), int(mapping.get("pp_size", 1))
    world = int(mapping.get("world_size", tp * pp))
    if world != tp * pp:
        raise InputRefused(
            f"{where}: mapping.world_size is {world}, but tp_size {tp} x pp_size {pp} are {tp * pp} ranks"
        )
    return CheckpointFacts(
        architecture=str(config["architecture"]),
        dtype=str(config["dtype"]),
        quant_algo=quantization.get("quant_algo"),
        tp_size=tp,
        pp_size=pp,
        moe_ep_size=int(mapping.get("moe_ep_size", 1)),
        world_size=world,
        max_positions=config.get("max_position_embeddings"),
    )
