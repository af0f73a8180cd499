"""The choice, the rules that explain it, and what is said when nothing works."""

from __future__ import annotations

import pytest

from builders.blueprint import find_blueprint
from tpforge.errors import InputRefused, NothingFits, PlanError
from tpforge.plan.choice.choose import Goal, Plan, decide, rank_options
from tpforge.plan.choice.rules import advise
from tpforge.plan.hardware.gpus import Link, find_gpu, make_cluster
from tpforge.plan.options.listing import list_options
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load


def plan(
    model: str,
    gpu: str,
    num_gpus: int,
    *,
    ask: Ask | None = None,
    goal: Goal = "throughput",
    link: Link | None = None,
    alternatives: tuple[str, ...] = (),
) -> Plan:
    return decide(
        find_blueprint(model),
        make_cluster(find_gpu(gpu), num_gpus=num_gpus, link=link),
        ask or Ask(Load(1000, 1000), 2000),
        goal=goal,
        calibration=calibration(),
        alternatives=[find_blueprint(name) for name in alternatives],
    )


def advice(found: Plan) -> dict[str, str]:
    return {one.rule: one.text for one in found.advice}


def narrowed(*formats: str | None, tp: tuple[int, ...] = (), pad: bool = True) -> Ask:
    return Ask(Load(1000, 1000), 2000, formats=formats, tp_sizes=tp, pad=pad)


def test_every_mapping_precision_and_cache_is_an_option_or_a_rejection() -> None:
    found = plan("llama-3.3-70b", "h100", 8)
    sizes = {(one.mapping.tp_size, one.mapping.pp_size) for one in found.options}
    assert sizes == {(tp, pp) for tp in (1, 2, 4, 8) for pp in (1, 2, 4, 8) if tp * pp <= 8}
    assert len(found.options) == len(sizes) * 5 * 2
    assert len(found.working) + len(found.rejected) == len(found.options)
    assert all(one.num_gpus == 8 for one in found.options)


def test_replicas_of_a_small_tp_win_over_one_wide_engine() -> None:
    found = plan("llama-3.1-8b", "h100", 8)
    assert (found.chosen.mapping.world_size, found.chosen.replicas) == (1, 8)
    assert advice(found)["one-gpu"].startswith("one GPU holds the model in 16 bits")


def test_a_model_starved_of_cache_on_one_gpu_gets_two_and_the_plan_says_why() -> None:
    found = plan("llama-3.3-70b", "h100", 8, ask=Ask(Load(1500, 1500), 3000))
    assert (found.chosen.mapping.tp_size, found.chosen.precision) == (2, "fp8")
    assert "starved of KV cache" in advice(found)["tensor-parallelism"]
    assert advice(found)["one-gpu"].startswith("one GPU holds it only quantized (fp8)")


def test_latency_as_the_goal_chooses_more_ranks_than_throughput() -> None:
    single = Ask(Load(1000, 1000, concurrency=1), 2000)
    assert plan("llama-3.3-70b", "h100", 8, ask=single, goal="latency").chosen.mapping.tp_size == 8


def test_a_model_that_barely_misses_one_gpu_is_told_to_quantize_first() -> None:
    # 16 bits of 70B are 1.7 times an H100, in 8 bits it fits.
    ask = Ask(Load(1000, 1000), 2000)
    found = plan("llama-3.3-70b", "h100", 8, ask=ask)
    assert "quantize-first" not in advice(found)
    options = found.options
    floats = next(one for one in found.working if one.weight_format is None)
    said = {one.rule: one for one in advise(floats, options, blueprint=found.blueprint, ask=ask)}
    assert "1.7 x the memory of one GPU" in said["quantize-first"].text


