"""GPUs by name: every spelling that nvidia-smi has, near misses, and cards that are not NVIDIA's."""

from __future__ import annotations

import pytest

from tpforge.errors import InputRefused
from tpforge.plan.hardware.gpus import find_gpu, gpus
from tpforge.units import MIB

# What nvidia-smi prints as the total memory of such a card, in MiB.
SHOWN = {"rtx-5090": 32607, "rtx-6000-ada": 49140, "rtx-pro-6000-max-q": 97887}
OTHERS = [
    "mi300x",
    "mi-325x",
    "MI355X",
    "mi300a",
    "mi250",
    "instinct-mi210",
    "w7900",
    "W6800",
    "gfx942",
    "cdna3",
    "7900xtx",
    "7900-xtx",
    "9070xt",
    "rx7900",
    "radeon-pro-w7900",
    "amd-mi300x",
    "b580",
    "a770",
    "arc-a770",
    "gaudi3",
    "hl-325",
    "intel-max-1550",
    "tpu-v5e",
    "v5e",
    "v5p",
    "trn2",
    "inf2",
    "trainium2",
    "ascend-910b",
    "910b",
    "m3-max",
    "apple-m2-ultra",
]


@pytest.mark.parametrize("name", OTHERS)
def test_another_vendors_card_is_called_so_and_nothing_is_suggested(name: str) -> None:
    with pytest.raises(InputRefused, match="not NVIDIA's") as refused:
        find_gpu(name)
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("name", ["m40", "k80", "xyz", "max-1550", "7900", "8060"])
def test_what_is_like_no_known_series_gets_no_suggestion(name: str) -> None:
    with pytest.raises(InputRefused, match="not in the table") as refused:
        find_gpu(name)
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("h100-smx", "h100-sxm"), ("rtx4090", "rtx-4090"), ("NVIDIA L40SS", "l40s")]
)
def test_a_misspelt_card_is_suggested(name: str, meant: str) -> None:
    with pytest.raises(InputRefused, match=f"did you mean {meant}\\?"):
        find_gpu(name)


def test_every_card_is_found_by_each_of_its_names() -> None:
    for gpu in gpus():
        for name in (gpu.name, gpu.name.upper(), *gpu.aliases, gpu.driver_name or gpu.name):
            assert find_gpu(name) == gpu


def test_figures_are_dense_and_memory_is_what_the_driver_shows() -> None:
    for gpu in gpus():
        assert gpu.source
        assert gpu.memory_bytes <= gpu.memory_gb * 1024**3
        if gpu.fp8_tflops is not None:
            # Each halving of the bits doubles the rate; a sparse figure among dense ones would be twice off.
            assert gpu.fp8_tflops == pytest.approx(2 * gpu.fp16_tflops, rel=0.02), gpu.name
        if gpu.fp4_tflops is not None and gpu.fp8_tflops is not None:
            assert 1.9 < gpu.fp4_tflops / gpu.fp8_tflops < 4.1, gpu.name
    for name, mib in SHOWN.items():
        assert find_gpu(name).memory_bytes == pytest.approx(mib * MIB, rel=0.001)


def test_cards_sold_with_less_nvlink_differ_in_nothing_else_that_counts() -> None:
    for less, full in (("h800", "h100-sxm"), ("a800", "a100-sxm-80gb")):
        one, other = find_gpu(less), find_gpu(full)
        assert one.nvlink_gb_s is not None
        assert other.nvlink_gb_s is not None
        assert one.nvlink_gb_s < other.nvlink_gb_s
        assert (one.fp16_tflops, one.bandwidth_gb_s) == (other.fp16_tflops, other.bandwidth_gb_s)
