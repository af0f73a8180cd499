"""Prefill and decode apart: against a queue that is played through, and against counting GPUs by hand."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pytest

from scripts.main import main
from tests.unit.tpforge.plan.test_choose import plan
from tpforge.plan.choice.disaggregated import MOST_BUSY, Disaggregation, disaggregate
from tpforge.plan.options.option import Ask
from tpforge.plan.record import read_plan
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load

ASK = Ask(Load(8000, 500), 8500, tpot_ms=20)


@cache
def found(ask: Ask = ASK, gpus: int = 8) -> Disaggregation:
    one = disaggregate(plan("llama-3.3-70b", "h100", gpus, ask=ask), fit=calibration().fit)
    assert one is not None
    return one


def test_the_workers_fit_the_gpus_and_neither_kind_is_asked_for_more_than_it_gives() -> None:
    one = found()
    ranks = [worker.option.mapping.world_size for worker in (one.prefill, one.decode)]
    assert one.num_gpus == one.num_prefill * ranks[0] + one.num_decode * ranks[1] <= 8
    reads, answers = one.prefill.requests_per_second, one.decode.requests_per_second
    assert one.requests_per_second <= MOST_BUSY * one.num_prefill * reads * 1.000001
    assert one.requests_per_second <= one.num_decode * answers * 1.000001
    assert answers == pytest.approx(one.decode.batch / (500 * one.decode.milliseconds / 1e3))
    # One decode worker fewer would be too few.
    assert (one.num_decode - 1) * answers < one.requests_per_second


def test_a_user_is_no_slower_than_in_the_plan_and_limits_are_kept() -> None:
    speed = plan("llama-3.3-70b", "h100", 8, ask=ASK).chosen.speed
    assert speed is not None
    assert found().decode.milliseconds <= speed.tpot_ms * 1.000001
    strict = found(Ask(Load(8000, 500), 8500, tpot_ms=20, ttft_ms=900))
    assert strict.ttft_ms <= 900 < found().ttft_ms
    assert strict.requests_per_second <= found().requests_per_second


def test_the_wait_for_a_prefill_worker_is_that_of_a_queue_played_through() -> None:
    one = found()
    draw, service = random.Random(3), one.prefill.milliseconds
    gap = 1e3 * one.num_prefill / one.requests_per_second
    now = free = waited = 0.0
    for _ in range(200_000):
        now += draw.expovariate(1 / gap)
        waited += max(0.0, free - now)
        free = max(free, now) + service
    rest = calibration().fit.first_token.start_ms + service + one.transfer_ms + one.decode.milliseconds
    assert one.ttft_ms - rest == pytest.approx(waited / 200_000, rel=0.05)


def test_longer_prompts_take_more_prefill_workers_a_decode_worker() -> None:
    def share(isl: int, osl: int) -> float:
        one = found(Ask(Load(isl, osl), isl + osl, tpot_ms=20))
        return one.num_prefill * one.prefill.option.mapping.world_size / one.num_gpus

    assert share(500, 2000) < share(1000, 1000) < share(4000, 500)


def test_the_cache_of_a_prompt_moves_at_the_rate_of_the_link() -> None:
    one = found()
    memory = max(
        (worker.option.memory for worker in (one.prefill, one.decode) if worker.option.memory),
        key=lambda memory: memory.layout.bytes_per_token,
    )
    nvlink = 450e9 * calibration().fit.links.nvlink
    assert one.transfer_ms == pytest.approx(1e3 * 8000 * memory.layout.bytes_per_token / nvlink)


def test_one_gpu_holds_no_two_workers() -> None:
    single = plan("llama-3.1-8b", "h100", 1, ask=Ask(Load(1000, 1000), 2000))
    assert disaggregate(single, fit=calibration().fit) is None


def test_plan_prints_both_ways_and_says_that_one_is_modelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "plan",
        "llama-3.3-70b",
        "--gpu",
        "h100",
        "--gpus",
        "8",
        "--concurrency",
        "64",
        "--disaggregated",
    ]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert " prefill + " in text
    assert "modelled, compared with no measurement" in text
    assert main([*asked, "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["disaggregated"]["label"] in text
    file = tmp_path / "plan.json"
    for beside in ({}, {"second_opinion": {"unavailable_because": "no program"}}):
        file.write_text(json.dumps(json.loads(printed) | beside), "utf-8")
        assert read_plan(file).gpu == "h100-sxm"
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100", "--disaggregated"]) == 0
    assert "on 1 GPU are as fast" in capsys.readouterr().out
