"""How fast the products of experts are, grouped in one kernel: shares of the peaks, from measured kernels.

It fits nothing: `benchmarks/grouped.py` does, and writes grouped.toml.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from tpforge.plan.hardware.gpus import Gpu
from tpforge.quantization import find_format
from tpforge.records import Record

_BY_ACTIVATIONS = {"float": "bfloat16", "fp8": "fp8", "fp4": "nvfp4"}
"""The row of a format that was not measured: that of products which run on the same numbers."""


class Grouped(Record):
    """One row of grouped.toml: of GPUs of some compute capabilities, with weights in a format.

    A layer takes arithmetic / (flops x peak) + the weights it reads / (bandwidth x memory rate) + layer_us
    + expert_us for each expert that the rank holds. Routing, sorting by expert and adding up are in it.
    """

    sms: tuple[int, ...]
    format: str
    flops: float
    bandwidth: float
    layer_us: float
    expert_us: float
    rows: int
    median_error: float

    def seconds(self, arithmetic: float, reading: float, *, layers: float, experts: float) -> float:
        """Of `layers` of `experts` each, whose arithmetic and reading take so many seconds at the peaks."""
        each = (self.layer_us + experts * self.expert_us) * 1e-6
        return arithmetic / self.flops + reading / self.bandwidth + layers * each


@cache
def grouped_kernels() -> tuple[Grouped, ...]:
    """The table."""
    text = files("tpforge.plan.speed").joinpath("grouped.toml").read_text(encoding="utf-8")
    return tuple(Grouped.model_validate(row) for row in tomllib.loads(text)["grouped"])


def find_grouped(gpu: Gpu, weight_format: str | None) -> Grouped | None:
    """The row of a format (None: floats) on a GPU, else that of the same activations; None: neither."""
    names = ["bfloat16"] if weight_format is None else [weight_format]
    if weight_format is not None:
        names.append(_BY_ACTIVATIONS.get(find_format(weight_format).activations_on(gpu.sm), ""))
    rows = {row.format: row for row in grouped_kernels() if gpu.sm in row.sms}
    return next((rows[name] for name in names if name in rows), None)
