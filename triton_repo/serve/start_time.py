"""How long a server may take to start, for `tpforge serve` and for every target of `tpforge deploy`.

It bounds how long is waited, and measures nothing.
"""

from __future__ import annotations

from math import ceil

LOAD_BYTES_PER_S = 250_000_000
"""Assumed for the slowest sensible disk."""
SMALLEST_START_S = 120
"""Python, Triton and its models, whatever they load."""
WARM_UP_S = 300
"""For TensorRT-LLM besides: its kernels are loaded and tuned, and CUDA graphs captured, before it answers."""


def start_seconds(engine_bytes: int, *, runtime: str) -> int:
    """Seconds until the first answer of an engine on a slow disk, warm-up included."""
    warm_up_s = 0 if runtime == "reference" else WARM_UP_S
    return SMALLEST_START_S + warm_up_s + ceil(engine_bytes / LOAD_BYTES_PER_S)
