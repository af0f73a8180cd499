"""Joined runs: two parts of one measurement make the whole again, and what is not of one kind is refused."""

from __future__ import annotations

import pytest

from tests.support.measured import LEVEL, RUN, SAMPLES, sample
from tests.support.runs import run_of
from tpforge.errors import InputRefused
from tpforge.measure.comparison.compare import compare_runs
from tpforge.measure.runs.joining import join_runs
from tpforge.measure.runs.metrics import count_errors, summarize
from tpforge.measure.runs.run import GpuTelemetry, Level, Repeat, Run, SeriesSummary, Telemetry
from tpforge.measure.runs.samples import Sample


def series(*values: float, unit: str = "B") -> SeriesSummary:
    return SeriesSummary(
        unit=unit,
        avg=sum(values) / len(values),
        min=min(values),
        max=max(values),
        first=values[0],
        last=values[-1],
        count=len(values),
    )


def increase(total: float) -> SeriesSummary:
    return SeriesSummary(unit="increase", avg=total, min=0, max=total, first=0, last=total, count=4)


def part(repeats: slice, *, telemetry: Telemetry | None = None) -> tuple[Run, list[Sample]]:
    """Some of the repeats of RUN, as a measurement of their own."""
    numbers = range(3)[repeats]
    samples = [
        one.model_copy(update={"repeat": one.repeat - numbers.start})
        for one in SAMPLES
        if one.repeat in numbers
    ]
    records = LEVEL.repeats[repeats]
    level = LEVEL.model_copy(
        update={
            "repeats": records,
            "metrics": summarize(samples, records, slo=RUN.workload.slo),
            "errors": count_errors(samples),
            "telemetry": telemetry or Telemetry(),
        }
    )
    workload = RUN.workload.model_copy(update={"num_repeats": len(records)})
    return RUN.model_copy(update={"levels": (level,), "workload": workload}), samples


def test_requests_of_parts_that_the_run_does_not_have_are_refused() -> None:
    (first, early), (later, late) = part(slice(0, 2)), part(slice(2, 3))
    edited = [*early, early[0].model_copy(update={"repeat": 2}), early[0].model_copy(update={"level": 1})]
    with pytest.raises(InputRefused, match=r"measure it anew:\n  level 0, repeat 2\n  level 1, repeat 0"):
        join_runs(first, edited, later, late)


def test_parts_make_the_whole_again() -> None:
    (first, early), (later, late) = part(slice(0, 2)), part(slice(2, 3))
    joined, samples = join_runs(first, early, later, late)
    assert samples == SAMPLES
    assert joined.levels == (LEVEL,)
    assert joined.workload == RUN.workload
    assert joined.notes[-1] == "joined: 1 more of each load, begun at 2026-01-01T00:00:00+00:00"


def test_failures_of_both_are_counted() -> None:
    (first, early), (later, late) = part(slice(0, 2)), part(slice(2, 3))
    broken = [
        one.model_copy(update={"error_kind": "refused"}) if n == 0 else one for n, one in enumerate(late)
    ]
    joined, _ = join_runs(first, early, later, broken)
    assert joined.levels[0].errors == {"refused": 1}
    assert joined.levels[0].metrics["request_error_rate"].repeats["avg"] == (0, 0, 25)


