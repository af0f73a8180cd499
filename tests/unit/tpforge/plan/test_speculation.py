"""Drafted tokens and reused prefixes: by hand, as limits, and as orders that must hold.

No measurement of either is at hand: what is asserted follows from the definitions.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from scripts.main import main
from tests.unit.tpforge.plan.test_speed import estimate, make_engine
from tpforge.plan.hardware.gpus import find_gpu, make_cluster
from tpforge.plan.speed.calibration import Deployment, calibration
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.speculation import NO_DRAFTS, Drafts
from tpforge.plan.speed.throughput import StepModel

LOAD = Load(4000, 500, concurrency=4)


def test_tokens_a_step_are_those_of_a_draw() -> None:
    draw = random.Random(7)
    drafts = Drafts(4, 0.7)

    def step() -> int:
        accepted = 0
        while accepted < drafts.num_tokens and draw.random() < drafts.acceptance:
            accepted += 1
        return accepted + 1

    drawn = sum(step() for _ in range(40_000)) / 40_000
    assert drafts.tokens_per_step == pytest.approx(drawn, rel=0.01)
    assert Drafts(3, 0.5).tokens_per_step == 1.875
    assert (NO_DRAFTS.tokens_per_step, Drafts(5, 0.0).tokens_per_step) == (1, 1)


def test_drafts_that_are_never_accepted_only_cost() -> None:
    engine = make_engine("llama-3.3-70b", "h100-sxm", tp=4, weight_format="fp8")
    wasted = estimate(engine, replace(LOAD, drafts=Drafts(3, 0.0)))
    assert wasted.tpot_ms > estimate(engine, LOAD).tpot_ms


def test_drafts_gain_at_most_their_tokens_and_less_the_larger_the_batch() -> None:
    engine = make_engine("llama-3.3-70b", "h100-sxm", tp=4, weight_format="fp8")
    drafts = Drafts(3, 0.8)

    def gain(batch: int) -> float:
        load = Load(100, 1000, concurrency=batch)
        drafted = estimate(engine, replace(load, drafts=drafts))
        return drafted.tokens_per_second / estimate(engine, load).tokens_per_second

    gains = [gain(batch) for batch in (1, 16, 128, 512)]
    assert gains == sorted(gains, reverse=True)
    assert 1 < gains[0] < drafts.tokens_per_step
    assert gains[-1] < 0.7 * gains[0]


def test_a_prefix_in_the_cache_is_not_read_and_still_looked_at() -> None:
    engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1)
    model = StepModel(engine, calibration().fit)
    whole, half = model.prefill(Load(8000, 1)), model.prefill(Load(8000, 1, prefix_hit=0.5))
    alone = model.prefill(Load(4000, 1))
    assert half.linear == alone.linear
    # Each of the 4000 tokens that are read sees 6000 others in the mean, not 2000: by hand.
    assert half.attention == pytest.approx(3 * alone.attention)
    assert whole.attention == pytest.approx(4 * alone.attention)
    assert estimate(engine, replace(LOAD, prefix_hit=0.9)).ttft_ms < estimate(engine, LOAD).ttft_ms
    assert Load(10, 1, prefix_hit=0.99).read_tokens == 1


def test_a_band_of_published_rows_is_not_claimed_for_either() -> None:
    cluster = make_cluster(find_gpu("h100-sxm"), num_gpus=8)
    assert calibration().band(Deployment(cluster, num_ranks=8)).rows > 0
    assert calibration().band(Deployment(cluster, num_ranks=8, load_is_modelled=True)).rows == 0
    far = calibration().band(Deployment(cluster, num_ranks=16, load_is_modelled=True))
    assert far.kind == "several hosts"


def test_plan_says_what_is_modelled_and_asks_for_both_options(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "llama-3.1-8b", "--gpu", "h100", "--concurrency", "8"]
    assert main([*asked, "--draft-tokens", "3", "--acceptance", "0.5", "--prefix-hit", "0.6"]) == 0
    text = capsys.readouterr().out
    assert "1.88 tokens a step from 3 drafted, 50 % accepted (modelled)" in text
    assert "400 of 1000 tokens of a prompt are read" in text
    assert "published rows" not in text
    for half in (["--draft-tokens", "3"], ["--acceptance", "0.5"]):
        assert main([*asked, *half]) == 2
        assert "belong together" in capsys.readouterr().err
    assert main([*asked, "--json", "--prefix-hit", "0.25"]) == 0
    assert json.loads(capsys.readouterr().out)["prefix_hit"] == 0.25
