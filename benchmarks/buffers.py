"""What TensorRT-LLM printed of the memory of compiled engines, beside what the planner says.

It measures nothing: planner_buffers.csv has lines of logs, each with its source. The planner's formulas were
read off engines of 0.15 and later; older ones show what has changed since.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

from benchmarks.published import DATA
from tpforge.plan.memory.engine_buffers import activation_bytes, decoder_bytes, runtime_bytes
from tpforge.units import MIB

RECENT = ("0.15", "0.17")


@dataclass(frozen=True)
class BufferRow:
    """A line of a log, and of what engine it is."""

    release: str
    model: str
    line: str
    mib: float
    estimate_mib: float

    @property
    def error(self) -> float:
        """Estimate / printed - 1."""
        return self.estimate_mib / self.mib - 1


def buffer_rows() -> list[BufferRow]:
    """All of planner_buffers.csv."""
    with (DATA / "planner_buffers.csv").open(encoding="utf-8", newline="") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> BufferRow:
    return BufferRow(
        release=values["release"],
        model=values["model"],
        line=values["line"],
        mib=float(values["mib"]),
        estimate_mib=_estimate(values) / MIB,
    )


def _estimate(values: dict[str, str]) -> int:
    requests, vocab, longest = (int(values[name]) for name in ("max_batch_size", "vocab", "max_seq_len"))
    if values["line"] == "activations":
        return activation_bytes(
            int(values["max_num_tokens"]),
            hidden=int(values["hidden"]),
            width=int(values["width"]),
            requests=requests,
            vocab=vocab,
            products_of_fp8=values["format"] == "fp8",
        )
    sizes = {"runtime buffers": runtime_bytes, "decoder": decoder_bytes}
    return sizes[values["line"]](requests, vocab=vocab, longest=longest)
