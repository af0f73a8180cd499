"""A user's file of GPUs and prices: figures in other units and prices of nothing are refused, with the key.

What a plan makes of such a GPU is tests/unit/tpforge/plan/test_memory.py's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.flows.planning.gpu_file import read_gpu_file
from scripts.flows.planning.known_gpus import known_gpus
from tpforge.errors import InputRefused
from tpforge.plan.hardware.gpus import find_gpu, gpus

ROW = {
    "name": '"mine"',
    "title": '"Mine"',
    "architecture": '"Hopper"',
    "sm": "90",
    "memory_gb": "80",
    "bandwidth_gb_s": "3000",
    "fp16_tflops": "900",
    "pcie_gb_s": "64",
    "source": '"me"',
}


def row(**values: str) -> str:
    return "[[gpu]]\n" + "".join(f"{key} = {value}\n" for key, value in {**ROW, **values}.items())


def refusal(folder: Path, text: str) -> str:
    file = folder / "gpus.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(InputRefused) as refused:
        read_gpu_file(file)
    return str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bandwidth_gb_s", "3.35"),  # TB/s
        ("bandwidth_gb_s", "3.35e12"),  # B/s
        ("memory_gb", "85899345920"),  # bytes
        ("memory_gb", "0.08"),  # TB
        ("fp16_tflops", "0.989"),  # PFLOPS
        ("fp16_tflops", "989e12"),
        ("fp8_tflops", "0"),
        ("fp8_tflops", "-1979"),
        ("fp4_tflops", "nan"),
        ("int8_tops", "inf"),
        ("pcie_gb_s", "0"),
        ("nvlink_gb_s", "-450"),
        ("nvlink_group", "0"),
        ("usable_gib", "-1"),
        ("sm", "9"),  # 9.0 is 90
        ("sm", "-90"),
        ("watts", "0.7"),  # kW
        ("sustained", "90"),  # %
        ("name", '" "'),
        ("architecture", '""'),
        ("vram", "80"),
    ],
)
def test_a_figure_in_another_unit_or_of_no_gpu_is_refused_by_its_key(
    tmp_path: Path, key: str, value: str
) -> None:
    said = refusal(tmp_path, row(**{key: value}))
    assert f"gpu 1: {key}: " in said


def test_figures_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    assert "usable_gib 96 is more than memory_gb 80" in refusal(tmp_path, row(usable_gib="96"))
    assert "belong together" in refusal(tmp_path, row(nvlink_gb_s="450"))
    assert "belong together" in refusal(tmp_path, row(nvlink_group="8"))
    assert "mine is there twice" in refusal(tmp_path, row() + row())
    assert "this host" in refusal(tmp_path, row(name='"host"'))


def test_the_rows_of_the_table_keep_the_same_rules() -> None:
    assert len(gpus()) > 30


@pytest.mark.parametrize("name", ["h100-sxm", "h100", "H100", '"NVIDIA H100 80GB HBM3"'])
def test_a_price_is_found_by_every_name_of_its_gpu(tmp_path: Path, name: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(f"[per_gpu_hour]\n{name} = 2.5\n", "utf-8")
    assert read_gpu_file(file)[1].per_gpu_hour == {"h100-sxm": 2.5}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("h1000 = 2.5", "per_gpu_hour.h1000: GPU 'h1000' is not in the table"),
        ("mi300x = 2.5", "not NVIDIA's"),
        ("h100 = 2.5\nh100-sxm = 2.4", "per_gpu_hour.h100-sxm: h100-sxm has a price already"),
        ("h100 = -2.5", "per_gpu_hour.h100: "),
        ("h100 = 0", "per_gpu_hour.h100: "),
        ("h100 = nan", "per_gpu_hour.h100: "),
    ],
)
def test_a_price_of_nothing_or_of_no_money_is_refused(tmp_path: Path, line: str, said: str) -> None:
    assert said in refusal(tmp_path, f"[per_gpu_hour]\n{line}\n")


def test_a_gpu_of_ones_own_is_found_in_any_spelling_and_replaces_the_tables(tmp_path: Path) -> None:
    file = tmp_path / "gpus.toml"
    file.write_text(
        row(name='"My GPU"') + row(name='"h100-sxm"', memory_gb="94") + '[per_gpu_hour]\n"My GPU" = 1\n',
        "utf-8",
    )
    own, prices = read_gpu_file(file)
    assert find_gpu("my-gpu", own=own) == find_gpu("MY GPU", own=own) == own[0]
    assert prices.per_gpu_hour == {"My GPU": 1}
    kinds, _ = known_gpus(file)
    assert [one.memory_gb for one in kinds if one.name == "h100-sxm"] == [94]
    assert len(kinds) == len(gpus()) + 1


def test_a_folder_or_a_missing_file_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="is a folder"):
        read_gpu_file(tmp_path)
    with pytest.raises(InputRefused, match="missing"):
        read_gpu_file(tmp_path / "none.toml")
