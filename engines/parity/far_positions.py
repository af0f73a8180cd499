"""Whether positions past every threshold of the model compute what transformers computes.

Sliding windows and scaled ropes show nowhere but behind a length that ordinary prompts do not have. It takes
the thresholds from transformers' own config, never from the model as tpforge has read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines.reference import Executor
from engines.reference.batches import Logits, Prefill
from tpforge.manifest import Limits, Manifest
from tpforge.progress import Progress

MOST_TOKENS = 8192
"""A longer prompt takes too long in float32 on a CPU; beyond it `positions_apart` looks."""
_BEHIND = 64
"""Tokens behind a threshold, so that what is out of a window has been so for a while."""
_KEPT = 32
"""Positions whose logits are compared: the last ones."""
_KEYS = ("sliding_window", "original_max_position_embeddings", "attention_chunk_size")


@dataclass(frozen=True)
class Far:
    """A prompt past the thresholds, and transformers' logits of its last positions."""

    tokens: tuple[int, ...]
    logits: Tensor


def thresholds(config: Any) -> list[int]:
    """The lengths at which a model of this transformers config computes otherwise than before, sorted."""
    found = {getattr(config, key, None) for key in _KEYS}
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(one for one in ropes.values() if isinstance(one, dict))):
        found.add(rope.get("original_max_position_embeddings"))
        if rope.get("rope_type") == "dynamic":
            found.add(getattr(config, "max_position_embeddings", None))
    return sorted(one for one in found if isinstance(one, int) and one > 0)


def far_tokens(config: Any, *, limits: Limits, vocab_size: int) -> tuple[int, ...]:
    """A prompt past the largest threshold that the engine can reach; empty when it reaches none."""
    most = min(limits.max_input_len, limits.max_seq_len - 1)
    reached = [one for one in thresholds(config) if one + 1 < min(most, MOST_TOKENS)]
    if not reached:
        return ()
    length = min(reached[-1] + _BEHIND, most, MOST_TOKENS)
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(vocab_size, (length,), generator=generator).tolist())


@torch.inference_mode()
def expect_far(model: Any, manifest: Manifest, *, progress: Progress) -> Far | None:
    """What transformers says past the thresholds; None when there are none within the engine's limits."""
    config = model.config.get_text_config()
    tokens = far_tokens(config, limits=manifest.limits, vocab_size=manifest.model.vocab_size)
    if not tokens:
        return None
    progress(f"transformers: a prompt of {len(tokens)} tokens, past {thresholds(config)}")
    return Far(tokens, model(torch.tensor([tokens])).logits[0, -_KEPT:].float().clone())


def far_error(far: Far, executor: Executor) -> float:
    """The largest difference of a logit at the last positions."""
    logits = executor.forward(Prefill(slot=0, start=0, tokens=far.tokens, logits=Logits.ALL))
    assert logits is not None
    return largest(logits[-_KEPT:].cpu() - far.logits)


def largest(difference: Tensor) -> float:
    """The largest size of a number; of what is none, or infinite, the largest that JSON can hold."""
    most = torch.finfo(torch.float32).max
    return float(difference.abs().max().nan_to_num(nan=most, posinf=most))


def has_window(config: Any) -> bool:
    """Whether the config's class knows windows; others keep such a key and pass over it."""
    return "sliding_window" in getattr(type(config), "__dataclass_fields__", {})


def declared_window(config: Any) -> int | None:
    """The window of the layers that have one; None without any."""
    return (config.sliding_window or None) if has_window(config) else None


def window_problems(config: Any, manifest: Manifest) -> Iterator[str]:
    """Layers whose window is not the one that transformers' config declares for them."""
    if not has_window(config):
        return
    kinds, window = getattr(config, "layer_types", None), declared_window(config)
    for layer in range(manifest.model.num_layers):
        is_full = kinds is not None and kinds[layer] != "sliding_attention"
        expected, found = None if is_full else window, manifest.model.window(layer)
        if found != expected:
            yield (
                f"layer {layer}: the engine has a sliding window of {found}, "
                f"transformers' config of {expected}"
            )
