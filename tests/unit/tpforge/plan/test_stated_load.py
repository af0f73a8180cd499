"""A stated load: no option is credited with requests that nobody sends.

Speeds themselves are tests/unit/tpforge/plan/test_speed.py's.
"""

from __future__ import annotations

import pytest

from tests.unit.tpforge.plan.test_choose import advice, plan
from tpforge.errors import NothingFits
from tpforge.plan.options.option import Ask
from tpforge.plan.speed.load import Load


@pytest.mark.parametrize(("model", "num_gpus"), [("llama-3.1-8b", 8), ("qwen3-30b-a3b", 6)])
@pytest.mark.parametrize("concurrency", [1, 3, 7, 100])
def test_tokens_a_second_are_of_the_requests_that_there_are(
    model: str, num_gpus: int, concurrency: int
) -> None:
    load = Load(500, 200, concurrency=concurrency)
    found = plan(model, "h100", num_gpus, ask=Ask(load, 700, runtime="pytorch"))
    for one in found.working:
        assert one.speed is not None
        # Each of the requests at once gets a token in the time that one takes; none gets two.
        most = concurrency * 1e3 / one.speed.tpot_ms
        assert one.tokens_per_second <= most * 1.001, one.label


def test_one_user_of_eight_gpus_is_served_by_the_engine_that_is_fastest_for_one() -> None:
    found = plan("llama-3.1-8b", "h100", 8, ask=Ask(Load(1000, 1000, concurrency=1), 2000))
    assert (found.chosen.mapping.tp_size, found.chosen.replicas) == (8, 1)
    alone = plan("llama-3.1-8b", "h100", 1, ask=Ask(Load(1000, 1000, concurrency=1), 2000))
    replicated = next(one for one in found.working if one.label == "TP1 x 8 fp8, KV fp8")
    assert replicated.tokens_per_second == pytest.approx(
        next(one for one in alone.working if one.label == "TP1 fp8, KV fp8").tokens_per_second
    )


@pytest.mark.parametrize("rate", [0.01, 0.5, 4.0])
def test_a_rate_is_answered_with_the_tokens_that_it_asks_for_and_no_more(rate: float) -> None:
    found = plan("llama-3.3-70b", "h100", 8, ask=Ask(Load(1000, 250, requests_per_second=rate), 1250))
    for one in found.working:
        assert one.tokens_per_second == pytest.approx(250 * rate)
        low, high = one.tokens_between
        assert low < high == one.tokens_per_second
    # All serve it: of equals the simplest.
    assert found.chosen.mapping.world_size == min(one.mapping.world_size for one in found.working)


def test_the_most_that_is_borne_is_the_rate_at_which_options_begin_to_be_refused() -> None:
    ask = Ask(Load(1000, 1000, requests_per_second=5.0), 2000, formats=("fp8",), kv_dtypes=("fp8",))
    most = plan("llama-3.1-8b", "h100", 2, ask=ask).chosen.most_per_second
    assert most is not None
    for share, works in ((0.999, True), (1.001, False)):
        load = Load(1000, 1000, requests_per_second=share * most)
        asked = Ask(load, 2000, formats=("fp8",), kv_dtypes=("fp8",), tp_sizes=(1,))
        if works:
            found = plan("llama-3.1-8b", "h100", 2, ask=asked)
            assert found.chosen.most_per_second == pytest.approx(most)
        else:
            with pytest.raises(NothingFits, match="requests/s per replica of the"):
                plan("llama-3.1-8b", "h100", 2, ask=asked)


def test_a_rate_within_the_band_of_the_most_is_warned_of_and_one_below_is_not() -> None:
    def said(rate: float) -> str | None:
        ask = Ask(Load(1000, 1000, requests_per_second=rate), 2000, formats=("fp8",), tp_sizes=(1,))
        return advice(plan("llama-3.1-8b", "h100", 1, ask=ask)).get("near-capacity")

    assert said(5.0) is None
    warned = said(13.0)
    assert warned is not None
    low, high = (float(word) for word in warned.partition("hold from ")[2].partition(":")[0].split(" to "))
    assert low < 13.0 < high
    unstated = plan("llama-3.1-8b", "h100", 1)
    assert "near-capacity" not in advice(unstated)
    assert unstated.chosen.most_per_second is None
