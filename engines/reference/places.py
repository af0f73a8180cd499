"""Where a batch stands in its sequences: positions, attention masks, rotary rows, ALiBi biases.

All of it is the same for every layer (or for every layer with a sliding window), and is made once a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batches import Batch, Prefill
from .config import EngineConfig
from .layers.rotary import Rope, RotaryTable, Rows

Mask = Tensor | None


@dataclass(frozen=True)
class Place:
    """Of one step: positions [tokens], length of the cache that is read; by window, masks and rotary rows.

    `slots` counts the tokens: single tokens belong to one slot each.

    A mask is None where plain causality is meant; else boolean, or a float that is added to the scores.
    For a chunk it is [tokens, length] (ALiBi: [heads, tokens, length]), for single tokens
    [requests, 1, 1, length] (ALiBi: [requests, KV heads, heads a group, length]).
    """

    positions: Tensor
    slots: Tensor
    length: int
    masks: dict[int | None, Mask]
    rotary: dict[int | None, Rows]


class Places:
    """Makes the place of every batch of one rank."""

    def __init__(
        self, config: EngineConfig, *, tp_rank: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._windows = tuple(dict.fromkeys(config.windows))
        self._device, self._dtype = device, dtype
        self._alibi = _rank_alibi(config, tp_rank=tp_rank, device=device)
        self._num_kv_heads = max(1, config.num_kv_heads // config.tp_size)
        self._tables = _tables(config, self._windows, device=device, dtype=dtype)

    def find(self, batch: Batch) -> Place:
        """The place of `batch`."""
        if isinstance(batch, Prefill) and batch.places is not None:
            return self._apart(batch.places)
        if isinstance(batch, Prefill):
            positions, stop = torch.arange(batch.start, batch.stop, device=self._device), batch.stop
            prompt_length, is_plain = batch.prompt_length or stop, batch.start == 0
        else:
            positions, stop = torch.tensor(batch.positions, device=self._device), max(batch.positions) + 1
            prompt_length, is_plain = None, min(batch.positions) + 1 == stop
        masks: dict[int | None, Mask] = {}
        for window in self._windows:
            no_mask = is_plain and self._alibi is None and (window is None or stop <= window)
            keys = torch.arange(stop, device=self._device)
            masks[window] = None if no_mask else self._mask(batch, positions, keys, window)
        return self._place(positions, stop, masks, prompt_length=prompt_length)

    def _apart(self, places: tuple[int, ...]) -> Place:
        """The place of tokens that stand apart, each seeing those before it."""
        positions = torch.tensor(places, device=self._device)
        batch = Prefill(slot=0, start=0, tokens=places)
        masks: dict[int | None, Mask] = {
            window: self._mask(batch, positions, positions, window) for window in self._windows
        }
        return self._place(positions, len(places), masks, prompt_length=places[-1] + 1)

    def _place(
        self, positions: Tensor, stop: int, masks: dict[int | None, Mask], *, prompt_length: int | None
    ) -> Place:
        rows = {table: table.rows(positions, length=prompt_length) for table in set(self._tables.values())}
        rotary = {window: rows[table] for window, table in self._tables.items()}
        slots = torch.arange(len(positions), device=self._device)
        return Place(positions, slots, stop, masks, rotary)

    def _mask(self, batch: Batch, positions: Tensor, keys: Tensor, window: int | None) -> Tensor:
        mask = keys[None, :] <= positions[:, None]
        if window is not None:
            mask &= keys[None, :] > positions[:, None] - window
        if self._alibi is None:
            return mask if isinstance(batch, Prefill) else mask[:, None, None, :]
        biases = self._alibi.biases(positions, keys).masked_fill(~mask, -math.inf).to(self._dtype)
        if isinstance(batch, Prefill):
            return biases
        requests, stop = mask.shape
        return biases.transpose(0, 1).reshape(requests, self._num_kv_heads, -1, stop)


@dataclass(frozen=True)
class Alibi:
    """What the heads of a rank add to their scores; `slopes` are [heads].

    `is_rounded`: a bias is that of the key's position in bfloat16, as transformers' Falcon has it from its
    training, and not that of the distance. TensorRT-LLM does not round.
    """

    slopes: Tensor
    scale: float
    is_rounded: bool

    def biases(self, positions: Tensor, keys: Tensor) -> Tensor:
        """[heads, positions, keys] in float32, 0 for the position itself."""
        if self.is_rounded:
            of_keys, of_positions = (self._rounded(one) for one in (keys, positions))
            return (of_keys[:, None, :] - of_positions[:, :, None]) * self.scale
        distances = (keys[None, :] - positions[:, None]).float()
        return self.slopes[:, None, None] * self.scale * distances

    def _rounded(self, places: Tensor) -> Tensor:
        # Of whole numbers too: 0.707 x 100 is 70.5 in bfloat16.
        return (self.slopes.bfloat16()[:, None] * places).float()


def alibi_slopes(num_heads: int, *, bias_max: float = 8) -> Tensor:
    """The slope of each head, [num_heads]: a geometric sequence, its gaps filled for other than powers of 2.

    Source: "Train Short, Test Long", section 3, and its reference implementation.
    """
    floor = 2 ** math.floor(math.log2(num_heads))
    whole = [2 ** (-bias_max * (index + 1) / floor) for index in range(floor)]
    between = [2 ** (-bias_max * (2 * index + 1) / (2 * floor)) for index in range(num_heads - floor)]
    return torch.tensor(whole + between)


def _rank_alibi(config: EngineConfig, *, tp_rank: int, device: torch.device) -> Alibi | None:
    if not config.position.startswith("alibi"):
        return None
    count = config.num_heads // config.tp_size
    slopes = alibi_slopes(config.num_heads, bias_max=config.alibi_bias_max)
    own = slopes[tp_rank * count : (tp_rank + 1) * count].to(device)
    is_falcon = config.position == "alibi_with_scale"
    return Alibi(own, config.multipliers.score_scale if is_falcon else 1.0, is_rounded=is_falcon)


def _tables(
    config: EngineConfig, windows: tuple[int | None, ...], *, device: torch.device, dtype: torch.dtype
) -> dict[int | None, RotaryTable]:
    """The table of each window; empty without rotary embedding. Local bases are not scaled (Gemma 3)."""
    if not config.latent and not config.position.startswith(("rope", "long_rope")):
        return {}
    whole = Rope(
        base=config.rotary_base,
        dim=config.rotary_dim,
        trained_length=config.max_position_embeddings,
        scaling=None if config.longrope else config.rotary_scaling,
        longrope=config.longrope,
        interleaved=config.latent is not None or config.position == "rope_gptj",
    )

    def table(rope: Rope) -> RotaryTable:
        return RotaryTable(rope, num_positions=config.limits.max_seq_len, device=device, dtype=dtype)

    whole_table = local_table = table(whole)
    if config.rotary_local_base is not None:
        local_table = table(replace(whole, base=config.rotary_local_base, scaling=None))
    return {window: whole_table if window is None else local_table for window in windows}