def test_more_than_two_ranks_over_pcie_are_warned_of_with_the_share_of_communication() -> None:
    found = plan("llama-3.3-70b", "l40s", 4, ask=narrowed("fp8", tp=(4,)))
    assert "tp=4 over PCIe" in advice(found)["slow-link"]
    assert found.chosen.speed is not None
    assert f"{100 * found.chosen.speed.communication_share:.0f} %" in advice(found)["slow-link"]
    assert "slow-link" not in advice(plan("llama-3.3-70b", "h100", 4, ask=narrowed("fp8", tp=(2,))))


def test_doubling_tp_where_it_loses_per_gpu_is_said() -> None:
    ask = Ask(Load(128, 128), 256, formats=("fp8",), tp_sizes=(4, 8), kv_dtypes=("fp8",))
    options = list_options(
        find_blueprint("llama-3.3-70b"),
        make_cluster(find_gpu("l40s"), num_gpus=8),
        ask,
        calibration=calibration(),
    )
    wide = next(one for one in options if one.mapping.tp_size == 8)
    said = {
        one.rule: one.text
        for one in advise(wide, options, blueprint=find_blueprint("llama-3.3-70b"), ask=ask)
    }
    assert said["diminishing-returns"].startswith("doubling tp to 8 lowers tokens/s per GPU by")


def test_requests_beyond_the_cache_wait_and_the_plan_warns() -> None:
    ask = Ask(Load(1000, 1000, concurrency=64), 2000, formats=("fp8",))
    found = plan("llama-3.3-70b", "h100", 1, ask=ask)
    assert "64 requests per replica are asked for" in advice(found)["kv-starvation"]
    assert found.chosen.speed is not None
    alone = plan("llama-3.3-70b", "h100", 1, ask=Ask(Load(1000, 1000, concurrency=1), 2000, formats=("fp8",)))
    assert alone.chosen.speed is not None
    assert found.chosen.speed.ttft_ms > 100 * alone.chosen.speed.ttft_ms


def test_duplicated_kv_heads_are_warned_of() -> None:
    found = plan("qwen2.5-7b", "h100", 8, ask=narrowed(None, tp=(8,)))
    assert "4 KV heads over tp=8" in advice(found)["duplicated-heads"]


def test_four_bits_are_chosen_only_where_eight_do_not_fit() -> None:
    assert plan("llama-3.1-8b", "l4", 1).chosen.precision == "fp8"
    assert plan("qwen2.5-32b", "l4", 1, ask=Ask(Load(500, 100), 600)).chosen.precision == "int4_awq"


def test_what_upstream_lists_comes_before_what_it_leaves_open() -> None:
    working = plan("llama-3.3-70b", "a100", 8).working
    doubts = [bool(one.notes) for one in working if one.weight_format != "int4_awq"]
    assert doubts == sorted(doubts)


def test_a_smaller_model_named_as_alternative_is_compared() -> None:
    found = plan("llama-3.3-70b", "h100", 4, alternatives=("llama-3.1-8b",))
    assert [one.model for one in found.instead] == ["llama-3.1-8b"]
    assert "llama-3.1-8b" in advice(found)["smaller-model"]


def test_ranking_prefers_the_simpler_of_two_that_are_nearly_as_good() -> None:
    working = plan("llama-3.3-70b", "h100", 8).working
    best = max(working, key=lambda one: one.tokens_per_second)
    first = rank_options(working, goal="throughput")[0]
    assert first.tokens_per_second > 0.9 * best.tokens_per_second
    assert first.mapping.world_size <= best.mapping.world_size


def test_70b_in_16_bits_on_one_24_gb_card_names_more_gpus_and_another_gpu() -> None:
    with pytest.raises(NothingFits) as caught:
        plan("llama-3.1-70b", "rtx-4090", 1, ask=narrowed(None))
    text = str(caught.value)
    assert "weights 131.4 GiB" in text
    assert "nearest that works: 8 x RTX 4090" in text


