"""GPUs and how they are linked, from a table or from the user's own file.

It does not look at this machine. What nobody published is absent, and what is assumed says so.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tpforge.errors import InputRefused, UsageError
from tpforge.records import Record
from tpforge.units import GIB

Link = Literal["nvlink", "pcie"]
# The share of the nominal memory that the driver shows, where no source states it: GDDR cards give up memory
# for ECC. From the rows that do state it: 45.0 of 48 (L40S); 79.1 of 80, 139.8 of 141, 95.6 of 96.
_SHARE_HBM, _SHARE_GDDR = 0.985, 0.92
HOST_LINK_GB_S = 50.0
"""Assumed between hosts, per GPU and direction: 400 Gb/s. Source: aiconfigurator-core 0.12.0,
systems/*.yaml.
"""


_OTHER_VENDORS = re.compile(
    r"(?:^|-)(?:"
    r"amd|advanced-micro|radeon|instinct|mi-?\d{2,3}[a-z]?|rx-?\d{3,4}|w[67]\d00|[679]\d{3}-?xtx?|gfx\d\w*|[cr]dna\d?|"
    r"ryzen|8060s|intel|arc|a[357][1578]0|b5[78]0|gaudi-?\d?|habana|hl-?\d{3}|tpu|v\d[ep]|trillium|"
    r"aws|trainium\d?|trn\d|inferentia\d?|inf\d|huawei|ascend|910[abc]|apple|m\d(?:-(?:pro|max|ultra))?"
    r")(?:-|$)"
)
"""Names of accelerators that TensorRT-LLM does not run on, and of who makes them."""


_BOARD = 8
"""The most GPUs that NVLink joins within a host: a baseboard of eight."""
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
# Ranges are those of other units: 3.35 is TB/s where GB/s are wanted, 0.989 PFLOPS, 9.0 a compute capability.
_Rate = Annotated[float, Field(ge=2, le=1_000_000)]
_LinkRate = Annotated[float, Field(ge=1, le=20_000)]


class Gpu(Record):
    """One kind of GPU; figures are dense, links per direction. See gpus.toml for the units."""

    name: _Name
    title: _Name
    driver_name: _Name | None = None
    aliases: tuple[_Name, ...] = ()
    architecture: _Name
    sm: int = Field(ge=30, le=999)
    memory_gb: float = Field(ge=1, le=10_000)
    usable_gib: float | None = Field(default=None, gt=0)
    gddr: bool = False
    bandwidth_gb_s: float = Field(ge=20, le=200_000)
    fp16_tflops: _Rate
    fp8_tflops: _Rate | None = None
    fp4_tflops: _Rate | None = None
    int8_tops: _Rate | None = None
    nvlink_gb_s: _LinkRate | None = None
    nvlink_group: int = Field(default=1, ge=1)
    nvlink_optional: bool = False
    pcie_gb_s: _LinkRate
    watts: float | None = Field(default=None, ge=1, le=100_000)
    sustained: float = Field(default=1.0, gt=0, le=1)
    refusal: str | None = None
    source: str

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.usable_gib is not None and self.usable_gib > self.memory_gb:
            raise ValueError(f"usable_gib {self.usable_gib:g} is more than memory_gb {self.memory_gb:g}")
        if (self.nvlink_gb_s is None) is (self.nvlink_group > 1):
            raise ValueError(
                "nvlink_gb_s and nvlink_group belong together: how fast it is, and how many GPUs it joins"
            )
        return self

    @property
    def memory_bytes(self) -> int:
        """What the driver shows as total memory."""
        if self.usable_gib is not None:
            return round(self.usable_gib * GIB)
        share = _SHARE_GDDR if self.gddr else _SHARE_HBM
        return round(self.memory_gb * share * GIB)

    @property
    def memory_is_published(self) -> bool:
        """Whether a source states `memory_bytes`; else it is an assumed share of the nominal size."""
        return self.usable_gib is not None

    def peak_flops(self, activations: Literal["float", "int8", "fp8", "fp4"]) -> float:
        """Dense operations a second of matrix products on such activations, or on 16-bit floats.

        Of cards whose power holds their chip below what its module does, what they sustain.
        """
        rates = {"fp8": self.fp8_tflops, "fp4": self.fp4_tflops, "int8": self.int8_tops}
        return (rates.get(activations) or self.fp16_tflops) * self.sustained * 1e12


class Prices(Record):
    """What an hour of one GPU costs, by the name of the GPU, in `currency`; empty where none is stated."""

    per_gpu_hour: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    currency: str = Field(default="", pattern=r"^[\w$€£¥ .-]{0,20}$")


class Cluster(Record):
    """Equal GPUs: how many, what joins those of a host, and how many a host holds."""

    gpu: Gpu
    num_gpus: int = Field(ge=1)
    link: Link
    gpus_per_host: int = Field(default=8, ge=1)
    host_link_gb_s: float = HOST_LINK_GB_S

    @property
    def fast_group(self) -> int:
        """The largest number of GPUs that a tensor-parallel group can have without leaving its link.

        An NVLink domain of more GPUs than a board has (72) joins hosts; a smaller one ends with its host.
        """
        if self.link == "pcie":
            return self.gpus_per_host
        group = self.gpu.nvlink_group
        return group if group > _BOARD else min(group, self.gpus_per_host)

    def joined_for(self, ranks: int) -> Cluster:
        """The same GPUs by a link that so many ranks have: PCIe where NVLink joins fewer of a host."""
        if self.link == "nvlink" and self.fast_group < ranks <= self.gpus_per_host:
            return self.model_copy(update={"link": "pcie"})
        return self

    @property
    def link_gb_s(self) -> float:
        """The nominal rate of the link within a host, per direction."""
        if self.link == "nvlink" and self.gpu.nvlink_gb_s is not None:
            return self.gpu.nvlink_gb_s
        return self.gpu.pcie_gb_s


@cache
def gpus() -> tuple[Gpu, ...]:
    """All GPUs of the table.

    Raises:
        AssertionError: two have one name.
    """
    text = files("tpforge.plan.hardware").joinpath("gpus.toml").read_text(encoding="utf-8")
    rows = tuple(Gpu.model_validate(row) for row in tomllib.loads(text)["gpu"])
    names = [name for row in rows for name in (row.name, *row.aliases)]
    assert len(set(names)) == len(names), "two rows of gpus.toml have one name"
    return rows


def find_gpu(name: str, *, own: tuple[Gpu, ...] = ()) -> Gpu:
    """The GPU of that name; the user's own come first.

    Raises:
        InputRefused: there is none; names the nearest.
    """
    wanted = _spelled(name)
    rows = (*own, *gpus())
    for row in rows:
        if wanted in map(_spelled, (row.name, *row.aliases, row.driver_name or row.name)):
            return row
    if _OTHER_VENDORS.search(wanted):
        raise InputRefused(
            f"GPU {name!r} is not NVIDIA's: TensorRT-LLM runs on NVIDIA GPUs alone; "
            "name one of `tpforge gpus`"
        )
    wanted = wanted.removeprefix("nvidia-")
    names = [known for row in rows for known in (row.name, *row.aliases) if _series(known) == _series(wanted)]
    near = get_close_matches(wanted, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputRefused(
        f"GPU {name!r} is not in the table{hint or '.'} Known are {', '.join(row.name for row in rows)}; "
        "describe another one with --gpu-file"
    )


def _spelled(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")


def _series(name: str) -> str:
    """The letters that a name begins with: ``rtx`` of rtx-4090. Those of another series are not suggested."""
    return name[: len(name) - len(name.lstrip("abcdefghijklmnopqrstuvwxyz"))]


def make_cluster(
    gpu: Gpu, *, num_gpus: int, link: Link | None = None, gpus_per_host: int | None = None
) -> Cluster:
    """A cluster; without `link` NVLink where the GPU always has it, else PCIe.

    Raises:
        UsageError: NVLink is asked for and the GPU has none.
    """
    if link == "nvlink" and gpu.nvlink_gb_s is None:
        raise UsageError(f"--link nvlink: {gpu.title} has no NVLink; use --link pcie")
    chosen: Link = link or ("nvlink" if gpu.nvlink_gb_s and not gpu.nvlink_optional else "pcie")
    return Cluster(
        gpu=gpu,
        num_gpus=num_gpus,
        link=chosen,
        gpus_per_host=gpus_per_host or max(8, gpu.nvlink_group if chosen == "nvlink" else 1),
    )
