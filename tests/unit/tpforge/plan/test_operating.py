"""The load an option is judged at, against a walk over every number of requests at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from builders.blueprint import find_blueprint
from tests.unit.tpforge.plan.test_choose import plan
from tests.unit.tpforge.plan.test_speed import estimate, make_engine
from tpforge.errors import NothingFits
from tpforge.plan.choice.picker import pick_gpus
from tpforge.plan.hardware.gpus import Prices, gpus
from tpforge.plan.options.frontier import frontier
from tpforge.plan.options.operating import Limits, first_size, operate
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Batch, StepModel, StepTime, largest_batch, speed_at

LOAD = Load(1000, 1000)


def walked(limits: Limits) -> int:
    """The most requests at once that keep `limits`, each number tried in turn."""
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    kept = 0
    for size in itertools.count(1):
        found = estimate(engine, Load(1000, 1000, concurrency=size))
        if found.batch < size:
            return kept
        slow_token = limits.tpot_ms is not None and found.tpot_ms > limits.tpot_ms
        slow_start = limits.ttft_ms is not None and found.ttft_ms > limits.ttft_ms
        if slow_token or slow_start:
            return kept
        kept = size
    raise AssertionError


@pytest.mark.parametrize(
    "limits", [Limits(tpot_ms=8.0), Limits(tpot_ms=15.0), Limits(ttft_ms=150.0), Limits(300.0, 30.0)]
)
def test_a_limit_without_a_load_runs_the_most_requests_that_keep_it(limits: Limits) -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    found = operate(engine, LOAD, limits=limits, fit=calibration().fit, scale=1)
    assert found.reason is None
    assert (found.speed.batch, found.speed.limit) == (walked(limits), "latency limit")


def test_a_limit_that_a_full_batch_keeps_changes_nothing() -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    found = operate(engine, LOAD, limits=Limits(tpot_ms=1000), fit=calibration().fit, scale=1)
    assert found.speed == estimate(engine, LOAD)


def test_a_limit_that_one_request_breaks_is_refused_with_what_it_takes_alone() -> None:
    with pytest.raises(NothingFits, match=r"ms per token with one request alone, more than 1"):
        plan("llama-3.3-70b", "h100", 1, ask=Ask(LOAD, 2000, tpot_ms=1))


def test_a_factor_on_all_estimates_moves_the_batch_as_the_limit_does() -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    slower = operate(engine, LOAD, limits=Limits(tpot_ms=15), fit=calibration().fit, scale=0.5)
    assert slower.speed.batch == walked(Limits(tpot_ms=7.5))


def test_eight_h100_within_30_ms_a_token_run_replicas_and_not_eight_starved_gpus() -> None:
    found = plan("llama-3.3-70b", "h100-sxm", 8, ask=Ask(LOAD, 2000, tpot_ms=30)).chosen
    assert (found.mapping.tp_size, found.replicas) == (2, 4)
    assert found.speed is not None
    assert 25 < found.speed.tpot_ms <= 30


def test_a_limit_that_larger_gpus_keep_does_not_reject_them() -> None:
    wanted = ("h100-sxm", "h200-sxm", "b200", "gb300", "a30")
    kinds = [gpu for gpu in gpus() if gpu.name in wanted]
    picks = pick_gpus(
        find_blueprint("llama-3.3-70b"),
        kinds,
        Ask(LOAD, 2000, tpot_ms=30),
        goal="throughput",
        calibration=calibration(),
        prices=Prices(),
    )
    counts = {one.gpu.name: one.option.num_gpus for one in picks if one.option is not None}
    assert set(counts) == set(wanted)
    assert counts["h200-sxm"] == counts["b200"] == counts["gb300"] == 1


def test_a_rate_is_served_by_the_fewest_requests_at_once_that_finish_as_fast() -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    load = Load(1000, 1000, requests_per_second=5)
    found = operate(engine, load, limits=Limits(), fit=calibration().fit, scale=1).speed
    one_less = estimate(engine, Load(1000, 1000, concurrency=found.batch - 1))
    assert found.limit == "rate"
    assert one_less.tokens_per_second < 5000 <= found.tokens_per_second


def test_a_rate_beyond_what_fits_is_refused_with_what_is_served() -> None:
    ask = Ask(Load(1000, 1000, requests_per_second=500), 2000)
    with pytest.raises(NothingFits, match=r"serves .* requests/s per replica of the 500\.00 asked for"):
        plan("llama-3.1-8b", "h100", 1, ask=ask)


def test_the_fewest_gpus_serve_the_rate_and_one_replica_less_does_not() -> None:
    load = Load(1000, 1000, requests_per_second=25)
    ask = Ask(load, 2000, tpot_ms=20, fewest_gpus=True, formats=("fp8",), kv_dtypes=("fp8",), tp_sizes=(1,))
    found = plan("llama-3.1-8b", "h100-sxm", 8, ask=ask, goal="gpus").chosen
    assert 1 < found.num_gpus < 8
    fewer = Ask(load, 2000, tpot_ms=20, formats=("fp8",), kv_dtypes=("fp8",), tp_sizes=(1,))
    with pytest.raises(NothingFits):
        plan("llama-3.1-8b", "h100-sxm", found.num_gpus - 1, ask=fewer)


def test_without_a_load_the_batch_keeps_the_wish_and_gives_way_where_nothing_could() -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1, weight_format="fp8")
    wished = operate(engine, LOAD, limits=Limits(wished_tpot_ms=15), fit=calibration().fit, scale=1)
    assert (wished.speed.batch, wished.speed.limit) == (walked(Limits(tpot_ms=15)), "operating point")
    hopeless = operate(engine, LOAD, limits=Limits(wished_tpot_ms=0.1), fit=calibration().fit, scale=1)
    assert hopeless.speed == estimate(engine, LOAD)
    assert hopeless.reason is None


def test_no_point_of_the_frontier_is_beaten_by_another_option_at_any_batch() -> None:
    found = plan("llama-3.3-70b", "h100", 4)
    points = frontier(found.working, LOAD, calibration=calibration())
    users, gpu_rates = [one.user for one in points], [one.gpu for one in points]
    assert users == sorted(users, reverse=True)
    assert gpu_rates == sorted(gpu_rates)
    for option in found.working:
        assert option.engine is not None
        for size in (1, 2, 8, 64):
            speed = estimate(option.engine, Load(1000, 1000, concurrency=size))
            user, gpu = 1e3 / speed.tpot_ms, speed.tokens_per_second / option.mapping.world_size
            assert any(one.user >= user and one.gpu >= gpu * 0.999 for one in points), (option.label, size)


def test_a_plan_with_a_stated_load_or_limit_has_no_frontier() -> None:
    assert plan("llama-3.1-8b", "h100", 1).frontier
    assert not plan("llama-3.1-8b", "h100", 1, ask=Ask(LOAD, 2000, tpot_ms=20)).frontier
    assert not plan("llama-3.1-8b", "h100", 1, ask=Ask(Load(1000, 1000, 4), 2000)).frontier


def test_what_the_frontier_leaves_out_is_beaten_and_most_of_it_is_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = plan("qwen3-235b-a22b", "h200", 8, ask=Ask(LOAD, 2000, runtime="pytorch"))
    steps: list[int] = []
    whole = StepModel.steps

    def counted_steps(model: StepModel, batch: int, load: Load) -> tuple[StepTime, StepTime]:
        steps.append(batch)
        return whole(model, batch, load)

    monkeypatch.setattr(StepModel, "steps", counted_steps)
    points = frontier(found.working, LOAD, calibration=calibration())
    computed = len(steps)
    every = []
    for option in found.working:
        assert option.engine is not None and option.speed is not None
        model, most = StepModel(option.engine, calibration().fit), largest_batch(option.engine, LOAD)
        assert most is not None
        sizes = {round(2 ** (power / 4)) for power in range(60)} | {option.speed.batch}
        for size in [one for one in sizes if one < most.size] + [most.size]:
            speed = speed_at(model, LOAD, batch=Batch(size, "concurrency"))
            every.append((1e3 / speed.tpot_ms, speed.tokens_per_second / option.mapping.world_size))
    best, front = 0.0, []
    for user, gpu in sorted(every, key=lambda one: (-one[0], -one[1])):
        if gpu > best:
            best = gpu
            front.append((user, gpu))
    assert [one.user for one in points] == pytest.approx([user for user, _ in front])
    assert [one.gpu for one in points] == pytest.approx([gpu for _, gpu in front])
    assert computed < len(every) / 2


@pytest.mark.parametrize("most", [1, 2, 3, 100, 4096])
@pytest.mark.parametrize(
    "grows",
    [lambda size: size, lambda size: size**0.3, lambda size: size**2],
    ids=["evenly", "ever slower", "ever faster"],
)
@pytest.mark.parametrize("at", [0.0, 1.0, 1.5, 2.0, 9.7, 50.0, 3000.0, 1e9])
def test_the_first_size_is_that_of_a_walk_and_few_are_tried(
    most: int, grows: Callable[[float], float], at: float
) -> None:
    tried: list[int] = []

    def holds(size: int) -> bool:
        tried.append(size)
        return grows(size) >= grows(at)

    found = first_size(most, holds, beyond=lambda size: grows(size) / (grows(at) or 1) - 1)
    walk = itertools.takewhile(lambda size: grows(size) < grows(at), range(1, most + 1))
    assert found == 1 + len(list(walk))
    assert len(tried) <= 16
