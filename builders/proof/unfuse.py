"""Takes one matrix out of a fused source tensor by reshaping it, for the proof of shards.

It shares no arithmetic with `tpforge.shards.sections`, which conversion follows: the two prove each other.
"""

from __future__ import annotations

import torch

from tpforge.model import ModelSpec
from tpforge.shards.sections import Section


def unfuse(
    tensor: torch.Tensor, section: Section, *, dim: int, model: ModelSpec, expert: int = 0
) -> torch.Tensor:
    """The rows (`dim` 0) or columns (1) of `tensor` that are `section`."""
    if section is Section.WHOLE:
        return tensor
    if dim == 1:
        return unfuse(tensor.T, section, dim=0, model=model, expert=expert).T
    rest = tensor.shape[1:]
    if section in (Section.FIRST_HALF, Section.SECOND_HALF):
        return tensor.chunk(2)[0 if section is Section.FIRST_HALF else 1]
    if section is Section.AFTER_TWO:
        return tensor[2:]
    if section is Section.EXPERT:
        assert model.moe is not None
        return tensor.reshape(model.moe.num_experts, -1, *rest)[expert]
    num_heads, num_kv_heads = model.attention.num_heads, model.attention.num_kv_heads
    if section in (Section.HEAD_KEY, Section.HEAD_VALUE):
        assert model.attention.latent is not None
        both = tensor.reshape(num_heads, -1, *rest)
        size = model.attention.latent.qk_nope_head_size
        wanted = both[:, :size] if section is Section.HEAD_KEY else both[:, size:]
        return wanted.flatten(0, 1)
    if section in (Section.STACKED_QUERY, Section.STACKED_KEY, Section.STACKED_VALUE):
        heads = tensor.reshape(num_heads + 2 * num_kv_heads, -1, *rest)
        query, key, value = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads])
        chosen = {Section.STACKED_QUERY: query, Section.STACKED_KEY: key}.get(section, value)
        return chosen.flatten(0, 1)
    groups = tensor.reshape(num_kv_heads, num_heads // num_kv_heads + 2, -1, *rest)
    if section is Section.GROUPED_QUERY:
        return groups[:, :-2].flatten(0, 2)
    return groups[:, -2 if section is Section.GROUPED_KEY else -1].flatten(0, 1)
