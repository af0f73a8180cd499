"""What an all-reduce costs: from measurements where there are any, else from a model of NCCL's rings.

It knows no transformer: bytes, ranks and links only.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files

from pydantic import field_validator

from tpforge.plan.hardware.gpus import Cluster, Link
from tpforge.records import Record
from tpforge.units import KIB, MIB

_SIZES = (16 * KIB, 128 * KIB, MIB, 2 * MIB)
# NCCL's ring: a start and a step, in microseconds, for the low-latency protocols of small messages and for
# Simple. Source: NVIDIA/nccl, src/graph/tuning.cc (baseLat and hwLat of the ring algorithm).
_RING_BASE_US = {"small": 6.6, "large": 8.4}
_RING_STEP_US: dict[Link, dict[str, float]] = {
    "nvlink": {"small": 0.6, "large": 3.4},
    "pcie": {"small": 1.0, "large": 5.7},
}
_SMALL = 256 * KIB
_HOST_STEP_US = 14.0
"""A ring step over the network, Simple protocol. Source: NVIDIA/nccl, src/graph/tuning.cc (hwLat, net)."""


class Measured(Record):
    """One row of allreduce.toml.

    A time above that of a larger message (another algorithm's) is lowered to it, since a message can be
    padded.
    """

    gpus: tuple[str, ...]
    link: Link
    ranks: int
    version: str
    us: tuple[float, float, float, float]
    bus_gb_s: float

    @field_validator("us")
    @classmethod
    def _never_dearer_than_larger(cls, us: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(min(us[index:]) for index in range(len(us)))


class Gathered(Record):
    """One row of gather.toml."""

    gpus: tuple[str, ...]
    link: Link
    ranks: int
    version: str
    us: float
    bus_gb_s: float


class LinkShares(Record):
    """The share of a link's nominal rate that a ring reaches; `pcie` is fitted, `nvlink` and `hosts` assumed.

    `exchange`: of a gather's rate over NVLink, where ranks have different numbers of tokens; fitted.
    """

    pcie: float
    nvlink: float
    hosts: float
    exchange: float


@cache
def measurements() -> tuple[Measured, ...]:
    """The table of all-reduce."""
    return tuple(map(Measured.model_validate, _rows("allreduce.toml")))


@cache
def gathers() -> tuple[Gathered, ...]:
    """The table of all-gather and reduce-scatter."""
    return tuple(map(Gathered.model_validate, _rows("gather.toml")))


def _rows(name: str) -> list[dict[str, object]]:
    text = files("tpforge.plan.hardware").joinpath(name).read_text(encoding="utf-8")
    found: list[dict[str, object]] = tomllib.loads(text)["measured"]
    return found


def find_measured(cluster: Cluster, ranks: int) -> Measured | None:
    """The measured all-reduce for these GPUs, this link and this many ranks."""
    return _allreduce_of(cluster.gpu.name, cluster.link, ranks)


@cache
def _allreduce_of(gpu: str, link: Link, ranks: int) -> Measured | None:
    """Looked up once: every step of a plan asks."""
    return next((row for row in measurements() if _is_of(row, gpu, link, ranks)), None)


@cache
def _gather_of(gpu: str, link: Link, ranks: int) -> Gathered | None:
    return next((row for row in gathers() if _is_of(row, gpu, link, ranks)), None)


def _is_of(row: Measured | Gathered, gpu: str, link: Link, ranks: int) -> bool:
    return gpu in row.gpus and row.link == link and row.ranks == ranks


def allreduce_seconds(num_bytes: float, *, ranks: int, cluster: Cluster, shares: LinkShares) -> float:
    """Seconds until every one of `ranks` has the sum of messages of `num_bytes`."""
    if ranks == 1 or num_bytes <= 0:
        return 0.0
    measured = find_measured(cluster, ranks) if ranks <= cluster.fast_group else None
    if measured is not None:
        return _interpolated(num_bytes, measured)
    return _ring_seconds(num_bytes, ranks=ranks, cluster=cluster, shares=shares)


def send_seconds(num_bytes: float, *, cluster: Cluster, ranks: int, shares: LinkShares) -> float:
    """Seconds to hand activations to the next pipeline stage; over the network when a stage fills a host."""
    crosses = ranks >= max(cluster.gpus_per_host, cluster.fast_group)
    rate = cluster.host_link_gb_s * shares.hosts if crosses else cluster.link_gb_s * _share(cluster, shares)
    return num_bytes / (rate * 1e9) + (_HOST_STEP_US if crosses else 10.0) * 1e-6


def gather_seconds(num_bytes: float, *, ranks: int, cluster: Cluster, shares: LinkShares) -> float:
    """Gathering or adding up `num_bytes`, of which a rank has or gets a part: bytes x (n - 1) / n / rate."""
    if ranks == 1 or num_bytes <= 0:
        return 0.0
    row = _gather_of(cluster.gpu.name, cluster.link, ranks) if ranks <= cluster.fast_group else None
    if row is not None:
        return row.us * 1e-6 + num_bytes * (ranks - 1) / ranks / (row.bus_gb_s * 1e9)
    # A ring passes over each link once, where that of an all-reduce passes twice.
    return _ring_seconds(num_bytes, ranks=ranks, cluster=cluster, shares=shares) / 2


def exchange_seconds(num_bytes: float, *, ranks: int, cluster: Cluster, shares: LinkShares) -> float:
    """Such a gather of parts that are not alike: over NVLink at a share of the rate, over PCIe at all of it.

    That PCIe loses nothing was seen on the published rows of RTX PRO 6000, not measured on its own.
    Source: TensorRT-LLM 1.2, thop/allgatherOp.cpp and reducescatterOp.cpp: with sizes a broadcast, or a
    reduction, of every rank's part.
    """
    share = shares.exchange if cluster.link == "nvlink" and ranks <= cluster.fast_group else 1.0
    return gather_seconds(num_bytes / share, ranks=ranks, cluster=cluster, shares=shares)


def _interpolated(num_bytes: float, row: Measured) -> float:
    """Between sizes along a line in logarithms; below the first the first; above the last at the bus rate."""
    if num_bytes <= _SIZES[0]:
        return row.us[0] * 1e-6
    rate = row.bus_gb_s * 1e9 * row.ranks / (2 * (row.ranks - 1))
    if num_bytes >= _SIZES[-1]:
        # A second size-proportional estimate through the last point keeps the curve continuous.
        return row.us[-1] * 1e-6 + (num_bytes - _SIZES[-1]) / rate
    upper = next(index for index, size in enumerate(_SIZES) if size >= num_bytes)
    x0, x1 = math.log(_SIZES[upper - 1]), math.log(_SIZES[upper])
    y0, y1 = math.log(row.us[upper - 1]), math.log(row.us[upper])
    return math.exp(y0 + (y1 - y0) * (math.log(num_bytes) - x0) / (x1 - x0)) * 1e-6


def _ring_seconds(num_bytes: float, *, ranks: int, cluster: Cluster, shares: LinkShares) -> float:
    """base + 2 (n - 1) steps + bytes x 2 (n - 1) / n / rate, over the slowest link of the ring."""
    crosses = ranks > cluster.fast_group
    kind = "small" if num_bytes <= _SMALL else "large"
    step = _HOST_STEP_US if crosses else _RING_STEP_US[cluster.link][kind]
    rate = cluster.host_link_gb_s * shares.hosts if crosses else cluster.link_gb_s * _share(cluster, shares)
    latency = (_RING_BASE_US[kind] + 2 * (ranks - 1) * step) * 1e-6
    return latency + num_bytes * 2 * (ranks - 1) / ranks / (rate * 1e9)


def _share(cluster: Cluster, shares: LinkShares) -> float:
    return shares.nvlink if cluster.link == "nvlink" else shares.pcie
