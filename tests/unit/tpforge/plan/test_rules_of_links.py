"""What is said of links, duplicated heads and waits is what the plan computed, at its link and its scale.

Rules of size are tests/unit/tpforge/plan/test_rules_of_size.py's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders.blueprint import find_blueprint
from tests.unit.tpforge.plan.test_choose import advice, plan
from tpforge.plan.choice.choose import Plan, decide
from tpforge.plan.hardware.gpus import Link, find_gpu, make_cluster
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load

ASK = Ask(Load(1000, 1000, concurrency=32), 2000, formats=("fp8",), kv_dtypes=("fp8",))


def divided(gpu: str, tp_size: int, *, per_host: int | None = None, link: Link | None = None) -> Plan:
    cluster = make_cluster(find_gpu(gpu), num_gpus=tp_size, link=link, gpus_per_host=per_host)
    formats = ("fp8",) if find_gpu(gpu).fp8_tflops else ("int8_wo",)
    ask = replace(ASK, tp_sizes=(tp_size,), formats=formats, kv_dtypes=("bfloat16",))
    return decide(find_blueprint("llama-3.3-70b"), cluster, ask, goal="throughput", calibration=calibration())


def speed_of(found: Plan) -> float:
    return found.chosen.tokens_per_second


def test_ranks_on_two_hosts_are_slower_than_on_one_whatever_the_link_within() -> None:
    one, two = divided("h100-sxm", 8), divided("h100-sxm", 8, per_host=4)
    assert speed_of(two) < 0.5 * speed_of(one)
    assert "tp=8 crosses hosts of 4 GPUs" in advice(two)["slow-link"]
    assert "slow-link" not in advice(divided("h100-sxm", 4, per_host=4))
    # Over the network there is no NVLink to be had.
    assert speed_of(two) == pytest.approx(speed_of(divided("h100-sxm", 8, per_host=4, link="pcie")))


def test_an_nvlink_domain_of_72_joins_hosts_of_four() -> None:
    found = divided("gb200", 8, per_host=4)
    assert speed_of(found) == speed_of(divided("gb200", 8))
    assert "crosses" not in advice(found).get("slow-link", "")


def test_a_bridge_over_two_leaves_four_ranks_to_pcie_and_is_never_slower_than_it() -> None:
    bridged, plain = divided("a100-pcie-80gb", 4, link="nvlink"), divided("a100-pcie-80gb", 4, link="pcie")
    assert speed_of(bridged) == speed_of(plain)
    assert advice(bridged)["slow-link"].startswith("tp=4 over PCIe, beyond the 2 that NVLink joins: ")
    assert advice(plain)["slow-link"].startswith("tp=4 over PCIe: ")
    assert speed_of(divided("a100-pcie-80gb", 2, link="nvlink")) > speed_of(
        divided("a100-pcie-80gb", 2, link="pcie")
    )


def test_with_attention_data_parallelism_no_head_is_held_twice() -> None:
    ask = Ask(Load(1000, 1000), 2000, runtime="pytorch", tp_sizes=(8,), formats=("fp8",))
    found = plan("qwen3-30b-a3b", "h100", 8, ask=ask)
    for one in found.working:
        said = {rule.rule for rule in plan_advice(found, replace(one))}
        assert ("duplicated-heads" in said) is not one.attention_dp, one.label


def plan_advice(found: Plan, chosen: object) -> tuple[object, ...]:
    from tpforge.plan.choice.rules import advise
    from tpforge.plan.options.option import Option

    assert isinstance(chosen, Option)
    return advise(chosen, found.options, blueprint=found.blueprint, ask=found.ask)


def test_waits_and_speeds_that_are_said_are_scaled_as_the_estimates_are() -> None:
    asks = (
        ("kv-starvation", Ask(Load(1000, 1000, concurrency=64), 2000, formats=("fp8",))),
        ("p95-risk", Ask(Load(1000, 1000, concurrency=16), 2000, formats=("fp8",))),
    )
    for rule, ask in asks:
        said = []
        for scale in (1.0, 0.5):
            found = decide(
                find_blueprint("llama-3.3-70b"),
                make_cluster(find_gpu("h100"), num_gpus=1),
                ask,
                goal="throughput",
                calibration=calibration().scaled(scale),
            )
            text = advice(found)[rule]
            words = text.partition("wait, ")[2] or text.partition("each user gets ")[2]
            said.append(float(words.partition(" ")[0]))
        slower = said[1] / said[0]
        assert slower == pytest.approx(2.0 if rule == "kv-starvation" else 0.5, rel=0.06)


def test_at_a_rate_that_all_serve_rules_compare_times_and_not_equal_tokens() -> None:
    ask = Ask(Load(1000, 1000, requests_per_second=4.0), 2000, ttft_ms=800, runtime="pytorch")
    found = plan("qwen3-235b-a22b", "h200-sxm", 8, ask=ask, alternatives=("qwen3-30b-a3b",))
    said = advice(found)
    for rule in ("tensor-parallelism", "attention-dp", "smaller-model"):
        assert "the same requests/s at " in said[rule], rule
        assert "+0 %" not in said[rule]
    unstated = advice(plan("llama-3.1-8b", "h100-sxm", 8))["tensor-parallelism"]
    assert "% tokens/s per GPU and" in unstated
