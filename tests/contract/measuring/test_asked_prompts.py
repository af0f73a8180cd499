"""Which prompts are asked, and in what state of the server: speed must not decide it, nor a cache."""

from __future__ import annotations

import pytest

from tests.contract.measuring.conftest import Put, value
from tests.support.servers.virtual_openai import Answer, Asked, Script, prompts_of, steadily
from tpforge.measure.runs.prompts import Prompt
from triton_repo.load.schedule import Closed, Open

LENGTHS = tuple(range(10, 210, 10))


def by_length(speed: float) -> Script:
    """A server whose time to the first token is the prompt's length, in tens of milliseconds."""

    def script(asked: Asked) -> Answer:
        words = len(str(asked.body["prompt"]).split())
        return steadily(asked, ttft_s=0.01 * words / speed, itl_s=0.001 / speed)

    return script


@pytest.mark.parametrize("load", [Closed(1), Closed(3), Open(1.0)])
def test_a_server_that_is_faster_is_so_by_its_factor(put: Put, load: Closed | Open) -> None:
    """Sorted by length and in file order, the faster one would be asked the longer prompts."""
    prompts = prompts_of(len(LENGTHS), tokens=4, words=lambda number: LENGTHS[number])
    slow, fast = (
        put(by_length(speed), load, duration_s=25.0, num_repeats=2, prompts=prompts) for speed in (1.0, 1.5)
    )
    means = [value(found.levels[0], "time_to_first_token") for found in (slow, fast)]
    assert means[0] / means[1] == pytest.approx(1.5, rel=1e-6)
    for found in (slow, fast):
        assert len(set(found.levels[0].mix.values())) == 1
        assert found.levels[0].mix.keys() == {prompt.id for prompt in prompts}
        assert not any("how fast the server is" in note for note in found.notes)


def test_a_pass_that_takes_too_long_is_pointed_out(put: Put) -> None:
    prompts = prompts_of(40, tokens=4, words=lambda number: 100)
    found = put(by_length(1.0), Closed(1), duration_s=10.0, prompts=prompts)
    assert any(
        "the last pass over the 40 prompts" in note and "--num-requests" in note for note in found.notes
    )
    assert found.levels[0].num_requests == 20


@pytest.mark.parametrize("num_requests", [3, 5, 7, 10])
def test_so_many_requests_ask_the_same_prompts_in_every_repeat(put: Put, num_requests: int) -> None:
    prompts = prompts_of(5, tokens=4)
    found = put(by_length(1.0), Closed(2), num_requests=num_requests, num_repeats=3, prompts=prompts)
    asked = [
        sorted(s.prompt_id for s in found.samples if s.repeat == repeat and s.phase == "measured")
        for repeat in range(3)
    ]
    assert asked[0] == asked[1] == asked[2]
    assert asked[0] == sorted(f"p{number % 5}" for number in range(num_requests))


def test_the_order_is_shuffled_anew_in_every_repeat_and_the_same_for_a_seed(put: Put) -> None:
    prompts = prompts_of(12, tokens=4)

    def order(repeat: int) -> list[str]:
        found = put(by_length(1.0), Closed(1), num_requests=12, num_repeats=2, prompts=prompts)
        return [sample.prompt_id for sample in found.samples if sample.repeat == repeat]

    assert order(0) == order(0) != order(1)
    assert order(0) != [prompt.id for prompt in prompts]


class Caching:
    """A server that answers a prompt it knows nine times faster."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, asked: Asked) -> Answer:
        text = str(asked.body["prompt"])
        ttft_s = 0.033 if text in self._known else 0.303
        self._known.add(text)
        return steadily(asked, ttft_s=ttft_s, itl_s=0.001)


def different(prefix: str, count: int) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(id=f"{prefix}{number}", text=f"{prefix} {number}", max_tokens=4) for number in range(count)
    )


def test_a_cache_of_prompts_is_pointed_out(put: Put) -> None:
    found = put(Caching(), Closed(1), num_requests=10, num_repeats=3, prompts=different("p", 10))
    assert found.levels[0].metrics["time_to_first_token"].repeats["p50"] == pytest.approx((303, 33, 33))
    assert any("303 ms where a prompt was asked for the first time and 33 ms" in note for note in found.notes)


def test_asked_once_before_a_cache_is_the_same_in_every_repeat(put: Put) -> None:
    found = put(Caching(), Closed(1), num_requests=10, num_repeats=3, prompts=different("p", 10), warm=True)
    assert found.levels[0].metrics["time_to_first_token"].repeats["avg"] == pytest.approx((33, 33, 33))
    assert found.notes == ()


def test_new_prompts_in_every_repeat_meet_no_cache(put: Put) -> None:
    found = put(
        Caching(),
        Closed(1),
        num_requests=10,
        num_repeats=3,
        prompts=different("p", 10),
        fresh=lambda level, repeat: different(f"{level}-{repeat}-", 10),
    )
    assert found.levels[0].metrics["time_to_first_token"].repeats["avg"] == pytest.approx((303, 303, 303))
    assert (found.levels[0].mix, found.notes) == ({}, ())


def test_a_server_that_is_gone_does_not_hold_up_the_warming(put: Put) -> None:
    def silent(asked: Asked) -> Answer:
        return Answer(fate="hangs")

    found = put(silent, Closed(1), num_requests=1, prompts=different("p", 10), warm=True)
    assert any("asking each prompt once was broken off: warm p0: timeout" in note for note in found.notes)