def test_tp3_without_padding_is_refused_with_sizes_that_work() -> None:
    with pytest.raises(PlanError) as caught:
        plan("llama-3.1-8b", "h100", 3, ask=narrowed(tp=(3,), pad=False))
    assert "use tp=1, 2, 4, 8" in str(caught.value)
    assert "nearest that works: TP1" in str(caught.value)


def test_requests_beyond_the_positions_are_refused_with_the_limit() -> None:
    with pytest.raises(InputRefused, match="use 8192 or less"):
        plan("llama-3-8b", "h100", 1, ask=Ask(Load(1000, 1000), 9000))


def test_fp8_on_a100_is_refused_with_what_works_there() -> None:
    with pytest.raises(InputRefused) as caught:
        plan("llama-3.1-8b", "a100", 1, ask=narrowed("fp8"))
    assert not isinstance(caught.value, PlanError)
    assert "SM80 is not supported" in str(caught.value)
    assert "on the same GPUs" in str(caught.value)


def test_an_unreachable_time_a_token_says_what_is_reached() -> None:
    ask = Ask(Load(1000, 1000, concurrency=1), 2000, tpot_ms=0.5)
    with pytest.raises(NothingFits, match=r"ms per token with one request alone, more than 0\.5"):
        plan("llama-3.3-70b", "h100", 8, ask=ask)


def test_the_cost_follows_from_price_gpus_and_tokens() -> None:
    found = plan("llama-3.1-8b", "h100", 2, ask=Ask(Load(1000, 1000), 2000, price=3.0)).chosen
    assert found.cost_per_million == pytest.approx(2 * 3.0 / 3600 / found.tokens_per_second * 1e6)


def test_disk_is_for_model_rank_files_and_engine_and_modelopt_needs_memory() -> None:
    needs = plan("llama-3.3-70b", "h100", 8, ask=narrowed("fp8", tp=(2,))).needs
    assert needs.source_bytes == 2 * 70_553_706_496
    assert needs.memory_bytes == needs.source_bytes
    assert needs.engine_bytes == needs.rank_files_bytes < needs.source_bytes
    streamed = plan("llama-3.3-70b", "h100", 8, ask=narrowed(None, tp=(4,))).needs
    # Norms and the embedding are on every rank.
    assert streamed.rank_files_bytes == needs.source_bytes + 3 * 2 * (128256 * 8192 + 161 * 8192)
    assert streamed.memory_bytes is None


def test_experts_over_several_ranks_are_said_to_have_another_way() -> None:
    assert "attention-dp" in advice(plan("mixtral-8x7b", "h100", 4, ask=narrowed("fp8", tp=(4,))))
    assert "attention-dp" not in advice(plan("llama-3.3-70b", "h100", 4))


def test_windows_that_bound_no_cache_are_said_where_a_bound_would_hold_more_requests() -> None:
    """TensorRT-LLM's PyTorch backend keeps all tokens of a layer unless max_attention_window is set."""
    for_llm_api = Ask(Load(4000, 1000), 5000, runtime="pytorch", kv_dtypes=("bfloat16",))
    found = advice(plan("gpt-oss-120b", "h200", 1, ask=for_llm_api))
    assert "kv_cache_config.max_attention_window" in found["windows"]
    # No request is longer than the window, none has one, and compiled engines are told by the recipe.
    short = Ask(Load(64, 60), 124, runtime="pytorch", kv_dtypes=("bfloat16",))
    assert "windows" not in advice(plan("gpt-oss-120b", "h200", 1, ask=short))
    assert "windows" not in advice(plan("qwen3-30b-a3b", "h200", 1, ask=for_llm_api))
    engine = Ask(Load(6000, 1000), 7000, formats=(None,))
    bounded = plan("gemma-2-9b", "h100", 1, ask=engine)
    assert "windows" not in advice(bounded)
    assert bounded.chosen.memory is not None
    assert (
        bounded.chosen.memory.layout.request_bytes(7000) < 7000 * bounded.chosen.memory.layout.bytes_per_token
    )