def test_levels_of_one_load_are_joined_whatever_their_order() -> None:
    def two(order: tuple[int, int], ttft: float) -> tuple[Run, list[Sample]]:
        samples = [
            sample(ttft=ttft * users).model_copy(update={"level": place}) for place, users in enumerate(order)
        ]
        repeat = Repeat(started="2026-01-01T00:00:00+00:00", duration_s=2.0, num_requests=1, num_completed=1)
        levels = [
            Level(
                name=f"concurrency {users}",
                concurrency=users,
                repeats=(repeat,),
                metrics=summarize([samples[place]], (repeat,)),
            )
            for place, users in enumerate(order)
        ]
        return run_of("two", levels, workload={"num_repeats": 1, "slo": None}), samples

    joined, samples = join_runs(*two((1, 4), 0.1), *two((4, 1), 0.2))
    found = [level.metrics["time_to_first_token"].repeats["avg"] for level in joined.levels]
    assert found == [pytest.approx((100, 200)), pytest.approx((400, 800))]
    assert [(one.level, one.repeat) for one in samples] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_readings_are_pooled_and_increases_added() -> None:
    def gpus(*values: float) -> tuple[GpuTelemetry, ...]:
        return (GpuTelemetry(index=0, name="G", uuid="GPU-1", series={"memory_used": series(*values)}),)

    first, early = part(
        slice(0, 2),
        telemetry=Telemetry(gpus=gpus(1, 3), server={"n": increase(5)}, host={"cpu": series(10, unit="%")}),
    )
    later, late = part(
        slice(2, 3), telemetry=Telemetry(gpus=gpus(8), server={"n": increase(2), "m": increase(1)})
    )
    found = join_runs(first, early, later, late)[0].levels[0].telemetry
    assert found.gpus[0].series["memory_used"] == series(1, 3, 8)
    assert (found.server["n"].last, found.server["n"].count, found.server["m"].last) == (7, 8, 1)
    assert found.host["cpu"].avg == 10


def test_another_engine_machine_or_load_is_refused_with_every_difference() -> None:
    first, early = part(slice(0, 2))
    later, late = part(slice(2, 3))
    other = run_of("other", later.levels, engine={"tp": 4}, environment={"gpu": "H100"}, workload={"osl": 9})
    first = run_of("first", first.levels, engine={"tp": 2}, environment={"gpu": "H200"})
    with pytest.raises(InputRefused) as caught:
        join_runs(first, early, other, late)
    said = str(caught.value)
    assert "engine, tp: 2 in the run, 4 now" in said
    assert "environment, gpu: H200 in the run, H100 now" in said
    assert "workload, osl: None in the run, 9 now" in said
    renamed = later.levels[0].model_copy(update={"name": "concurrency 2", "concurrency": 2})
    with pytest.raises(InputRefused, match="loads: concurrency 1 in the run, concurrency 2 now"):
        join_runs(part(slice(0, 2))[0], early, later.model_copy(update={"levels": (renamed,)}), late)


def test_a_server_on_another_port_and_another_seed_are_the_same_measurement() -> None:
    first, early = part(slice(0, 2))
    later, late = part(slice(2, 3))
    moved = later.workload.model_copy(update={"url": "localhost:9001", "seed": 3})
    joined, _ = join_runs(first, early, later.model_copy(update={"workload": moved}), late)
    assert joined.workload.url == first.workload.url


def test_nothing_is_joined_to_an_interrupted_run() -> None:
    first, early = part(slice(0, 2))
    with pytest.raises(InputRefused, match="one of both was interrupted: measure it anew"):
        join_runs(first.model_copy(update={"interrupted": True}), early, *part(slice(2, 3)))


def test_compare_says_where_runs_were_measured_one_after_the_other() -> None:
    def at(name: str, *minutes: int) -> Run:
        repeats = tuple(
            repeat.model_copy(update={"started": f"2026-01-01T00:{minute:02}:00+00:00"})
            for repeat, minute in zip(LEVEL.repeats, minutes, strict=True)
        )
        return run_of(name, [LEVEL.model_copy(update={"repeats": repeats})])

    said = "concurrency 1: one run was measured after the other, not in turns"
    for first, second in (((0, 1, 2), (3, 4, 5)), ((3, 4, 5), (0, 1, 2))):
        assert any(note.startswith(said) for note in compare_runs(at("a", *first), at("b", *second)).notes)
    same_order = compare_runs(at("a", 0, 2, 4), at("b", 1, 3, 5)).notes
    assert not any("not in turns" in note for note in same_order)
    assert any("one run was always first in its turn" in note for note in same_order)
    assert not any("turn" in note for note in compare_runs(at("a", 0, 3, 4), at("b", 1, 2, 5)).notes)
