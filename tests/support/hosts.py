"""Hosts with GPUs that are made up, for tests of what fits them.

It asks no machine.
"""

from __future__ import annotations

from typing import Any

from engines.host import Gpu, Host

GIB = 1 << 30


def gpu(index: int, *, sm: int = 90, total: int = 80 * GIB, used: int = 0) -> Gpu:
    return Gpu(index, "H100", f"GPU-{index}", total, used, sm)


def host_of(**changes: Any) -> Host:
    values: dict[str, Any] = {
        "gpus": (gpu(0), gpu(1)),
        "driver": "590.44.01",
        "cuda": "13.1",
        "links": ((0, 1, "NV18"),),
        "shm_bytes": 64 * GIB,
        "shm_free_bytes": 64 * GIB,
        "has_nvidia_containers": True,
        "packages": (("tensorrt_llm", "1.2.1"), ("tensorrt", "10.14.1.48")),
    }
    return Host(**{**values, **changes})
