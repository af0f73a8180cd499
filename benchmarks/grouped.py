"""The fit of grouped products of experts to kernels that aiconfigurator's makers measured.

``python -m benchmarks.grouped`` writes the planner's grouped.toml. No throughput is looked at: what is fitted
here is known of kernels alone. Source: aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), moe_perf.parquet in
systems/data/GPU/moe/trtllm (TensorRT-LLM 1.3.0rc20, of the A100 1.0.0): all experts on one GPU, tokens routed
by a power law.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import tomli_w

from benchmarks.published import DATA
from tpforge.model import MoeSpec
from tpforge.outputs.atomic import write_atomic
from tpforge.plan.hardware.gpus import Gpu, find_gpu
from tpforge.plan.speed.experts import touched
from tpforge.plan.speed.grouped import Grouped
from tpforge.quantization import find_format

TOML = Path(__file__).resolve().parent.parent / "tpforge/plan/speed/grouped.toml"
_SMS = {80: (80, 86), 89: (89,), 90: (90,), 100: (100, 103), 120: (120, 121)}
"""A measured compute capability, and those that are taken to be like it."""
_BITS = {"bfloat16": 16.0, "fp8": 8.0, "fp8_block": 8.0, "nvfp4": 4.5, "mxfp4": 4.25}


@dataclass(frozen=True)
class KernelRow:
    """A layer's products of `tokens`, measured; `arithmetic` and `num_bytes` are what they need."""

    gpu: Gpu
    format: str
    experts: int
    arithmetic: float
    num_bytes: float
    seconds: float

    @property
    def peak(self) -> float:
        """Of what the products run on."""
        floats = self.format == "bfloat16"
        return self.gpu.peak_flops(
            "float" if floats else find_format(self.format).activations_on(self.gpu.sm)
        )

    def estimate(self, kernel: Grouped) -> float:
        """Seconds."""
        reading = self.num_bytes / (self.gpu.bandwidth_gb_s * 1e9)
        return kernel.seconds(self.arithmetic / self.peak, reading, layers=1, experts=self.experts)


def kernel_rows() -> list[KernelRow]:
    """All of planner_grouped.csv."""
    with (DATA / "planner_grouped.csv").open(encoding="utf-8", newline="") as file:
        return [_row(values) for values in csv.DictReader(file)]


def fitted(rows: Sequence[KernelRow]) -> Grouped:
    """The four values of rows of one format and kind of GPU."""
    from scipy.optimize import least_squares

    first = rows[0]

    def with_values(values: Sequence[float]) -> Grouped:
        flops, bandwidth, layer_us, expert_us = (float(f"{value:.3g}") for value in values)
        return Grouped(
            sms=_SMS[first.gpu.sm],
            format=first.format,
            flops=flops,
            bandwidth=bandwidth,
            layer_us=layer_us,
            expert_us=expert_us,
            rows=len(rows),
            median_error=0,
        )

    def residuals(values: Sequence[float]) -> list[float]:
        kernel = with_values(values)
        return [math.log(row.estimate(kernel) / row.seconds) for row in rows]

    found = least_squares(
        residuals,
        [0.5, 0.8, 30.0, 0.1],
        bounds=([0.05, 0.1, 0.0, 0.0], [1.0, 1.2, 400.0, 10.0]),
        loss="soft_l1",
        f_scale=0.1,
        x_scale=[0.5, 0.8, 30.0, 0.1],
        diff_step=1e-2,
    )
    sizes = [abs(math.exp(one) - 1) for one in residuals(found.x)]
    return with_values(found.x).model_copy(update={"median_error": round(statistics.median(sizes), 3)})


def main() -> None:
    def key(row: KernelRow) -> tuple[int, str]:
        return row.gpu.sm, row.format

    groups = groupby(sorted(kernel_rows(), key=key), key=key)
    kernels = [fitted(list(rows)) for _, rows in groups]
    head = [
        "# Written by `python -m benchmarks.grouped` from benchmarks/data/planner_grouped.csv: kernels",
        "# measured for aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), systems/data/GPU/moe/trtllm.",
        "# Shares of a GPU's peak (of what products run on) and memory rate, above 1 where tokens favour few",
        "# experts; microseconds a layer; median_error: of the fit on those rows.",
    ]
    rows = [kernel.model_dump(mode="json") for kernel in kernels]
    write_atomic(TOML, "\n".join([*head, "", tomli_w.dumps({"grouped": rows})]))
    for row in rows:
        print(row)


def _row(values: dict[str, str]) -> KernelRow:
    tokens, top_k, experts = (int(values[name]) for name in ("tokens", "top_k", "experts"))
    expert = 3 * int(values["hidden"]) * int(values["width"])
    moe = MoeSpec(num_experts=experts, top_k=top_k, intermediate_size=int(values["width"]))
    return KernelRow(
        gpu=find_gpu(values["gpu"]),
        format=values["format"],
        experts=experts,
        arithmetic=2 * expert * top_k * tokens,
        num_bytes=touched(moe, tokens=tokens) * experts * expert * _BITS[values["format"]] / 8,
        seconds=float(values["ms"]) / 1e3,
    )


if __name__ == "__main__":
    main()
