"""Experts over several ranks: routing against random draws, weights by count, speeds against unseen rows."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from benchmarks.measured import errors
from benchmarks.orders import orders
from benchmarks.published import rows
from builders.blueprint import find_blueprint
from tests.unit.tpforge.plan.test_choose import plan
from tpforge.dtypes import DType
from tpforge.model import MoeSpec
from tpforge.plan.memory.kv import kv_layout
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.experts import busiest, tile_padding, touched
from tpforge.plan.speed.load import Load
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import RankShapes, is_of_experts, rank_shapes, weight_bytes


def experts() -> MoeSpec:
    moe = find_blueprint("qwen3-30b-a3b").model.moe
    assert moe is not None and (moe.num_experts, moe.top_k, moe.intermediate_size) == (128, 8, 768)
    return moe


@pytest.mark.parametrize("tokens", [16, 256])
def test_the_busiest_rank_and_the_chosen_experts_are_those_of_random_draws(tokens: int) -> None:
    chance = np.random.default_rng(5)
    most, chosen = [], []
    for _ in range(300):
        drawn = np.stack([chance.permutation(128)[:8] for _ in range(tokens)])
        chosen.append(len(np.unique(drawn)) / 128)
        most.append(np.bincount(drawn.ravel() // 16, minlength=8).max() / (tokens * 8 / 8))
    found = busiest(experts(), mapping=Mapping(tp_size=8, moe_ep_size=8), tokens=tokens)
    # The formula is the limit of many ranks: somewhat above the mean of the most of eight.
    assert float(np.mean(most)) <= found < 1.15 * float(np.mean(most))
    assert touched(experts(), tokens=tokens) == pytest.approx(float(np.mean(chosen)), rel=0.01)


def test_experts_divided_by_width_have_no_busiest_rank_and_part_filled_tiles() -> None:
    by_width = Mapping(tp_size=8)
    assert busiest(experts(), mapping=by_width, tokens=10) == 1
    assert tile_padding(experts(), mapping=by_width) == pytest.approx(128 / 96)
    assert tile_padding(experts(), mapping=Mapping(tp_size=8, moe_ep_size=8)) == 1


def test_with_attention_dp_a_rank_holds_all_but_the_other_ranks_experts() -> None:
    blueprint = find_blueprint("qwen3-30b-a3b")
    whole = rank_shapes(blueprint, mapping=Mapping())
    divided = rank_shapes(blueprint, mapping=Mapping(tp_size=4, moe_ep_size=4), attention_dp=True)
    size, part = (
        weight_bytes(one, stage=0, dtype=DType.BFLOAT16, weight_format=None) for one in (whole, divided)
    )
    experts_bytes = 2 * 48 * 128 * 3 * 768 * 2048
    assert size - part == experts_bytes * 3 // 4
    assert all(one.shape[0] == 32 for held in divided.layer.values() for one in held if is_of_experts(one))
    # Its cache is of its own requests, with all heads.
    assert kv_layout(divided, stage=0, kv_dtype="fp8") == kv_layout(whole, stage=0, kv_dtype="fp8")


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss-120b", "mixtral-8x7b"])
def test_models_of_every_table_of_architectures_have_it(name: str) -> None:
    blueprint = find_blueprint(name)
    whole = rank_shapes(blueprint, mapping=Mapping())
    divided = rank_shapes(blueprint, mapping=Mapping(tp_size=8, moe_ep_size=8), attention_dp=True)

    def elements(shapes: RankShapes, *, of_experts: bool) -> int:
        return sum(
            count * math.prod(one.shape)
            for kind, count in shapes.layers(0).items()
            for one in shapes.layer[kind]
            if is_of_experts(one) is of_experts
        )

    assert elements(whole, of_experts=True) == 8 * elements(divided, of_experts=True) > 0
    assert elements(whole, of_experts=False) == elements(divided, of_experts=False)
    ask = Ask(Load(1000, 1000, 64), 2000, runtime="pytorch", tp_sizes=(8,))
    assert any(one.attention_dp for one in plan(name, "h200-sxm", 8, ask=ask).options)


def test_runtime_pytorch_alone_has_it_and_by_width_and_by_number_are_not_the_same() -> None:
    for runtime, has in (("tensorrt", False), ("pytorch", True)):
        ask = Ask(Load(1000, 1000, 256), 2000, runtime=runtime, tp_sizes=(4,), formats=("fp8",))  # type: ignore[arg-type]
        found = plan("qwen3-30b-a3b", "h100-sxm", 4, ask=ask)
        assert any(one.attention_dp for one in found.working) is has
        speeds = {one.label: one.tokens_per_second for one in found.working if one.kv_dtype == "fp8"}
        assert speeds["TP4 EP4 fp8, KV fp8"] != pytest.approx(speeds["TP4 fp8, KV fp8"], rel=1e-3)
        assert ("TP4 EP4 ADP fp8, KV fp8" in speeds) is has


def test_unseen_rows_of_experts_are_within_a_third_and_their_tp_sizes_in_order() -> None:
    found = errors(rows("experts"), calibration().fit)
    assert not {(*row.group, row.tp) for row, _ in found} & {
        (*row.group, row.tp) for row in rows("experts_calibration")
    }
    wide = [one for one in found if one[0].tp > 1]
    assert len(wide) > 50
    assert statistics.median(abs(error) for _, error in wide) < 0.20
    pcie = [one for one in found if (one[0].gpu, one[0].model) == ("rtx-pro-6000", "qwen3-30b-a3b")]
    eight = [error for row, error in pcie if row.tp == 8]
    assert abs(statistics.median(eight)) < 0.33
    for per_gpu in (False, True):
        sizes = [one for one in pcie if one[0].release == "1.0"]
        found_orders = orders(sizes, per_gpu=per_gpu, bands=calibration().bands)
        assert found_orders.groups == 10
        assert found_orders.right >= 8
