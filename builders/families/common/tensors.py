"""Source tensors that family tables are put together from, and the conditions under which they are there.

It knows no family: names are given. `rows` is its counterpart for what is written.
"""

from __future__ import annotations

from collections.abc import Callable

from builders.families.common.base import SourceTensor
from tpforge.model import ModelSpec

ModelCondition = Callable[[ModelSpec], bool]


def if_always(model: ModelSpec) -> bool:
    """Every model has it."""
    return True


def if_untied(model: ModelSpec) -> bool:
    """The LM head has weights of its own."""
    return not model.tie_word_embeddings


def if_biased(model: ModelSpec) -> bool:
    """Queries, keys and values have biases."""
    return model.attention.bias


def if_output_biased(model: ModelSpec) -> bool:
    """The attention output has a bias."""
    return model.attention.output_bias


def if_mlp_biased(model: ModelSpec) -> bool:
    """The dense block has biases."""
    return model.mlp.bias


def linear_tensors(
    name: str, rows: str, columns: str, *, bias: ModelCondition = if_always
) -> tuple[SourceTensor, ...]:
    """The weight [rows, columns] of a linear layer, and its bias where `bias` holds."""
    return (SourceTensor(f"{name}.weight", (rows, columns)), SourceTensor(f"{name}.bias", (rows,), when=bias))


def norm_tensors(name: str, *, when: ModelCondition = if_always) -> tuple[SourceTensor, ...]:
    """A layer norm with its bias."""
    return tuple(SourceTensor(f"{name}.{suffix}", ("hidden",), when=when) for suffix in ("weight", "bias"))


def lm_head_tensor(name: str = "lm_head.weight") -> SourceTensor:
    """An LM head with weights of its own, where it is not the embedding."""
    return SourceTensor(name, ("vocab", "hidden"), when=if_untied)
