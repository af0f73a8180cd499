"""Who runs the ranks: all in one process in lockstep, or (see `ranks`) one process each.

It does not schedule requests and does not sample.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .batches import Batch, Decode, Move, Prefill
from .config import EngineConfig, EngineError
from .model import AllGather, AllReduce, Exchange, Forward, RankModel, Receive

__all__ = ["Decode", "Executor", "Lockstep", "Prefill", "RankFailure", "open_executor"]


class RankFailure(RuntimeError):
    """A rank died or failed; the executor must be opened again."""


class Executor(Protocol):
    """Runs batches over all ranks of an engine."""

    def forward(self, batch: Batch) -> Tensor | None:
        """Logits [positions asked for, vocab] in float32 on the CPU, or None when none were asked for.

        Raises:
            RankFailure: a rank died.
        """

    def move(self, move: Move) -> None:
        """Copy a slot of the KV cache on every rank."""

    def close(self) -> None:
        """End the ranks and free their memory."""


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


def open_executor(
    config: EngineConfig, *, kind: str, device: str, compute_dtype: str, num_slots: int
) -> Executor:
    """Open `kind` ("auto", "lockstep" or "processes") on `device` ("auto", "cpu" or "cuda").

    auto takes CUDA when there is any, a process a rank when every rank has a GPU of its own, and else
    lockstep. compute_dtype auto is float32 on the CPU (as fast as bfloat16 there for one request, and
    exact), and the engine's own on CUDA.

    Raises:
        EngineError: the device or the dtype cannot be had.
    """
    target = _device(device)
    if compute_dtype == "auto":
        compute_dtype = "float32" if target.type == "cpu" else config.dtype
    if compute_dtype not in ("float32", "float16", "bfloat16"):
        raise EngineError(f"compute_dtype {compute_dtype!r} is unknown; use float32, float16 or bfloat16")
    if kind == "auto":
        own_gpus = target.type == "cuda" and torch.cuda.device_count() >= config.world_size > 1
        kind = "processes" if own_gpus else "lockstep"
    if kind == "lockstep":
        return Lockstep(config, num_slots=num_slots, device=target, dtype=getattr(torch, compute_dtype))
    if kind == "processes":
        from .ranks import Processes

        return Processes(config, num_slots=num_slots, device=target.type, compute_dtype=compute_dtype)
    raise EngineError(f"executor {kind!r} is unknown; use auto, lockstep or processes")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("device cuda was asked for, but torch sees no CUDA GPU; use cpu or auto")
    return device
