"""Estimates scaled by a run of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from builders.blueprint import find_blueprint
from tests.support.runs import level_of, run_of
from tpforge.errors import InputRefused
from tpforge.measure.runs.run import Run
from tpforge.plan.hardware.gpus import find_gpu, make_cluster
from tpforge.plan.options.option import Ask
from tpforge.plan.options.scaled_by_run import calibrate
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load

ENGINE = {
    "model": "meta-llama/Llama-3.1-8B",
    "runtime": "tensorrt",
    "precision": "bfloat16",
    "quantization": "none",
    "tp": 1,
    "pp": 1,
}


def run(**engine: Any) -> Run:
    level, _ = level_of([[0.1, 0.1, 0.1, 0.1]], concurrency=4)
    facts: Mapping[str, Any] = {**ENGINE, **engine}
    return run_of("mine", [level], engine=facts, environment={"gpu": "NVIDIA H100 80GB HBM3"})


def test_a_run_of_ones_own_scales_all_estimates_to_what_it_measured() -> None:
    blueprint, cluster = find_blueprint("llama-3.1-8b"), make_cluster(find_gpu("h100"), num_gpus=8)
    ask = Ask(Load(1000, 1000), 2000)
    once, said = calibrate(run(), blueprint, cluster, ask, calibration=calibration())
    measured = run().levels[0].metrics["output_token_throughput"].avg
    assert f"{measured:.0f} tokens/s measured" in said
    again, _ = calibrate(run(), blueprint, cluster, ask, calibration=once)
    assert again.scale == pytest.approx(once.scale)
    assert once.scale < 1


def test_a_run_of_something_else_cannot_scale_a_plan() -> None:
    blueprint, ask = find_blueprint("llama-3.1-8b"), Ask(Load(1000, 1000), 2000)
    other = run(runtime="reference", model="SmolLM2")
    with pytest.raises(InputRefused) as caught:
        calibrate(
            other, blueprint, make_cluster(find_gpu("a100"), num_gpus=1), ask, calibration=calibration()
        )
    text = str(caught.value)
    assert "runtime is reference" in text
    assert "model is SmolLM2" in text
    assert "the plan is of A100" in text
