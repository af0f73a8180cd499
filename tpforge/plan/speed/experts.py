"""What dividing experts over ranks costs beside their work: the busiest rank, tiles, moved tokens.

It is modelled from how tokens are routed; how fast they are moved is `communication`'s matter.
"""

from __future__ import annotations

import math
from typing import Literal

from tpforge.model import MoeSpec
from tpforge.shards.mapping import Mapping

_TILE = 128
"""Columns that a grouped product computes together. Source: TensorRT-LLM 1.2, the tiles of
cpp/tensorrt_llm/kernels/cutlass_kernels/moe_gemm, which are 128 wide or more at large batches.
"""
_SENT_BYTES: dict[str, float] = {"fp8": 1.0, "fp4": 0.5 + 1 / 16}
"""Of a value that is sent to the experts: it is quantized before, where the products are."""


def touched(moe: MoeSpec, *, tokens: float) -> float:
    """The share of the experts that one of so many tokens or more is routed to, each to top_k at random."""
    return float(1 - (1 - moe.top_k / moe.num_experts) ** max(1.0, tokens))


def busiest(moe: MoeSpec, *, mapping: Mapping, tokens: float) -> float:
    """The work of the rank with most of `tokens`, as a multiple of the mean.

    Of tokens that are routed at random the most of ep sums, which are about normal, is sqrt(2 ln ep)
    deviations above the mean. That real routers favour some experts is in the measured kernels (`grouped`).
    """
    groups = mapping.moe_ep_size
    if groups == 1:
        return 1.0
    mean = tokens * moe.top_k / groups
    above = math.sqrt(2 * math.log(groups) * (1 - 1 / groups) / max(mean, 1e-9))
    return min(1 + above, float(groups))


def tile_padding(moe: MoeSpec, *, mapping: Mapping) -> float:
    """The columns computed for an expert's part on a rank, as a multiple of those it has."""
    width = moe.intermediate_size / mapping.moe_tp_size
    return math.ceil(width / _TILE) * _TILE / width


def sent_bytes(activations: Literal["float", "int8", "fp8", "fp4"]) -> float:
    """Of a value that is sent to the experts; it comes back in 16 bits.

    Source: TensorRT-LLM 1.2, _torch/modules/fused_moe: all-gather of quantized values, reduce-scatter.
    """
    return _SENT_BYTES.get(activations, 2.0)
