"""The GPUs that are known, with those of a user's file; apart from planning, so that a list of them is quick.

It chooses none.
"""

from __future__ import annotations

from pathlib import Path

from scripts.flows.planning.gpu_file import read_gpu_file
from tpforge.plan.hardware.gpus import Gpu, Prices, gpus


def known_gpus(gpu_file: Path | None) -> tuple[tuple[Gpu, ...], Prices]:
    """The GPUs of a user's file before those of the table, which they may replace, and the file's prices."""
    own, prices = read_gpu_file(gpu_file) if gpu_file is not None else ((), Prices())
    replaced = {one.name for one in own}
    return (*own, *(one for one in gpus() if one.name not in replaced)), prices
