"""What a process that computes sets for all of itself, once.

Nothing here is called by a constructor: whoever owns the process does (a program, a model of Triton, a rank).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def spin_briefly() -> None:
    """Let torch's threads wait a short time before they sleep; a value that is given stays.

    Only before torch is imported, which reads it once. Decoding is a thousand small operations a token, each
    with a barrier between torch's threads. By default libgomp spins long in it (300,000 rounds), which on a
    machine with other work burns a time slice each: on two cores with two other busy processes, tp=4 gave 0.4
    to 0.7 tokens/s, with 4000 rounds 3 to 7; idle, both give 25. Not spinning at all halves the idle speed.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")


@contextmanager
def loading() -> Iterator[None]:
    """Keep Python from looking for garbage among modules while they are loaded, and ever after.

    With torch that is a quarter of the time that loading takes. Where ranks are forked, it also keeps what
    was loaded shared, since looking at an object writes to it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def attend_without_cudnn() -> None:
    """Keep torch from attending by cuDNN, which builds a graph for every length of the cache that it meets.

    It is torch's first choice in 16-bit types on Hopper.
    Source: torch 2.13, sdp_utils.cpp (priority_order), cudnn/MHA.cpp.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
