"""Named weight transforms that a family's table may ask for, applied to a whole source tensor before cuts.

It does not cut or cast. A transform says what it does to the shape, so that plans are made without data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpforge.model import ModelSpec

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """A change of a whole tensor of a model, and the shape that comes of it."""

    shape: Callable[[Shape, ModelSpec], Shape]
    tensor: Callable[[torch.Tensor, ModelSpec], torch.Tensor]


def _key_transposed(tensor: torch.Tensor, model: ModelSpec) -> torch.Tensor:
    """The key part of DeepSeek's kv_b_proj, transposed within each head: [heads x kv_lora_rank, nope]."""
    assert model.attention.latent is not None
    heads = tensor.reshape(model.attention.num_heads, -1, tensor.shape[1])
    return heads[:, : model.attention.latent.qk_nope_head_size].transpose(1, 2).flatten(0, 1)


def _key_transposed_shape(shape: Shape, model: ModelSpec) -> Shape:
    assert model.attention.latent is not None
    return (model.attention.num_heads * shape[1], model.attention.latent.qk_nope_head_size)


def _unit_rows(tensor: torch.Tensor, model: ModelSpec) -> torch.Tensor:
    """[vocab, hidden] with each row divided by its Euclidean norm, in float32, then rounded back."""
    from torch.nn.functional import normalize

    return normalize(tensor.float()).to(tensor.dtype)


TRANSFORMS: dict[str, Transform] = {
    # Conv1D of GPT-2 keeps weights as [in, out]; TensorRT-LLM wants [out, in].
    "transpose": Transform(shape=lambda shape, model: shape[::-1], tensor=lambda tensor, model: tensor.T),
    # Gemma and Nemotron store a norm's weight as its distance from one; TensorRT-LLM wants the factor. It is
    # rounded once, to the engine's type.
    "plus one": Transform(shape=lambda shape, model: shape, tensor=lambda tensor, model: tensor.float() + 1),
    # Baichuan 2 divides each row of its LM head by its norm when it is applied.
    "unit rows": Transform(shape=lambda shape, model: shape, tensor=_unit_rows),
    "key transposed": Transform(shape=_key_transposed_shape, tensor=_key_transposed),
}


def transformed(tensor: torch.Tensor, name: str | None, *, model: ModelSpec) -> torch.Tensor:
    """`tensor`, whole, after the named transform; itself when `name` is None.

    Of the shape that `transformed_shape` says. The type may be wider ("plus one" gives float32): the caller
    casts.
    """
    return tensor if name is None else TRANSFORMS[name].tensor(tensor, model)


def transformed_shape(shape: Shape, name: str | None, *, model: ModelSpec) -> Shape:
    """`shape` after the named transform; itself when `name` is None."""
    return shape if name is None else TRANSFORMS[name].shape(shape, model)
