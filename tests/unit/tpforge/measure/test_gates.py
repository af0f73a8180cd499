"""Limits on a loss: only what was measured and shown to be within them passes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.runs import GIB, level_of, run_of, score
from tpforge.errors import InputRefused, RegressionFound
from tpforge.measure.comparison.compare import Comparison, compare_runs
from tpforge.measure.comparison.gates import apply_gates, check_gates
from tpforge.measure.runs.run import Run

SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


def one_level(name: str, ttfts: Any = SLOW, **options: Any) -> Run:
    return run_of(name, [level_of(ttfts, **{"copies": 20, **options})[0]])


def compared(first: Run, second: Run) -> Comparison:
    return compare_runs(first, second)


def test_a_gate_fails_on_a_certain_loss_and_names_it() -> None:
    found = compared(one_level("a", FAST), one_level("b"))
    result = check_gates(found, {"p95-increase": 50})
    assert any("p95 time_to_first_token at concurrency 1 is worse by" in line for line in result.failures)
    assert result.unchecked == ()
    assert check_gates(found, {"p95-increase": 500}).failures == ()
    back = compared(one_level("a"), one_level("b", FAST))
    kept = apply_gates([back], {"p95-increase": 0}).kept
    assert [line.split()[3:5] for line in kept] == [
        ["p95", "time_to_first_token"],
        ["p95", "inter_token_latency"],
        ["p95", "request_latency"],
    ]


def test_a_loss_that_may_be_chance_was_not_shown_to_be_within_the_limit() -> None:
    noisy = ((0.1, 0.1), (0.5, 0.5), (0.1, 0.1))
    found = compared(one_level("a", FAST), one_level("b", noisy))
    result = check_gates(found, {"p95-increase": 10})
    assert result.failures == ()
    said = "the interval holds the limit; more repeats in turns (tpforge bench --join) would decide it"
    assert any(said in line and "time_to_first" in line for line in result.undecided)
    with pytest.raises(RegressionFound, match="not shown to be within the limit"):
        apply_gates([found], {"p95-increase": 10})


def test_equal_runs_of_different_hours_do_not_pass() -> None:
    found = compared(one_level("a", minutes=(0, 1, 2)), one_level("b", minutes=(60, 61, 62)))
    with pytest.raises(RegressionFound, match="measured one after the other"):
        apply_gates([found], {"throughput-drop": 50})


def test_a_level_that_was_never_measured_does_not_pass() -> None:
    levels = [level_of(FAST, concurrency=count, copies=20)[0] for count in (1, 8)]
    found = compared(run_of("a", levels), run_of("b", levels[:1]))
    with pytest.raises(InputRefused, match="b: --max-p95-increase 5: concurrency 8 was not measured"):
        apply_gates([found], {"p95-increase": 5})


def test_refused_requests_break_the_gates_of_latency_and_of_errors() -> None:
    # One of the forty requests of each repeat is answered, as fast as the baseline's.
    found = compared(one_level("a", FAST), one_level("b", FAST, num_failed=39))
    result = check_gates(found, {"p95-increase": 5, "error-increase": 5})
    assert any("p95 adj_time_to_first_token" in line and "infinite" in line for line in result.failures)
    assert any("request_error_rate" in line and "worse by 97.5 points" in line for line in result.failures)
    row = found.find("request_error_rate", level="concurrency 1")
    assert row is not None and row.verdict == "worse"


def test_no_failures_in_few_requests_are_no_proof_that_none_happen() -> None:
    few = compared(one_level("a", FAST), one_level("b", FAST))
    assert len(check_gates(few, {"error-increase": 1}).undecided) == 1
    many = compared(one_level("a", FAST, copies=100), one_level("b", FAST, copies=100))
    assert len(check_gates(many, {"error-increase": 1}).kept) == 1


def test_failures_that_come_in_one_repeat_count_as_fewer_requests() -> None:
    base, _ = level_of(FAST, copies=20)
    samples_of = level_of(FAST, copies=20, num_failed=3)[1]
    from tpforge.measure.runs.metrics import count_errors, summarize

    burst = [s.model_copy(update={"error_kind": None}) if s.repeat else s for s in samples_of]
    repeats = tuple(
        repeat.model_copy(update={"num_completed": 37 if place == 0 else 40})
        for place, repeat in enumerate(base.repeats)
    )
    level = base.model_copy(
        update={
            "repeats": repeats,
            "metrics": summarize(burst, repeats),
            "errors": count_errors(burst),
        }
    )
    found = compared(run_of("a", [base]), run_of("b", [level]))
    row = found.find("request_error_rate", level="concurrency 1")
    assert row is not None and row.change == pytest.approx(2.5) and row.change_high is not None
    assert row.change_high > 7.1, "wider than Newcombe's interval of 0 and 3 of 120"


def test_a_gate_without_its_metric_or_without_repeats_is_unchecked() -> None:
    found = compared(one_level("a", SLOW[:1], copies=60), one_level("b"))
    result = check_gates(found, {"memory-increase": 5, "p95-increase": 1})
    assert (result.failures, result.kept, len(result.unchecked)) == ((), (), 4)


def test_memory_is_judged_by_the_most_that_was_read() -> None:
    small = one_level("a", memory={0: (20 * GIB, 20 * GIB)})
    large = one_level("b", memory={0: (22 * GIB, 23 * GIB)})
    assert check_gates(compared(small, large), {"memory-increase": 10}).failures
    assert check_gates(compared(small, large), {"memory-increase": 20}).kept
    assert check_gates(compared(small, one_level("c")), {"memory-increase": 20}).unchecked


def test_the_gate_of_quality_counts_points() -> None:
    first = run_of("a", [], quality={"structured_validity": score(98, 97.5, 98.5, n=4000)})
    second = run_of("b", [], quality={"structured_validity": score(90, 89.5, 90.5, n=4000)})
    found = compared(first, second)
    (failure,) = check_gates(found, {"quality-drop": 7}).failures
    assert failure == ("b: --max-quality-drop 7: avg structured_validity is worse by 8.0 points [7.3, 8.7]")
    assert len(check_gates(found, {"quality-drop": 8}).undecided) == 1
    assert len(check_gates(found, {"quality-drop": 9}).kept) == 1


@pytest.mark.parametrize(("num_repeats", "is_said"), [(2, True), (3, False)])
def test_two_repeats_are_called_too_few(num_repeats: int, is_said: bool) -> None:
    found = compared(one_level("a", FAST[:num_repeats]), one_level("b", SLOW[:num_repeats]))
    note = "concurrency 1: n=2 repeats are too few for more than a very large difference"
    assert any(line.startswith(note) for line in found.notes) == is_said
