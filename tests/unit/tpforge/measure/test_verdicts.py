"""Verdicts by simulation: few false ones of equal runs, many true ones, and the power that is printed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tpforge.errors import UsageError
from tpforge.measure.comparison.judging import Judgement, judge_repeats
from tpforge.measure.comparison.power import smallest_change, t_power
from tpforge.measure.comparison.rows import Measured, Row
from tpforge.measure.comparison.turns import Turns, turns_of
from tpforge.measure.comparison.verdicts import Primary, with_verdicts
from tpforge.measure.statistics import fisher_exact, holm

Truth = Callable[[float], float]


def at(*minutes: float) -> list[str]:
    return [f"2026-01-01T{int(m) // 60:02}:{int(m) % 60:02}:{round(60 * (m % 1)):02}+00:00" for m in minutes]


def turns(first: str) -> tuple[Turns, list[int], list[int]]:
    """The turns of ``ABBA``, a minute each, and the minutes of A and of B."""
    a, b = ([place for place, name in enumerate(first) if name == option] for option in "AB")
    return turns_of(at(*a), at(*b)), a, b


def test_repeats_that_alternate_are_rounds_in_any_order() -> None:
    found, _, _ = turns("ABBAAB")
    assert [(one.first, one.second) for one in found.rounds] == [((0,), (0,)), ((1,), (1,)), ((2,), (2,))]
    assert (found.are_taken, found.keep_their_order) == (True, False)
    assert turns("ABABAB")[0].keep_their_order


def test_groups_of_repeats_are_rounds_and_a_sequence_is_none() -> None:
    found, _, _ = turns("AABBBAAB")
    assert [(one.first, one.second) for one in found.rounds] == [((0, 1), (0, 1, 2)), ((2, 3), (3,))]
    assert not turns("AAABBB")[0].are_taken
    assert turns("AAABBB")[0].num_repeats == (3, 3)
    assert not turns("AB")[0].are_taken


def test_holm_is_that_of_statsmodels_rule_and_weights_favour_the_primary() -> None:
    # Worked by hand: 4 x 0.01, 3 x 0.02 (after 0.01), 2 x 0.03, 1 x 0.5.
    assert holm([0.02, 0.01, 0.5, 0.03], [1, 1, 1, 1]) == pytest.approx((0.06, 0.04, 0.5, 0.06))
    assert holm([0.02, 0.02], [0.5, 0.5]) == pytest.approx((0.04, 0.04))
    assert holm([0.03, 0.001], [0.9, 0.1]) == pytest.approx((0.03, 0.01))
    assert holm([], []) == ()


@pytest.mark.parametrize(("first", "second"), [((0, 100), (6, 100)), ((3, 50), (1, 90)), ((0, 9), (0, 9))])
def test_counts_are_compared_by_fishers_exact_test_of_scipy(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    table = [[failed, of - failed] for failed, of in (first, second)]
    assert fisher_exact(first, second) == pytest.approx(stats.fisher_exact(table).pvalue)


@pytest.mark.parametrize(("effect", "freedom"), [(1.0, 1), (3.0, 2), (5.0, 4), (3.5, 9)])
def test_power_is_that_of_scipys_noncentral_t(effect: float, freedom: int) -> None:
    critical = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(critical, freedom, effect) + stats.nct.cdf(-critical, freedom, effect)
    assert t_power(effect, freedom, critical=critical) == pytest.approx(expected, abs=1e-4)


def test_rounds_whose_differences_cancel_out_have_the_interval_of_their_spread() -> None:
    found, _, _ = turns("ABBA")
    equal = judge_repeats([100, 200], [100, 200], turns=found)
    assert (equal.low, equal.high, equal.p_value, equal.reason) == (0.0, 0.0, 1.0, "no difference")
    noisy = judge_repeats([100, 200], [200, 100], turns=found)
    expected = stats.ttest_rel(np.log([200, 100]), np.log([100, 200])).confidence_interval(0.95)
    ends = tuple(100 * np.expm1([expected.low, expected.high]))
    assert (noisy.low, noisy.high) == pytest.approx(ends)
    assert noisy.change == pytest.approx(0) and noisy.p_value == pytest.approx(1)


def judged(generator: random.Random, order: str, *, effect: float, noise: float, drift: Truth) -> Judgement:
    """B is faster by `effect` (log); the machine drifts over the minutes alike for both."""
    found, a, b = turns(order)
    first = [100 * math.exp(drift(m) + generator.gauss(0, noise)) for m in a]
    second = [100 * math.exp(drift(m) + effect + generator.gauss(0, noise)) for m in b]
    return judge_repeats(first, second, turns=found)


@pytest.mark.parametrize("num_rounds", [3, 5])
def test_a_change_of_the_printed_size_is_seen_in_eight_of_ten(num_rounds: int) -> None:
    generator, draws = random.Random(6), 1500
    effect = math.log1p(smallest_change(num_rounds, noise=0.02))
    order = ("ABBA" * num_rounds)[: 2 * num_rounds]
    seen = sum(
        (judged(generator, order, effect=effect, noise=0.02, drift=lambda _: 0).p_value or 0) < 0.05
        for _ in range(draws)
    )
    assert seen / draws == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / draws))


def test_rounds_see_through_a_drift_that_a_comparison_of_means_does_not() -> None:
    """A true 8 % under a common drift of 10 % a round: paired, nearly always; Welch hardly ever."""
    generator, draws = random.Random(7), 300
    paired = welch = 0
    for _ in range(draws):
        jumps = [generator.gauss(0, 0.1) for _ in range(5)]
        found, a, b = turns("ABBAABBAAB")
        values = [
            [math.exp(jumps[m // 2] + shift + generator.gauss(0, 0.015)) for m in minutes]
            for minutes, shift in ((a, 0.0), (b, math.log(1.08)))
        ]
        paired += (judge_repeats(values[0], values[1], turns=found).p_value or 0) < 0.05
        welch += stats.ttest_ind(np.log(values[1]), np.log(values[0]), equal_var=False).pvalue < 0.05
    assert paired > 0.9 * draws
    assert welch < 0.15 * draws


@pytest.mark.parametrize("order", ["ABBAABBA", "ABABABAB"])
def test_a_steady_drift_makes_no_verdict_in_either_order_of_turns(order: str) -> None:
    generator, draws = random.Random(8), 1000
    false = sum(
        (judged(generator, order, effect=0, noise=0.01, drift=lambda m: 0.08 * m / 7).p_value or 0) < 0.05
        for _ in range(draws)
    )
    assert false / draws < 0.05 + 4 * math.sqrt(0.05 * 0.95 / draws)


def row(metric: str, level: str = "concurrency 1") -> Row:
    side = Measured(value=1.0, n=3)
    return Row(
        section="speed", level=level, metric=metric, statistic="avg", unit="ms", baseline=side,
        candidate=side, change=0.0, lower_is_better=True, verdict="undecided",
    )  # fmt: skip


def test_one_comparison_of_equals_in_twenty_has_a_false_verdict_over_thirty_rows() -> None:
    generator, draws = random.Random(9), 400
    names = ["output_token_throughput", *(f"m{number}" for number in range(9))]
    rows = [row(name, level) for level in ("one", "two", "three") for name in names]
    false = 0
    for _ in range(draws):
        found = [(one, judged(generator, "ABBAAB", effect=0, noise=0.03, drift=lambda _: 0)) for one in rows]
        false += any(one.verdict != "undecided" for one in with_verdicts(found, primary=Primary()))
    assert false / draws < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_the_primary_metric_is_decided_where_another_is_not() -> None:
    found = Judgement(change=9.0, low=5.0, high=13.0, p_value=0.02, error=0.02, freedom=4)
    rest = [(row(f"m{number}"), Judgement(1.0, -1.0, 3.0, 0.5)) for number in range(10)]
    primary = Primary.parse("request_latency")
    first, *_ = with_verdicts([(row("request_latency"), found), *rest], primary=primary)
    assert (first.verdict, first.reason) == ("worse", "")
    other, *_ = with_verdicts([(row("time_to_first_token"), found), *rest], primary=primary)
    assert other.verdict == "undecided"
    assert other.reason.startswith("may be chance among the 11 that were judged together; a change of ")
    for wrong in ("speed", "request_latency:p42", "goodput:p95", "good_request_fraction"):
        said = f"--primary {wrong}: no such metric; one of: .*, request_latency:p95"
        with pytest.raises(UsageError, match=said):
            Primary.parse(wrong)


def test_constants_and_zeros_are_judged_without_a_logarithm() -> None:
    found, _, _ = turns("ABBA")
    assert judge_repeats([0.0, 0.0], [0.0, 0.0], turns=found).reason == "no difference"
    assert judge_repeats([20.0, 20.0], [20.0 + 1e-14] * 2, turns=found).reason == "no difference"
    constant = judge_repeats([20.0, 20.0], [21.0, 21.0], turns=found)
    assert (constant.change, constant.p_value) == (pytest.approx(5.0), 0.0)
    assert judge_repeats([4.0, 4.0], [0.0, 0.0], turns=found).change == -100
    some = judge_repeats([4.0, 5.0], [0.0, 0.1], turns=found)
    assert (some.low, some.change) == (-100, pytest.approx(-98.888889)), "nothing falls below zero"
    apart = judge_repeats([4.0, 9.0], [0.0, 1.0], turns=turns("AABB")[0])
    assert apart.low == -100 and apart.high is not None and apart.high > 0
    assert judge_repeats([4.0, math.inf], [4.0, 4.0], turns=found).p_value is None
    assert judge_repeats([4.0], [4.0, 5.0], turns=found).reason == "needs at least two repeats of each run"
