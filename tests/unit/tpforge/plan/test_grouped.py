"""Kernels of experts against measured ones, and which row a format that was not measured takes."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.grouped import KernelRow, kernel_rows
from builders.blueprint import find_blueprint
from tpforge.plan.hardware.gpus import find_gpu
from tpforge.plan.speed.grouped import find_grouped, grouped_kernels
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes, stage_work


def of(gpu: str, name: str) -> list[KernelRow]:
    return [row for row in kernel_rows() if (row.gpu.name, row.format) == (gpu, name)]


def test_every_row_of_the_table_states_its_error_on_the_measured_kernels() -> None:
    rows = kernel_rows()
    for kernel in grouped_kernels():
        own = [row for row in rows if row.gpu.sm in kernel.sms and row.format == kernel.format]
        found = statistics.median(abs(row.estimate(kernel) / row.seconds - 1) for row in own)
        assert len(own) == kernel.rows > 10
        assert found == pytest.approx(kernel.median_error, abs=0.001)
        assert found < 0.2
    assert sum(kernel.rows for kernel in grouped_kernels()) == len(rows)


def test_a_measured_kernel_by_hand() -> None:
    """aiconfigurator-core 0.12.0, H200: experts of gpt-oss-20b in MXFP4, 8192 tokens, 4.624 ms."""
    row = next(row for row in of("h200-sxm", "mxfp4") if row.seconds == pytest.approx(4.624e-3))
    assert row.arithmetic == 2 * 3 * 2880 * 2880 * 4 * 8192
    assert row.num_bytes == pytest.approx(32 * 3 * 2880 * 2880 * 4.25 / 8)
    kernel = find_grouped(row.gpu, "mxfp4")
    assert kernel is not None
    assert row.estimate(kernel) == pytest.approx(4.624e-3, rel=0.15)


def test_fp8_in_blocks_costs_time_for_each_expert_that_a_rank_holds() -> None:
    """The fastest layers of few tokens on the H100 take longer the more experts they have."""
    rows = [row for row in of("h100-sxm", "fp8_block") if row.seconds < 2.2e-4]
    least = {count: min(row.seconds for row in rows if row.experts == count) for count in (128, 256, 512)}
    assert least[128] < least[256] < least[512]
    kernel = find_grouped(find_gpu("h100"), "fp8_block")
    assert kernel is not None
    more = kernel.seconds(0, 0, layers=10, experts=256) - kernel.seconds(0, 0, layers=10, experts=128)
    assert more == pytest.approx(10 * 128 * kernel.expert_us * 1e-6)
    blocks = [one.expert_us for one in grouped_kernels() if one.format == "fp8_block" and 90 in one.sms]
    assert blocks == [kernel.expert_us]
    assert kernel.expert_us > 0.1
    # Of formats without blocks none takes half as much.
    assert all(one.expert_us < 0.1 for one in grouped_kernels() if one.format != "fp8_block")


def test_a_format_that_was_not_measured_takes_the_row_of_what_its_products_run_on() -> None:
    h100, b200 = find_gpu("h100"), find_gpu("b200")
    taken = {
        (gpu.name, name): found.format
        for gpu in (h100, b200)
        for name in (None, "fp8", "fp8_block", "mxfp4", "nvfp4", "int4_awq", "int8_wo", "fp8_rowwise")
        if (found := find_grouped(gpu, name)) is not None
    }
    assert taken["h100-sxm", None] == taken["h100-sxm", "int4_awq"] == "bfloat16"
    assert taken["h100-sxm", "fp8_rowwise"] == "fp8"
    assert taken["h100-sxm", "fp8_block"] == "fp8_block"
    assert taken["b200", "nvfp4"] == "nvfp4"
    # Hopper has no products of FP4.
    assert ("h100-sxm", "nvfp4") not in taken
    assert find_grouped(find_gpu("h100"), "int8_sq") is None


def test_what_products_run_on_is_that_of_each_matrix_and_of_the_gpu() -> None:
    """gpt-oss holds its experts alone in MXFP4, whose products run on FP8 from Blackwell on."""
    shapes = rank_shapes(find_blueprint("gpt-oss-20b"), mapping=Mapping())
    work = stage_work(shapes, stage=0, dtype=shapes.model.dtype, weight_format="mxfp4")
    assert [name for name, _ in work.experts] == ["mxfp4"]
    assert [name for name, _ in work.dense] == [None]
    assert work.expert_weights == 24 * 4 * 3 * 2880 * 2880
