"""Communication and throughput of a plan: against measured rows, by hand, and as orders that must hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from builders.blueprint import blueprint_from_config
from tpforge.dtypes import DType
from tpforge.plan.hardware.communication import (
    LinkShares,
    allreduce_seconds,
    exchange_seconds,
    find_measured,
    gather_seconds,
    send_seconds,
)
from tpforge.plan.hardware.gpus import find_gpu, make_cluster
from tpforge.plan.memory.rank import Settings, rank_memory
from tpforge.plan.models.known import find_known
from tpforge.plan.speed.calibration import Deployment, calibration
from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.throughput import Engine, Speed, StepModel, speed
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes, stage_work
from tpforge.units import KIB, MIB

SHARES = LinkShares(pcie=0.5, nvlink=0.7, hosts=0.7, exchange=0.25)


def make_engine(name: str, gpu: str, *, tp: int, weight_format: str | None = None, kv: str = "fp8") -> Engine:
    known = find_known(name)
    assert known is not None
    blueprint = blueprint_from_config(known.config, name=name, where=name)
    shapes = rank_shapes(blueprint, mapping=Mapping(tp_size=tp))
    settings = Settings(DType.FLOAT16, weight_format, kv)
    found = find_gpu(gpu)
    memory = rank_memory(shapes, gpu=found, settings=settings)
    return Engine(shapes, memory, make_cluster(found, num_gpus=tp), settings)


def estimate(engine: Engine, load: Load) -> Speed:
    found = speed(engine, load, fit=calibration().fit)
    assert found is not None
    return found


def test_an_all_reduce_of_a_measured_size_takes_the_measured_time() -> None:
    cluster = make_cluster(find_gpu("h100-sxm"), num_gpus=8)
    times = [
        allreduce_seconds(size, ranks=8, cluster=cluster, shares=SHARES) for size in (16 * KIB, MIB, 2 * MIB)
    ]
    assert times == pytest.approx([3.6e-6, 26.0e-6, 35.5e-6])


def test_a_large_all_reduce_approaches_the_measured_bus_rate() -> None:
    cluster = make_cluster(find_gpu("h100-sxm"), num_gpus=8)
    seconds = allreduce_seconds(1e9, ranks=8, cluster=cluster, shares=SHARES)
    assert 1e9 * 2 * 7 / 8 / seconds == pytest.approx(438e9, rel=0.02)


def test_an_all_reduce_never_gets_cheaper_with_size() -> None:
    for gpu, ranks in (("h100-sxm", 8), ("a100", 4), ("l40s", 8), ("b200", 2), ("h100-sxm", 16)):
        cluster = make_cluster(find_gpu(gpu), num_gpus=ranks)
        sizes = [2.0**power for power in range(8, 31)]
        times = [allreduce_seconds(size, ranks=ranks, cluster=cluster, shares=SHARES) for size in sizes]
        assert times == sorted(times), gpu


def test_without_a_measurement_nccls_ring_is_computed_by_hand() -> None:
    cluster = make_cluster(find_gpu("l40s"), num_gpus=4)
    assert find_measured(cluster, 4) is None
    found = allreduce_seconds(64 * MIB, ranks=4, cluster=cluster, shares=SHARES)
    assert found == pytest.approx((8.4 + 6 * 5.7) * 1e-6 + 64 * MIB * 1.5 / 16e9)


def test_an_all_reduce_over_hosts_goes_at_the_network_rate() -> None:
    cluster = make_cluster(find_gpu("h100-sxm"), num_gpus=16)
    found = allreduce_seconds(1e9, ranks=16, cluster=cluster, shares=SHARES)
    assert found == pytest.approx(1e9 * 2 * 15 / 16 / 35e9, rel=0.01)
    assert send_seconds(1e9, cluster=cluster, ranks=8, shares=SHARES) == pytest.approx(1 / 35, rel=0.01)


def test_one_rank_communicates_nothing() -> None:
    cluster = make_cluster(find_gpu("l40s"), num_gpus=1)
    assert allreduce_seconds(1e9, ranks=1, cluster=cluster, shares=SHARES) == 0
    assert gather_seconds(1e9, ranks=1, cluster=cluster, shares=SHARES) == 0


def test_gathering_goes_at_the_measured_rate_of_nccl_or_takes_half_of_an_all_reduce() -> None:
    h200 = make_cluster(find_gpu("h200-sxm"), num_gpus=8)
    # aiconfigurator-core 0.12.0, nccl 2.29.2: 268,435,456 elements of 16 bits over 8 H200 in 1.448 ms.
    measured = gather_seconds(2 * 268_435_456, ranks=8, cluster=h200, shares=SHARES)
    assert measured == pytest.approx(1.448e-3, rel=0.05)
    cards = make_cluster(find_gpu("rtx-pro-6000"), num_gpus=8)
    assert gather_seconds(1e9, ranks=8, cluster=cards, shares=SHARES) == pytest.approx(7 / 8 / 23, rel=0.01)
    # Parts of different sizes are sent rank by rank: slower over NVLink, as fast as the link over PCIe.
    uneven = [exchange_seconds(1e9, ranks=8, cluster=one, shares=SHARES) for one in (h200, cards)]
    assert uneven[0] == pytest.approx(4 * gather_seconds(1e9, ranks=8, cluster=h200, shares=SHARES), rel=0.01)
    assert uneven[1] == gather_seconds(1e9, ranks=8, cluster=cards, shares=SHARES)
    unmeasured = make_cluster(find_gpu("l40s"), num_gpus=4)
    half = allreduce_seconds(1e9, ranks=4, cluster=unmeasured, shares=SHARES) / 2
    assert gather_seconds(1e9, ranks=4, cluster=unmeasured, shares=SHARES) == half


def test_a_light_load_reads_prompts_in_few_of_its_steps() -> None:
    """Of 128 steps some four begin with a prompt; the others touch only the experts of four answers."""
    engine = make_engine("mixtral-8x7b", "h100", tp=1, weight_format="fp8")
    model = StepModel(engine, calibration().fit)
    load = Load(512, 128, concurrency=4)
    context = 512 + 128 / 2
    answers = model.time(Tokens(4, context)).total
    share = 1 - math.exp(-4 / 128)
    reading = model.time(Tokens(4, context, prompt=4 / 128 * 512 / share, seen=256)).total
    assert model.step(4, load).total == pytest.approx((1 - share) * answers + share * reading)
    assert answers < model.step(4, load).total < reading


def test_a_prompt_alone_passes_the_stages_of_a_pipeline_one_after_the_other() -> None:
    load = Load(2048, 128, concurrency=1)

    def prefill(pp: int) -> float:
        known = find_known("llama-3.3-70b")
        assert known is not None
        blueprint = blueprint_from_config(known.config, name="70b", where="70b")
        shapes = rank_shapes(blueprint, mapping=Mapping(pp_size=pp))
        gpu, settings = find_gpu("b200"), Settings(DType.FLOAT16, "fp8", "fp8")
        engine = Engine(
            shapes,
            rank_memory(shapes, gpu=gpu, settings=settings),
            make_cluster(gpu, num_gpus=pp),
            settings,
        )
        return StepModel(engine, calibration().fit).prefill(load).total

    assert prefill(1) < prefill(4) < 1.1 * prefill(1)


def test_a_card_that_holds_less_power_than_its_module_sustains_less_of_the_same_peak() -> None:
    card, module = find_gpu("a100-pcie-80gb"), find_gpu("a100-sxm-80gb")
    assert card.fp16_tflops == module.fp16_tflops
    assert card.peak_flops("float") == pytest.approx(0.9 * module.peak_flops("float"))
    assert card.peak_flops("int8") == pytest.approx(0.9 * module.peak_flops("int8"))


def test_the_work_of_a_dense_token_is_its_matrices_and_of_mixtral_two_experts_of_eight() -> None:
    dense = stage_work(
        make_engine("llama-3.1-8b", "h100", tp=1).shapes, stage=0, dtype=DType.FLOAT16, weight_format=None
    )
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    assert dense.dense_weights == 32 * layer
    assert dense.dense_bytes == 2 * 32 * layer
    assert dense.head_weights == 128256 * 4096
    mixed = stage_work(
        make_engine("mixtral-8x7b", "h100", tp=1).shapes, stage=0, dtype=DType.FLOAT16, weight_format=None
    )
    attention = 4096 * (4096 + 2 * 1024) + 4096 * 4096
    router = 8 * 4096
    assert mixed.dense_weights == 32 * (attention + router)
    assert mixed.expert_weights == 32 * 2 * 3 * 4096 * 14336
    assert mixed.expert_bytes == 2 * 32 * 8 * 3 * 4096 * 14336


def test_a_single_request_is_bound_by_reading_the_weights() -> None:
    engine = make_engine("llama-3.1-8b", "h100", tp=1, kv="float16")
    found = estimate(engine, Load(128, 128, concurrency=1))
    least = engine.memory.weight_bytes / 3350e9 * 1e3
    assert least < found.tpot_ms < 2 * least
    assert (found.batch, found.limit, found.communication_share) == (1, "concurrency", 0)


def test_tp1_starved_of_cache_makes_tp2_more_than_twice_as_fast() -> None:
    # Published for 70B FP8 on H100 at 1000/1000: 840 and 4391 tokens a second.
    load = Load(1000, 1000)
    one = estimate(make_engine("llama-3.1-70b", "h100", tp=1, weight_format="fp8"), load)
    two = estimate(make_engine("llama-3.1-70b", "h100", tp=2, weight_format="fp8"), load)
    assert one.limit == "KV cache"
    assert two.tokens_per_second / one.tokens_per_second > 4


def test_over_pcie_eight_l40s_are_no_faster_than_four_for_short_prompts() -> None:
    # Published for 70B FP8 at 128/128: 1524 with four, 1464 with eight.
    load = Load(128, 128, concurrency=1024)
    four = estimate(make_engine("llama-3.1-70b", "l40s", tp=4, weight_format="fp8"), load)
    eight = estimate(make_engine("llama-3.1-70b", "l40s", tp=8, weight_format="fp8"), load)
    assert eight.tokens_per_second < 1.02 * four.tokens_per_second
    assert eight.communication_share > 0.6


def test_a_request_too_large_for_the_cache_has_no_speed() -> None:
    engine = make_engine("llama-3.1-70b", "h100", tp=1, weight_format="fp8")
    assert speed(engine, Load(120_000, 1000), fit=calibration().fit) is None


def test_a_test_that_ends_is_slower_for_its_last_and_smaller_batch() -> None:
    engine = make_engine("llama-3.1-8b", "a100", tp=1, kv="float16")
    batch = estimate(engine, Load(1000, 1000)).batch
    steady = estimate(engine, Load(1000, 1000)).tokens_per_second
    ended = estimate(engine, Load(1000, 1000, num_requests=batch + 1)).tokens_per_second
    whole = estimate(engine, Load(1000, 1000, num_requests=2 * batch)).tokens_per_second
    assert ended < 0.95 * steady
    assert math.isclose(whole, steady)


def test_every_band_holds_less_and_more_than_nothing_and_an_unknown_gpu_gets_the_widest() -> None:
    found = calibration()
    assert all(0 < band.low < band.high for band in found.bands)
    h20, h100 = (
        found.band(Deployment(make_cluster(find_gpu(name), num_gpus=4), num_ranks=4))
        for name in ("h20", "h100")
    )
    assert (h20.kind, h20.rows, h100.kind) == ("unmeasured GPU", 0, "nvlink")
    assert h20.high - h20.low > h100.high - h100.low


def test_a_band_is_of_what_widens_most() -> None:
    found = calibration()
    cluster = make_cluster(find_gpu("h100"), num_gpus=8)
    eight = Deployment(cluster, num_ranks=8)
    kinds = [
        found.band(replace(eight, **changed)).kind  # type: ignore[arg-type]
        for changed in (
            {},
            {"num_ranks": 1},
            {"pp_size": 8},
            {"has_experts": True},
            {"load_is_light": True},
            {"load_is_light": True, "has_experts": True},
            {"is_starved": True},
            {"is_of_other_architecture": True, "has_experts": True},
            {"release": "0.12.0"},
            {"release": "1.2.0"},
            {"has_experts": True, "load_is_modelled": True},
            {"num_ranks": 16, "load_is_modelled": True},
        )
    ]
    assert kinds == [
        "nvlink",
        "one GPU",
        "pipeline",
        "experts",
        "under load",
        "under load, experts",
        "starved of cache",
        "other architecture",
        "older release",
        "nvlink",
        "modelled load",
        "several hosts",
    ]
