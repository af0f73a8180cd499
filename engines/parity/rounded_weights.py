"""Rounds the weights of a transformers model to those that an engine of a type holds, for comparisons.

It loads nothing. Norms that keep their weight as its distance from one (Gemma, Nemotron) stand in an engine
as the factor, which has fewer bits for the distance: which norms do so is asked of the module itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module, Parameter


@torch.no_grad()
def round_weights(model: Module, to: torch.dtype, *, vectors_alone: bool = False) -> None:
    """Every parameter in `to`, kept in float32; with `vectors_alone` those of one dim, where norms are."""
    distances = {id(module.weight) for module in model.modules() if _is_distance(module)}
    for parameter in model.parameters():
        if vectors_alone and parameter.dim() > 1:
            continue
        shift = 1.0 if id(parameter) in distances else 0.0
        parameter.copy_((parameter + shift).to(to).to(parameter.dtype) - shift)


def _is_distance(module: Module) -> bool:
    """Whether it lets something through with a weight of zero: what it multiplies by is one more."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Parameter) or weight.dim() != 1 or any(True for _ in module.children()):
        return False
    own = list(module.parameters(recurse=False))
    kept = [one.clone() for one in own]
    for one in own:
        one.zero_()
    passed: Tensor = module(torch.arange(1.0, weight.numel() + 1)[None].to(weight.dtype))
    for one, values in zip(own, kept, strict=True):
        one.copy_(values)
    return bool(passed.any())
