"""The GPUs that are known, with those of a user's file; apart from planning, so that a list of them is quick.

It chooses none.
"""

from __future__ import annotations

from pathlib import Path

from tpforge.plan.hardware import Gpu, Prices, gpus, read_gpu_file


def known_gpus(gpu_file: Path | None) -> tuple[tuple[Gpu, ...], Prices]:
    """The GPUs of a user's file before those of the table, and the prices that the file has."""
    own, prices = read_gpu_file(gpu_file) if gpu_file is not None else ((), Prices())
    return (*own, *gpus()), prices
