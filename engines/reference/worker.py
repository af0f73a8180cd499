"""A rank that is a process of its own: it joins the others by torch.distributed and obeys its owner.

It does not start: `rank_parent` forks it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .batches import Batch, Move
from .config import EngineConfig, load_config
from .exchanges import AllGather, AllReduce, Exchange, Receive
from .model import RankModel
from .process import attend_without_cudnn
from .processors import usable_processors
from .ranks import START_TIMEOUT_S


class _Group:
    """The exchanges of one rank over torch.distributed."""

    def __init__(self, config: EngineConfig, *, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        self._rank, self._tp_size, self._hidden = rank, config.tp_size, config.hidden_size
        self._device, self._dtype = device, dtype
        stages = [
            dist.new_group(list(range(stage * config.tp_size, (stage + 1) * config.tp_size)))
            for stage in range(config.pp_size)
        ]
        self._stage = stages[rank // config.tp_size]

    def exchange(self, asked: Exchange) -> Tensor:
        if isinstance(asked, AllReduce):
            if self._tp_size > 1:
                dist.all_reduce(asked.tensor, group=self._stage)
            return asked.tensor
        if isinstance(asked, AllGather):
            if self._tp_size == 1:
                return asked.tensor
            pieces = [torch.empty_like(asked.tensor) for _ in range(self._tp_size)]
            dist.all_gather(pieces, asked.tensor.contiguous(), group=self._stage)
            return torch.cat(pieces, dim=-1)
        if isinstance(asked, Receive):
            hidden = torch.empty(asked.num_tokens, self._hidden, dtype=self._dtype, device=self._device)
            dist.recv(hidden, src=self._rank - self._tp_size)
            return hidden
        dist.send(asked.tensor.contiguous(), dst=self._rank + self._tp_size)
        return asked.tensor


def _forward(model: RankModel, batch: Batch, exchange: Callable[[Exchange], Tensor]) -> Tensor | None:
    forward = model.forward(batch)
    asked = next(forward)
    while True:
        try:
            asked = forward.send(exchange(asked))
        except StopIteration as end:
            logits: Tensor | None = end.value
            return logits


@torch.inference_mode()
def serve_rank(
    folder: Path,
    *,
    rank: int,
    num_slots: int,
    device_type: str,
    compute_dtype: str,
    store: Path,
    parent: Connection[Any, Any],
) -> None:
    """Be a rank of the engine in `folder` until the other end of `parent` is closed."""
    config = load_config(folder)
    if device_type == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        attend_without_cudnn()
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, usable_processors() // config.world_size))
    dtype: torch.dtype = getattr(torch, compute_dtype)
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=config.world_size,
        timeout=timedelta(seconds=START_TIMEOUT_S),
    )
    model = RankModel(config, rank=rank, num_slots=num_slots, device=device, dtype=dtype)
    group = _Group(config, rank=rank, device=device, dtype=dtype)
    is_reporter = rank == (config.pp_size - 1) * config.tp_size
    parent.send_bytes(b"ready")
    while True:
        try:
            message = parent.recv()
        except EOFError:
            return
        if isinstance(message, Move):
            model.cache.move(message.source, message.target, message.length)
            continue
        logits = _forward(model, message, group.exchange)
        if is_reporter:
            parent.send_bytes(b"" if logits is None else _to_bytes(logits.cpu().contiguous()))


def _to_bytes(tensor: Tensor) -> bytes:
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
