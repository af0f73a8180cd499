"""Requests that come at a rate queue: what is chosen, counted or advised keeps the limits in the simulation.

The simulation itself is tests/unit/tpforge/plan/test_simulation.py's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders.blueprint import find_blueprint
from tests.unit.tpforge.plan.test_choose import plan
from tpforge.errors import InputRefused, NothingFits
from tpforge.plan.choice.picker import pick_gpus
from tpforge.plan.hardware.gpus import Prices, find_gpu, make_cluster
from tpforge.plan.options.listing import list_options
from tpforge.plan.options.option import Ask
from tpforge.plan.options.percentiles import late_rejection, simulate_option
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load

ASKS = (
    ("llama-3.3-70b", Ask(Load(1000, 1000, requests_per_second=2.0), 2000, ttft_ms=400)),
    ("llama-3.3-70b", Ask(Load(1000, 1000, requests_per_second=4.0), 2000, ttft_ms=600, tpot_ms=30)),
    ("llama-3.1-8b", Ask(Load(1000, 1000, requests_per_second=10.0), 2000, ttft_ms=100)),
    ("qwen3-30b-a3b", Ask(Load(1000, 1000, requests_per_second=5.0), 2000, tpot_ms=12)),
)


def works(model: str, gpu: str, count: int, ask: Ask) -> bool:
    """Whether the best of the options whose mean request alone keeps the limits keeps them queued, too."""
    found = find_blueprint(model)
    options = list_options(found, make_cluster(find_gpu(gpu), num_gpus=count), ask, calibration=calibration())
    return any(
        late_rejection(ask, simulate_option(one, ask, fit=calibration().fit)) is None
        for one in options
        if one.rejection is None
    )


@pytest.mark.parametrize(("model", "ask"), ASKS)
def test_the_fewest_gpus_of_a_kind_are_those_that_a_plan_of_them_takes(model: str, ask: Ask) -> None:
    kinds = [find_gpu(name) for name in ("h100-sxm", "h200-nvl", "l40s")]
    picks = pick_gpus(
        find_blueprint(model),
        kinds,
        ask,
        goal="throughput",
        calibration=calibration(),
        prices=Prices(),
    )
    for pick in picks:
        counts = [count for count in (1, 2, 4, 8) if works(model, pick.gpu.name, count, ask)]
        if pick.option is None:
            assert counts == [], pick.gpu.name
            continue
        found = plan(model, pick.gpu.name, counts[0], ask=ask)
        assert (found.chosen.label, found.chosen.num_gpus) == (pick.option.label, pick.option.num_gpus)


@pytest.mark.parametrize(("model", "ask"), ASKS)
@pytest.mark.parametrize("gpu", ["h100-sxm", "h200-nvl"])
def test_asking_for_the_fewest_gpus_never_loses_a_plan(model: str, ask: Ask, gpu: str) -> None:
    """More replicas shorten the queue: one that queues too long with few is not lost with more."""
    assert works(model, gpu, 8, ask)
    fewest = plan(model, gpu, 8, ask=replace(ask, fewest_gpus=True), goal="gpus")
    assert fewest.simulated.ttft.mean_ms <= (ask.ttft_ms or float("inf"))
    assert fewest.simulated.tpot.mean_ms <= (ask.tpot_ms or float("inf"))
    # No smaller host would do.
    count = fewest.chosen.num_gpus
    if fewest.chosen.mapping.world_size == 1 and count > 1:
        assert not works(model, gpu, count - 1, replace(ask, formats=(fewest.chosen.weight_format,)))


def test_what_an_error_says_would_work_works() -> None:
    ask = Ask(Load(1000, 1000, requests_per_second=6.0), 2000, ttft_ms=500, tpot_ms=30)
    with pytest.raises(NothingFits) as refused:
        plan("llama-3.3-70b", "h100-sxm", 2, ask=ask)
    nearest = [line for line in str(refused.value).splitlines() if "nearest that works" in line]
    assert nearest
    for line in nearest:
        count, title = line.partition("works: ")[2].partition(":")[0].split(" x ")
        assert works("llama-3.3-70b", title, int(count), ask), line


def test_where_neither_more_nor_others_of_as_many_do_it_a_host_of_others_is_named() -> None:
    with pytest.raises(InputRefused) as refused:
        plan("glm-5-fp8", "rtx-4090", 1, ask=Ask(Load(1000, 1000), 2000, runtime="pytorch"))
    (line,) = [line for line in str(refused.value).splitlines() if "nearest that works" in line]
    count, title = line.partition("works: ")[2].partition(":")[0].split(" x ")
    found = plan("glm-5-fp8", title, int(count), ask=Ask(Load(1000, 1000), 2000, runtime="pytorch"))
    assert found.chosen.precision == "fp8_block"
