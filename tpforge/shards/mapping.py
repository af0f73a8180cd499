"""Ranks and their places in the tensor-, expert- and pipeline-parallel grid: TensorRT-LLM's Mapping.

It does not know tensors: `padding` says how heads are laid out, `sharding` what each rank holds.
"""

from __future__ import annotations

from pydantic import model_validator

from tpforge.errors import PlanError, UsageError
from tpforge.records import Record


class Mapping(Record):
    """A grid of pp_size stages of tp_size ranks; rank = pp_rank * tp_size + tp_rank.

    The tp ranks of a stage divide the experts of a MoE layer: moe_ep_size groups hold different experts,
    and within a group moe_tp_size ranks share the width of each; moe_tp_size x moe_ep_size = tp_size.
    Source: TensorRT-LLM 1.2, tensorrt_llm/mapping.py.
    """

    tp_size: int = 1
    pp_size: int = 1
    moe_ep_size: int = 1

    @model_validator(mode="after")
    def _check(self) -> Mapping:
        sizes = (("tp", self.tp_size), ("pp", self.pp_size), ("moe-ep", self.moe_ep_size))
        for name, size in sizes:
            if size < 1:
                raise UsageError(f"{name}={size} is not a size; use {name}=1 or more")
        if self.tp_size % self.moe_ep_size:
            raise UsageError(
                f"moe-ep={self.moe_ep_size} does not divide tp={self.tp_size}: the experts are divided "
                "over the tensor-parallel ranks; use a divisor of tp"
            )
        return self

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp_size * self.pp_size

    @property
    def moe_tp_size(self) -> int:
        """Number of ranks that share the width of one expert."""
        return self.tp_size // self.moe_ep_size

    def tp_rank(self, rank: int) -> int:
        """The place of `rank` within its stage."""
        return rank % self.tp_size

    def pp_rank(self, rank: int) -> int:
        """The stage of `rank`."""
        return rank // self.tp_size

    def moe_tp_rank(self, tp_rank: int) -> int:
        """Which part of an expert's width `tp_rank` holds."""
        return tp_rank // self.moe_ep_size

    def moe_ep_rank(self, tp_rank: int) -> int:
        """Which group of experts `tp_rank` holds."""
        return tp_rank % self.moe_ep_size

    def experts(self, tp_rank: int, *, num_experts: int) -> range:
        """The experts that `tp_rank` holds: a contiguous group.

        Raises:
            PlanError: moe_ep_size does not divide `num_experts`.
        """
        if num_experts % self.moe_ep_size:
            raise PlanError(
                f"moe-ep={self.moe_ep_size} does not divide {num_experts} experts; use a divisor of them"
            )
        held = num_experts // self.moe_ep_size
        first = self.moe_ep_rank(tp_rank) * held
        return range(first, first + held)

    def is_first_stage(self, rank: int) -> bool:
        """Whether `rank` holds the embedding."""
        return self.pp_rank(rank) == 0

    def is_last_stage(self, rank: int) -> bool:
        """Whether `rank` holds the final norm and the LM head."""
        return self.pp_rank(rank) == self.pp_size - 1

    def layers(self, rank: int, *, num_layers: int) -> range:
        """The global layer indices of `rank`; the first (num_layers mod pp) stages get one more.

        Raises:
            PlanError: a stage would be empty.
        Source: TensorRT-LLM 1.2, Mapping.pp_layers.
        """
        if self.pp_size > num_layers:
            raise PlanError(
                f"pp={self.pp_size} leaves a stage without layers: the model has {num_layers}; "
                f"use pp={num_layers} or less"
            )
        base, extra = divmod(num_layers, self.pp_size)
        stage = self.pp_rank(rank)
        start = stage * base + min(stage, extra)
        return range(start, start + base + (1 if stage < extra else 0))
