"""The reference runtime: torch over the very rank files that TensorRT-LLM would load.

It is not TensorRT-LLM and does not imitate its speed. It imports only torch, safetensors and the
standard library, relatively, so that this folder can be copied whole beside a Triton ``1/model.py``.

Its names are loaded when they are asked for: whoever owns the process calls `process.spin_briefly` before
torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batches import Decode, Prefill
    from .config import EngineConfig, EngineError, Limits, load_config
    from .executor import Executor, RankFailure
    from .in_flight import Counts, Event, Request
    from .lockstep import Lockstep
    from .opening import open_executor
    from .sampling import RequestError, Sampling
    from .scheduler import Scheduler

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

_MODULES = {
    "Counts": "in_flight",
    "Decode": "batches",
    "EngineConfig": "config",
    "EngineError": "config",
    "Event": "in_flight",
    "Executor": "executor",
    "Limits": "config",
    "Lockstep": "lockstep",
    "Prefill": "batches",
    "RankFailure": "executor",
    "Request": "in_flight",
    "RequestError": "sampling",
    "Sampling": "sampling",
    "Scheduler": "scheduler",
    "load_config": "config",
    "open_executor": "opening",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
