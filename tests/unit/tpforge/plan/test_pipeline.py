"""What the stages of a pipeline do at once: passes of parts of the batch, which cost for the rest as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.fitting import pipeline_rows
from benchmarks.published import Row, rows
from builders.blueprint import find_blueprint
from tpforge.dtypes import DType
from tpforge.plan.memory.kv import kv_layout
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.throughput import Engine, StepModel, largest_batch
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes, weight_bytes


def over_eight_stages() -> Engine:
    found = next(row for row in rows("check") if (row.gpu, row.pp) == ("rtx-pro-6000", 8))
    return found.engine


def test_every_stage_has_a_pass_at_once_so_that_the_batch_is_that_many_of_them() -> None:
    """NVIDIA/TensorRT-LLM, memory.md, FAQ 4: the whole batch may be larger than max_batch_size."""
    engine = over_eight_stages()
    engine = replace(engine, settings=replace(engine.settings, max_batch_size=16))
    most = largest_batch(engine, Load(128, 128))
    assert most is not None
    assert (most.size, most.limit) == (8 * 16, "max batch size")


def test_a_pass_costs_its_own_requests_and_a_share_for_those_of_the_other_stages() -> None:
    fit = calibration().fit
    alone, shared = (fit.model_copy(update={"active_share": share}) for share in (0.0, 0.25))
    engine, tokens = over_eight_stages(), Tokens(batch=800, context=1000)
    own = 800 / 8 * fit.request_us["pytorch"] * 1e-6
    without, found = (StepModel(engine, one).time(tokens) for one in (alone, shared))
    # Of a step, which is a pass of each of eight parts.
    assert found.overhead - without.overhead == pytest.approx(8 * own * 0.25 * 7)
    assert (found.linear, found.attention) == (without.linear, without.attention)


def test_one_stage_has_no_others() -> None:
    row = next(row for row in rows("check") if row.pp == 1)
    fit = calibration().fit
    more = fit.model_copy(update={"active_share": 1.0})
    assert row.estimate(more) == row.estimate(fit)


def test_the_share_is_fitted_to_rows_that_judge_nothing() -> None:
    def key(row: Row) -> tuple[object, ...]:
        return (*row.group, row.tp)

    judged = {key(row) for name in ("check", "experts", "architectures") for row in rows(name)}
    fitted = rows("pipeline_calibration")
    assert not judged & {key(row) for row in fitted}
    assert len(fitted) == 6
    assert [row.load.output_tokens for row in pipeline_rows()] == [2048, 1000, 2000, 2048]
    assert 0 < calibration().fit.active_share < 1


@pytest.mark.parametrize("name", ["gemma-2-9b", "glm-4.5", "llama-3.3-70b"])
@pytest.mark.parametrize("pp_size", [1, 4, 8])
def test_stages_that_are_alike_are_looked_at_once_and_all_are_counted(name: str, pp_size: int) -> None:
    """Gemma's windows alternate, GLM begins with dense layers: each kind of stage is found by its bytes."""
    shapes = rank_shapes(find_blueprint(name), mapping=Mapping(pp_size=pp_size))
    each = Counter(
        (
            weight_bytes(shapes, stage=stage, dtype=DType.BFLOAT16, weight_format="fp8"),
            kv_layout(shapes, stage=stage, kv_dtype="fp8"),
        )
        for stage in range(pp_size)
    )
    found: Counter[object] = Counter()
    for stage, count in shapes.stages.items():
        size = weight_bytes(shapes, stage=stage, dtype=DType.BFLOAT16, weight_format="fp8")
        found[size, kv_layout(shapes, stage=stage, kv_dtype="fp8")] += count
    assert found == each
    assert len(shapes.stages) <= min(pp_size, 5)


def test_a_stage_that_another_exceeds_in_all_is_never_the_slowest() -> None:
    """A step of all stages, each asked for: the longest is what the model of steps says."""
    model, tokens = StepModel(over_eight_stages(), calibration().fit), Tokens(800, 1000, 4096, 100)
    every = [time.times(8) for time in model.stage_times(tokens.part(8))]
    assert len(every) > 1
    assert model.time(tokens) == max(every, key=lambda one: one.total)
