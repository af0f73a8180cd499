"""The reference runtime: torch over the very rank files that TensorRT-LLM would load.

It is not TensorRT-LLM and does not imitate its speed. It imports only torch, safetensors and the
standard library, relatively, so that this folder can be copied whole beside a Triton ``1/model.py``.
"""

import os

# Decoding is a thousand small operations a token, each with a barrier between torch's threads. By default
# libgomp spins long in it (300,000 rounds), which on a machine with other work burns a time slice each:
# on two cores with two other busy processes, tp=4 gave 0.4 to 0.7 tokens/s, with 4000 rounds 3 to 7; idle,
# both give 25. Not spinning at all halves the idle speed. Read once, when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

from .batches import Decode, Prefill
from .config import EngineConfig, EngineError, Limits, load_config
from .executor import Executor, RankFailure
from .lockstep import Lockstep
from .opening import open_executor
from .sampling import RequestError, Sampling
from .scheduler import Counts, Event, Request, Scheduler

__all__ = [
    "Counts",
    "Decode",
    "EngineConfig",
    "EngineError",
    "Event",
    "Executor",
    "Limits",
    "Lockstep",
    "Prefill",
    "RankFailure",
    "Request",
    "RequestError",
    "Sampling",
    "Scheduler",
    "load_config",
    "open_executor",
]
