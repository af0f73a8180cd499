"""The reference runtime: torch over the very rank files that TensorRT-LLM would load.

It is not TensorRT-LLM and does not imitate its speed. It imports only torch, safetensors and the
standard library, relatively, so that this folder can be copied whole beside a Triton ``1/model.py``.
"""

import os

# Decoding is a thousand small operations a token, each with a barrier between torch's threads. By default
# they spin in it, which on a machine with other work costs a time slice each: 0.4 tokens/s were measured
# instead of 8 on two busy cores. libgomp reads this once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
