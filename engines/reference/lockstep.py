"""All ranks in one process, in lockstep: the default on the CPU, and what the proof runs on.

It does not schedule requests and does not sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .batches import Batch, Move
from .config import EngineConfig
from .exchanges import AllGather, AllReduce, Exchange, Forward, Receive
from .model import RankModel


class Lockstep:
    """All ranks in this process, advanced from exchange to exchange: an all-reduce is a sum."""

    def __init__(
        self, config: EngineConfig, *, num_slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._pp_size, self._tp_size = config.pp_size, config.tp_size
        self.ranks = [
            RankModel(config, rank=rank, num_slots=num_slots, device=device, dtype=dtype)
            for rank in range(config.world_size)
        ]

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor | None:
        """See Executor."""
        hidden: list[Tensor] = []
        logits: Tensor | None = None
        for stage in range(self._pp_size):
            ranks = self.ranks[stage * self._tp_size : (stage + 1) * self._tp_size]
            hidden, logits = _run_stage([rank.forward(batch) for rank in ranks], hidden)
        return None if logits is None else logits.cpu()

    @torch.inference_mode()
    def move(self, move: Move) -> None:
        """See Executor."""
        for rank in self.ranks:
            rank.cache.move(move.source, move.target, move.length)

    def close(self) -> None:
        """See Executor."""
        self.ranks = []


def _run_stage(forwards: list[Forward], received: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
    """Advance one stage's ranks to their end: what they send to the next stage, and their logits."""
    sent: list[Tensor] = []
    logits: Tensor | None = None
    exchanges = [next(forward) for forward in forwards]
    while exchanges:
        results = _exchange(exchanges, received, sent)
        exchanges = []
        for forward, result in zip(forwards, results, strict=True):
            try:
                exchanges.append(forward.send(result))
            except StopIteration as end:
                logits = end.value
    return sent, logits


def _exchange(exchanges: list[Exchange], received: list[Tensor], sent: list[Tensor]) -> list[Tensor]:
    """What each rank is sent for the exchange that all of them have reached."""
    first = exchanges[0]
    if isinstance(first, Receive):
        return received
    tensors = [exchange.tensor for exchange in exchanges if not isinstance(exchange, Receive)]
    if isinstance(first, AllReduce):
        total = tensors[0]
        for tensor in tensors[1:]:
            total = total + tensor
        return [total] * len(tensors)
    if isinstance(first, AllGather):
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-1)
        return [joined] * len(tensors)
    sent.extend(tensors)
    return tensors
