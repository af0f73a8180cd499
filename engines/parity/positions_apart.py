"""Whether a few tokens at positions far apart see each other as they do in transformers.

It takes a hundred tokens where a prompt as long as the model's windows and scaled ropes would take too long.
Positions, masks and what is out of a window come from transformers' own config and functions, never from the
model as tpforge has read it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines.parity.far_positions import declared_window, largest, thresholds
from engines.reference import Executor
from engines.reference.batches import Logits, Prefill
from tpforge.manifest import Limits, Manifest
from tpforge.progress import Progress

_BEGINNING = 12
_AROUND = 12
"""Positions before and after a threshold: those that see the last of the beginning, and those that do not."""
_END = 8


@dataclass(frozen=True)
class Apart:
    """Tokens, where they stand, and transformers' logits of each."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    logits: Tensor


def places_apart(config: Any, *, limits: Limits) -> tuple[int, ...]:
    """Positions at the beginning, around each threshold that the engine reaches, and at its end."""
    most = min(limits.max_input_len, limits.max_seq_len - 1)
    around = [range(one - _AROUND, one + _AROUND) for one in thresholds(config)]
    each = [range(_BEGINNING), *around, range(most - _END, most)]
    return tuple(sorted({place for places in each for place in places if 0 <= place < most}))


@torch.inference_mode()
def expect_apart(model: Any, manifest: Manifest, *, progress: Progress) -> Apart | None:
    """What transformers says of such tokens; None where positions are not rotated, or cannot be given."""
    config = model.config.get_text_config()
    takes_places = "position_ids" in inspect.signature(model.forward).parameters
    is_rotated = getattr(config, "rope_parameters", None) and not getattr(config, "alibi", False)
    if not is_rotated or not takes_places:
        return None
    places = places_apart(config, limits=manifest.limits)
    generator = torch.Generator().manual_seed(0)
    tokens = tuple(torch.randint(manifest.model.vocab_size, (len(places),), generator=generator).tolist())
    positions = torch.tensor(places)
    progress(f"transformers: {len(places)} tokens at positions up to {places[-1]}")
    output = model(
        torch.tensor([tokens]),
        position_ids=positions[None],
        attention_mask=_masks(config, positions),
        use_cache=False,
    )
    return Apart(tokens, places, output.logits[0].float().clone())


def apart_error(apart: Apart, executor: Executor) -> float:
    """The largest difference of a logit."""
    batch = Prefill(slot=0, start=0, tokens=apart.tokens, logits=Logits.ALL, places=apart.places)
    logits = executor.forward(batch)
    assert logits is not None
    return largest(logits.cpu() - apart.logits)


def _masks(config: Any, positions: Tensor) -> Tensor | dict[str, Tensor]:
    """What is added to the scores, for all layers or by the kinds of layers that the config names."""
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    queries, keys = positions[:, None], positions[None, :]
    window = declared_window(config)

    def added(kept: Tensor) -> Tensor:
        mask = torch.zeros(kept.shape).masked_fill(~kept, torch.finfo(torch.float32).min)
        return mask[None, None]

    full = added(causal_mask_function(0, 0, queries, keys))
    sliding = (
        full if window is None else added(sliding_window_causal_mask_function(window)(0, 0, queries, keys))
    )
    if getattr(config, "layer_types", None) is None:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}
