"""Verdicts, changed variables, risks and gates: of runs whose numbers are known, and of drawn ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.support.runs import GIB, level_of, run_of, score
from tpforge.errors import UsageError
from tpforge.measure.comparison.compare import Comparison, compare_runs
from tpforge.measure.comparison.variables import compare_variables
from tpforge.measure.decisions.cost import cost_per_million_tokens
from tpforge.measure.decisions.decision import findings_of
from tpforge.measure.runs.run import Prediction, Run, SeriesSummary, Telemetry

SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


def pair(first: Run, second: Run) -> Comparison:
    return compare_runs(first, second)


def one_level(name: str, ttfts: object = SLOW, **options: object) -> Run:
    level, _ = level_of(ttfts, **options)  # type: ignore[arg-type]
    return run_of(name, [level])


def test_change_interval_and_p_value_are_a_paired_t_of_log_ratios_by_scipy() -> None:
    row = pair(one_level("a"), one_level("b", FAST)).find("time_to_first_token", level="concurrency 1")
    assert row is not None and row.baseline is not None and row.candidate is not None
    first, second = [[1e3 * float(np.mean(part)) for part in parts] for parts in (SLOW, FAST)]
    expected = stats.ttest_rel(np.log(second), np.log(first))
    interval = expected.confidence_interval(0.95)
    percents = 100 * np.expm1([np.mean(np.log(second) - np.log(first)), interval.low, interval.high])
    assert (row.change, row.change_low, row.change_high) == pytest.approx(tuple(percents))
    assert row.p_value == pytest.approx(expected.pvalue)
    half = stats.t.ppf(0.975, 2) * stats.sem(np.log(first))
    low, high = np.mean(first) * np.exp([-half, half])
    assert (row.baseline.value, row.baseline.low, row.baseline.high, row.baseline.n) == pytest.approx(
        (np.mean(first), low, high, 3)
    )
    assert row.verdict == "better"


def test_runs_measured_one_after_the_other_get_no_verdict_on_speed() -> None:
    found = pair(one_level("a", minutes=(0, 1, 2)), one_level("b", FAST, minutes=(3, 4, 5)))
    speed = [row for row in found.rows if row.section == "speed" and row.candidate and row.baseline]
    assert {row.verdict for row in speed} == {"undecided"}
    row = found.find("time_to_first_token", level="concurrency 1")
    assert row is not None and row.change is not None and row.p_value is None
    assert row.reason == "measured one after the other: the machine may have changed meanwhile"
    first, second = [[math.log(float(np.mean(part))) for part in parts] for parts in (SLOW, FAST)]
    welch = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    percents = 100 * np.expm1([welch.low, welch.high])
    assert (row.change_low, row.change_high) == pytest.approx(tuple(percents))
    assert any("there is no verdict" in note for note in found.notes)


def test_p95_is_compared_by_the_p95_of_every_repeat() -> None:
    many = {"copies": 20}
    first, second = one_level("a", **many), one_level("b", FAST, **many)
    row = pair(first, second).find("time_to_first_token", "p95", level="concurrency 1")
    assert row is not None and row.baseline is not None
    each = [1e3 * np.percentile(np.repeat(part, 20), 95) for part in SLOW]
    assert first.levels[0].metrics["time_to_first_token"].repeats["p95"] == pytest.approx(each)
    assert row.baseline.value == pytest.approx(1e3 * np.percentile(np.repeat(SLOW, 20), 95))
    few = pair(one_level("a"), one_level("b", FAST)).find("time_to_first_token", "p95", level="concurrency 1")
    assert few is not None
    assert few.reason == "not measured in either: too few requests tell it", "six requests have no p95"


def test_lower_latency_is_better_and_lower_throughput_is_worse() -> None:
    fast = one_level("fast", FAST, durations=(2.0, 2.1, 2.05))
    slow = one_level("slow", SLOW, durations=(4.0, 4.1, 4.05))
    verdicts = {(row.metric, row.statistic): row.verdict for row in pair(fast, slow).rows}
    assert verdicts[("time_to_first_token", "avg")] == "worse"
    assert verdicts[("output_token_throughput", "avg")] == "worse"
    back = {(row.metric, row.statistic): row.verdict for row in pair(slow, fast).rows}
    assert back[("time_to_first_token", "avg")] == back[("output_token_throughput", "avg")] == "better"


def test_one_repeat_is_undecided_however_large_the_difference() -> None:
    rows = pair(one_level("a", SLOW[:1]), one_level("b", FAST)).rows
    speed = [row for row in rows if row.section == "speed"]
    assert {row.verdict for row in speed} == {"undecided"}
    assert speed[0].reason == "needs at least two repeats of each run"
    assert speed[0].candidate is not None and speed[0].baseline is not None
    assert (speed[0].baseline.n, speed[0].baseline.low) == (1, None)


def test_levels_are_matched_by_load_and_the_others_named() -> None:
    one, two = level_of(SLOW, concurrency=1)[0], level_of(SLOW, concurrency=2)[0]
    four = level_of(FAST, concurrency=4)[0]
    found = pair(run_of("a", [one, two]), run_of("b", [four, two]))
    assert {row.level for row in found.rows} == {"concurrency 2"}
    assert "a: nothing to compare concurrency 1 with" in found.notes
    assert "b: nothing to compare concurrency 4 with" in found.notes


def test_a_run_is_not_compared_with_itself() -> None:
    with pytest.raises(UsageError, match="compared with itself"):
        pair(one_level("a"), one_level("a"))


def test_one_changed_variable_is_named() -> None:
    first = run_of("a", [], engine={"tp": 1, "model": "m"})
    second = run_of("b", [], engine={"tp": 4, "model": "m"})
    found = compare_variables(first, second)
    assert [(change.name, change.before, change.after) for change in found.changed] == [("tp", 1, 4)]
    assert found.verdict == "one variable changed: tp"
    assert "gpu" in {item.name for item in found.unknown}


def test_two_changed_variables_cannot_be_told_apart() -> None:
    first = run_of("a", [], engine={"tp": 1}, workload={"osl": 64})
    second = run_of("b", [], engine={"tp": 2}, workload={"osl": 128})
    found = compare_variables(first, second)
    assert {change.name for change in found.changed} == {"tp", "osl"}
    assert "can't tell which" in found.verdict


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("url", "a:8001", "b:8001"),
        ("duration_s", 2.0, 20.0),
        ("num_requests", None, 80),
        ("warmup_s", 0.0, 2.0),
        ("deadline_s", 60.0, 5.0),
        ("prompt_use", "new", "warm"),
    ],
)
def test_another_measurement_is_a_variable(name: str, before: object, after: object) -> None:
    first, second = (run_of(run, [], workload={name: value}) for run, value in (("a", before), ("b", after)))
    (change,) = compare_variables(first, second).changed
    assert (change.section, change.name, change.before, change.after) == ("workload", name, before, after)


def test_another_engine_has_an_address_of_its_own() -> None:
    first = run_of("a", [], engine={"tp": 1}, workload={"url": "localhost:8001"})
    second = run_of("b", [], engine={"tp": 2}, workload={"url": "localhost:9001"})
    found = compare_variables(first, second)
    assert found.verdict == "one variable changed: tp"
    assert [(change.name, change.follows_from) for change in found.followed] == [("url", "tp")]


@pytest.mark.parametrize(
    ("mix", "is_variable"),
    [({"p": 2, "q": 2}, False), ({"p": 1, "q": 1}, False), ({"p": 2, "q": 1}, True), ({"p": 4}, True)],
)
def test_prompts_that_one_run_asked_more_often_are_a_variable(mix: dict[str, int], is_variable: bool) -> None:
    (level, _), (other, _) = level_of(SLOW), level_of(SLOW)
    first = run_of("a", [level.model_copy(update={"mix": {"p": 3, "q": 3}})])
    second = run_of("b", [other.model_copy(update={"mix": mix})])
    names = [change.name for change in compare_variables(first, second).changed]
    assert names == (["prompts measured"] if is_variable else [])


def test_other_prompts_are_no_other_speed() -> None:
    fast, slow = level_of(FAST)[0], level_of(SLOW)[0]
    first = run_of("a", [slow.model_copy(update={"mix": {"p": 2, "q": 2}})])
    second = run_of("b", [fast.model_copy(update={"mix": {"p": 3, "q": 1}})])
    rows = [row for row in pair(first, second).rows if row.section == "speed" and row.baseline]
    assert {(row.verdict, row.reason) for row in rows} == {
        ("undecided", "the runs asked the prompts in different mixes")
    }


def test_what_follows_from_a_change_is_not_a_second_one() -> None:
    first = run_of("a", [], engine={"quantization": "none", "weights_sha256": "1", "precision": "bf16"})
    second = run_of("b", [], engine={"quantization": "int8", "weights_sha256": "2", "precision": "int8"})
    found = compare_variables(first, second)
    assert [change.name for change in found.changed] == ["quantization"]
    assert {change.name: change.follows_from for change in found.followed} == {
        "weights_sha256": "quantization",
        "precision": "quantization",
    }


def test_names_and_the_hosts_load_are_no_variables() -> None:
    first = run_of("a", [], engine={"name": "x"}, environment={"host_load": 0.1})
    second = run_of("b", [], engine={"name": "y"}, environment={"host_load": 1.7})
    assert compare_variables(first, second).changed == ()
    assert "chance" in compare_variables(first, second).verdict


def test_throughput_up_and_p95_worse_is_a_risk() -> None:
    steady = one_level("a", FAST, durations=(4.0, 4.1, 4.05), copies=20)
    spiky = one_level("b", SLOW, durations=(2.0, 2.1, 2.05), copies=20)
    risks = pair(steady, spiky).risks
    assert any("throughput is better, but p95 time_to_first_token" in risk for risk in risks)
    assert any("not a win" in risk for risk in risks)
    assert pair(spiky, steady).risks == ()


def test_a_better_average_with_a_worse_p95_is_a_risk() -> None:
    even = one_level("a", [[0.2] * 20, [0.201] * 20, [0.199] * 20], copies=2)
    tails = [[0.1] * 18 + [0.5] * 2, [0.101] * 18 + [0.5] * 2, [0.099] * 18 + [0.51] * 2]
    tailed = one_level("b", tails, copies=2)
    assert (
        "concurrency 1: the average of time_to_first_token is better, but its p95 is worse: a product risk, "
        "not a win"
    ) in pair(even, tailed).risks


def test_memory_down_and_quality_worse_is_a_risk() -> None:
    big, _ = level_of(SLOW, memory={0: (30 * GIB, 31 * GIB), 1: (20 * GIB, 21 * GIB)})
    small, _ = level_of(SLOW, memory={0: (15 * GIB, 16 * GIB), 1: (14 * GIB, 15 * GIB)})
    found = pair(
        run_of("a", [big], quality={"structured_validity": score(98, 95, 99)}),
        run_of("b", [small], quality={"structured_validity": score(70, 60, 79)}),
    )
    memory = found.find("gpu_memory_used", "max", level="concurrency 1")
    assert memory is not None and memory.baseline is not None
    assert (memory.verdict, memory.baseline.value) == ("better", 31 * GIB)
    assert any("memory is better" in risk and "quality is worse" in risk for risk in found.risks)


def test_overlapping_memory_readings_decide_nothing() -> None:
    first, _ = level_of(SLOW, memory={0: (30, 35)})
    second, _ = level_of(SLOW, memory={0: (29, 31)})
    row = pair(run_of("a", [first]), run_of("b", [second])).find("gpu_memory_used", "max", level=first.name)
    assert row is not None
    assert (row.verdict, row.reason) == ("undecided", "the readings of both overlap")


@pytest.mark.parametrize(
    ("before", "after", "noted"), [(2.0, 5.0, True), (5.0, 2.0, True), (2.0, 2.2, False)]
)
def test_a_busier_host_is_pointed_out(before: float, after: float, noted: bool) -> None:
    def busy(name: str, load: float) -> Run:
        level, _ = level_of(SLOW)
        series = SeriesSummary(unit="processes", avg=load, min=0, max=9, first=0, last=9, count=9)
        return run_of(
            name, [level.model_copy(update={"telemetry": Telemetry(host={"load_average": series})})]
        )

    found = pair(busy("a", before), busy("b", after))
    notes = found.notes
    assert (found.busier_host == ("concurrency 1",)) is noted
    assert ("not equally busy at 1 level," in findings_of(found, names={"a": "a", "b": "b"})) is noted
    said = f"concurrency 1: the host's load average was {before:.1f} for the baseline and {after:.1f}"
    assert any(note.startswith(said) for note in notes) is noted


def test_other_weights_without_a_look_at_quality_are_a_risk() -> None:
    first = run_of("a", [], engine={"quantization": "none"})
    second = run_of("b", [], engine={"quantization": "int8"})
    assert pair(first, second).risks == (
        "quantization changed and quality was not measured: run tpforge evaluate on both",
    )
    looked = second.model_copy(update={"quality": {"perplexity": score(10, 9, 11)}})
    assert "structured output was not tested again" in pair(first, looked).risks[0]


def test_scores_measured_against_this_baseline_are_judged_by_their_neutral_value() -> None:
    increase = {"unit": "%", "higher_is_better": False, "baseline": "a"}
    first = run_of("a", [], quality={"perplexity": score(10, 8, 12, higher_is_better=False)})
    second = run_of(
        "b",
        [],
        quality={
            "perplexity": score(10.4, 8.2, 12.4, higher_is_better=False),
            "perplexity_increase": score(4, 3, 5, **increase),
            "greedy_agreement": score(80, 70, 88, baseline="a"),
        },
    )
    verdicts = {row.metric: row.verdict for row in pair(first, second).rows}
    assert verdicts == {
        "perplexity": "undecided",
        "perplexity_increase": "worse",
        "greedy_agreement": "undecided",
    }
    rounding = second.model_copy(
        update={"quality": {"perplexity_increase": score(-2e-5, -3e-5, -1e-5, **increase)}}
    )
    (row,) = [row for row in pair(first, rounding).rows if row.metric == "perplexity_increase"]
    assert (row.verdict, row.reason) == ("undecided", "no difference")
    other = run_of("c", [])
    assert "perplexity_increase" not in {row.metric for row in pair(other, second).rows}


def test_a_perplexity_of_few_passages_never_falls_by_more_than_all_of_it() -> None:
    wide = score(13.1, 4.31, 39.8, unit="perplexity", higher_is_better=False)
    runs = [run_of(name, [], quality={"perplexity": wide}) for name in "ab"]
    (row,) = [row for row in pair(*runs).rows if row.metric == "perplexity"]
    assert row.change == 0 and row.change_low is not None and row.change_high is not None
    assert -100 < row.change_low < 0 < row.change_high
    assert (1 + row.change_low / 100) * (1 + row.change_high / 100) == pytest.approx(1)  # Even as a ratio.


def test_a_million_tokens_cost_what_their_time_costs() -> None:
    # 500 tokens a second: 2000 s, five ninths of an hour.
    assert cost_per_million_tokens(500, price_per_hour=3.6) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="never make a million"):
        cost_per_million_tokens(0, price_per_hour=1)
    fast, slow = one_level("a", FAST, durations=(1.0, 1.1, 1.05)), one_level("b", SLOW)
    found = compare_runs(fast, slow, prices={"a": 3.6, "b": 3.6})
    row = found.find("cost_per_million_output_tokens", level="concurrency 1")
    assert row is not None and row.candidate is not None
    # Two requests of four tokens in two seconds: 4 tokens/s.
    assert row.candidate.value == pytest.approx(250)
    assert row.verdict == "worse"
    assert compare_runs(fast, slow, prices={"a": 1.0}).find(row.metric, level=row.level) is None


def test_predictions_stand_beside_what_was_measured() -> None:
    level, _ = level_of(FAST)
    guess = Prediction(value=100, unit="ms", source="plan")
    level = level.model_copy(update={"predicted": {"time_to_first_token": guess}})
    (found,) = pair(one_level("a"), run_of("b", [level])).predicted
    assert (found.run, found.level, found.metric) == ("b", "concurrency 1", "time_to_first_token")
    assert (found.prediction.value, found.measured.value) == (100, pytest.approx(111.666, abs=0.01))
