"""What more of something can never do: of GPUs, of time, of memory, of load, of parameters.

No figure is judged here: physics and measurements are tests/unit/tpforge/plan/test_speed.py's and others'.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.blueprint import find_blueprint
from tpforge.plan.choice.choose import Goal, best_option
from tpforge.plan.choice.picker import pick_gpus
from tpforge.plan.hardware.gpus import Prices, find_gpu, make_cluster
from tpforge.plan.options.listing import list_options
from tpforge.plan.options.option import Ask, Option
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load

MODELS = st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "llama-3.3-70b"])
GPUS = st.sampled_from(["h100-sxm", "l40s", "a100-sxm-80gb", "gb200"])
COUNTS = st.sampled_from([1, 2, 3, 4, 6, 8])
LENGTHS = st.sampled_from([(1000, 1000), (128, 2000), (8000, 200)])
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def most(model: str, gpu: str, count: int, ask: Ask, *, goal: Goal = "throughput") -> Option | None:
    """The option with most tokens/s, of those that work."""
    cluster = make_cluster(find_gpu(gpu), num_gpus=count)
    options = list_options(find_blueprint(model), cluster, ask, calibration=calibration())
    working = [one for one in options if one.rejection is None]
    return max(working, key=lambda one: one.tokens_per_second, default=None)


def tokens(model: str, gpu: str, count: int, ask: Ask) -> float:
    found = most(model, gpu, count, ask)
    return 0.0 if found is None else found.tokens_per_second


def asked(lengths: tuple[int, int], **limits: float | None) -> Ask:
    return replace(Ask(Load(*lengths), sum(lengths), formats=(None, "fp8", "int8_wo")), **limits)  # type: ignore[arg-type]


@FEW
@given(MODELS, GPUS, COUNTS, COUNTS, LENGTHS, st.sampled_from([None, 15.0, 30.0, 60.0]))
def test_more_gpus_never_do_less(
    model: str, gpu: str, one: int, other: int, lengths: tuple[int, int], tpot_ms: float | None
) -> None:
    few, many = sorted((one, other))
    ask = asked(lengths, tpot_ms=tpot_ms)
    assert tokens(model, gpu, few, ask) <= tokens(model, gpu, many, ask) * (1 + 1e-9)


@FEW
@given(MODELS, GPUS, COUNTS, LENGTHS, st.floats(4, 200), st.floats(4, 200), st.booleans())
def test_a_tighter_limit_never_gives_more(
    model: str, gpu: str, count: int, lengths: tuple[int, int], one: float, other: float, is_first: bool
) -> None:
    tight, loose = sorted((one, other))
    key, factor = ("ttft_ms", 20.0) if is_first else ("tpot_ms", 1.0)
    asks = [asked(lengths, **{key: factor * limit}) for limit in (tight, loose)]
    held, free = (tokens(model, gpu, count, ask) for ask in asks)
    assert held <= free * (1 + 1e-9)


@FEW
@given(MODELS, GPUS, COUNTS, LENGTHS, st.integers(1, 400), st.integers(1, 400))
def test_more_requests_at_once_never_give_fewer_tokens(
    model: str, gpu: str, count: int, lengths: tuple[int, int], one: int, other: int
) -> None:
    few, many = sorted((one, other))
    found = []
    for concurrency in (few, many):
        ask = asked(lengths)
        found.append(tokens(model, gpu, count, replace(ask, load=replace(ask.load, concurrency=concurrency))))
    # Shares of requests are whole numbers: one more on a replica may cost the others a little.
    assert found[0] <= found[1] * 1.02


@FEW
@given(
    MODELS,
    st.sampled_from([("h100-sxm", "h200-sxm"), ("l4", "l40s"), ("h200-sxm", "b200"), ("b200", "b300")]),
    st.floats(0.05, 20),
    st.floats(0.05, 20),
    st.sampled_from([None, 25.0, 50.0]),
)
def test_a_higher_rate_or_a_lesser_gpu_never_takes_fewer(
    model: str, kinds: tuple[str, str], one: float, other: float, tpot_ms: float | None
) -> None:
    needed = []
    for rate in sorted((one, other)):
        load = Load(1000, 300, requests_per_second=rate)
        ask = Ask(load, 1300, tpot_ms=tpot_ms, formats=("fp8",), kv_dtypes=("fp8",))
        picks = pick_gpus(
            find_blueprint(model),
            [find_gpu(name) for name in kinds],
            ask,
            goal="throughput",
            calibration=calibration(),
            prices=Prices(),
        )
        by_name = {pick.gpu.name: pick.option.num_gpus if pick.option else 99 for pick in picks}
        needed.append([by_name[name] for name in kinds])
    (lesser_low, greater_low), (lesser_high, greater_high) = needed
    assert lesser_low <= lesser_high
    assert greater_low <= greater_high
    assert greater_low <= lesser_low
    assert greater_high <= lesser_high


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("llama-3.2-1b", "llama-3.1-8b"), ("llama-3.1-8b", "llama-3.3-70b"), ("qwen2.5-7b", "qwen2.5-14b")],
)
@pytest.mark.parametrize("gpu", ["h100-sxm", "l40s"])
def test_a_smaller_model_of_a_family_is_never_slower(smaller: str, larger: str, gpu: str) -> None:
    for load in (Load(1000, 1000, concurrency=1), Load(1000, 1000, concurrency=32), Load(1000, 1000)):
        ask = Ask(load, 2000, formats=("fp8",), kv_dtypes=("fp8",))
        for goal in ("throughput", "latency"):
            found = [
                best_option(
                    find_blueprint(name),
                    make_cluster(find_gpu(gpu), num_gpus=4),
                    ask,
                    goal=goal,  # type: ignore[arg-type]
                    calibration=calibration(),
                )
                for name in (smaller, larger)
            ]
            assert found[0] is not None
            if found[1] is not None:
                assert found[0].tokens_per_second >= found[1].tokens_per_second


def test_a_kind_is_not_refused_for_the_first_of_its_options_that_holds_too_few() -> None:
    """The option with most tokens/s is not that with most room."""
    picks = pick_gpus(
        find_blueprint("llama-3.1-405b"),
        [find_gpu(name) for name in ("h100-sxm", "h200-sxm")],
        Ask(Load(1000, 1000, concurrency=300), 2000),
        goal="throughput",
        calibration=calibration(),
        prices=Prices(),
    )
    assert all(pick.option is not None for pick in picks)
