"""What the rules of a plan look at, and what one of them says.

It holds no rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tpforge.plan.options.option import Ask, Option
from tpforge.plan.options.percentiles import Simulated
from tpforge.quantization import find_format
from tpforge.shards.weights import Blueprint


@dataclass(frozen=True)
class Advice:
    """What one rule says."""

    rule: str
    level: Literal["note", "warning"]
    text: str


@dataclass(frozen=True)
class Case:
    """What the rules look at; `instead` has the best option of each of the `alternatives` that has one."""

    chosen: Option
    options: Sequence[Option]
    blueprint: Blueprint
    ask: Ask
    instead: Sequence[Option]
    alternatives: Sequence[Blueprint] = ()
    simulated: Simulated | None = None

    def single(self, bits: int) -> Option | None:
        """The fastest option that works on one GPU per replica, with weights of that many bits."""
        found = [
            one
            for one in self.options
            if one.rejection is None and one.mapping.world_size == 1 and bits_of(one) == bits
        ]
        return max(found, key=lambda one: one.tokens_per_second, default=None)


def compared(option: Option, chosen: Option) -> str:
    """How an option does beside the chosen one: in tokens/s, or in time where both give all that is asked."""
    tpot, chosen_tpot = (one.speed.tpot_ms / one.scale if one.speed else 0.0 for one in (option, chosen))
    times = f"{tpot:.1f} ms per token against {chosen_tpot:.1f}"
    if option.serves_rate and chosen.serves_rate and option.num_gpus == chosen.num_gpus:
        return f"the same requests/s at {times}"
    change = option.tokens_per_gpu / chosen.tokens_per_gpu - 1
    return f"{100 * change:+.0f} % tokens/s per GPU and {times}"


def bits_of(option: Option) -> int:
    """Bits of a weight."""
    return 16 if option.weight_format is None else find_format(option.weight_format).weight_bits
