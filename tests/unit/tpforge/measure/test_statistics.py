"""Percentiles and intervals: against numpy and scipy, and against distributions whose truth is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from tpforge.measure.statistics import (
    difference_interval,
    mean_interval,
    percentile,
    percentiles,
    proportion_interval,
    regularized_beta,
    sample_deviation,
    student_t_cdf,
    student_t_quantile,
)

_NUMBERS = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


@given(values=st.lists(_NUMBERS, min_size=1, max_size=60), percent=st.floats(min_value=0, max_value=100))
def test_percentile_is_numpys_linear_one(values: list[float], percent: float) -> None:
    expected = float(np.percentile(values, percent))
    assert percentile(values, percent) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_percentiles_of_one_to_a_hundred_and_one_are_their_names() -> None:
    values = list(range(1, 102))
    random.Random(5).shuffle(values)
    assert percentiles(values, (0, 1, 50, 95, 99, 100)) == (1, 2, 51, 96, 100, 101)


def test_percentiles_of_an_exponential_distribution_are_its_quantiles() -> None:
    generator = random.Random(7)
    values = [generator.expovariate(0.5) for _ in range(200_000)]
    for percent in (50, 90, 95, 99):
        truth = -math.log(1 - percent / 100) / 0.5
        assert percentile(values, percent) == pytest.approx(truth, rel=0.02)


def test_no_value_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no percentage"):
        percentile([1.0], 101)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.7, 9, 29, 120, 5000])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 0.995])
def test_quantiles_of_students_t_are_scipys(freedom: float, probability: float) -> None:
    expected = float(stats.t.ppf(probability, freedom))
    assert student_t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2.5, 10, 300])
@pytest.mark.parametrize("t", [-40.0, -2.0, -0.1, 0.0, 0.7, 3.0, 50.0])
def test_probabilities_of_students_t_are_scipys(freedom: float, t: float) -> None:
    assert student_t_cdf(t, freedom) == pytest.approx(float(stats.t.cdf(t, freedom)), rel=1e-9, abs=1e-13)


@given(
    x=st.floats(min_value=0, max_value=1),
    a=st.floats(min_value=0.1, max_value=200),
    b=st.floats(min_value=0.1, max_value=200),
)
def test_incomplete_beta_function_is_scipys(x: float, a: float, b: float) -> None:
    assert regularized_beta(x, a, b) == pytest.approx(float(special.betainc(a, b, x)), rel=1e-8, abs=1e-12)


def test_quantile_outside_zero_and_one_is_refused() -> None:
    for probability, freedom in ((0.0, 3), (1.0, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="no quantile"):
            student_t_quantile(probability, freedom)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_interval_of_a_mean_is_scipys(confidence: float) -> None:
    values = [412.0, 398.5, 431.25, 405.0, 420.0]
    found = mean_interval(values, confidence=confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-9)
    assert (found.n, found.confidence) == (5, confidence)


def test_interval_of_a_mean_holds_the_truth_in_95_of_100_draws() -> None:
    generator = random.Random(11)
    draws = ([generator.gauss(100, 15) for _ in range(5)] for _ in range(4000))
    hits = sum(1 for draw in draws if (found := mean_interval(draw)) and found.low <= 100 <= found.high)
    # 95 % of 4000, within four standard deviations of a binomial count.
    assert abs(hits - 3800) < 4 * math.sqrt(4000 * 0.95 * 0.05)


def test_single_value_has_neither_interval_nor_deviation() -> None:
    assert mean_interval([3.0]) is None
    assert sample_deviation([3.0]) is None
    assert difference_interval([3.0], [1.0, 2.0]) is None


def test_deviation_is_numpys_with_one_degree_less() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert sample_deviation(values) == pytest.approx(float(np.std(values, ddof=1)), rel=1e-12)


def test_interval_of_a_difference_is_welchs() -> None:
    first, second = [10.0, 11.5, 9.0, 10.2, 10.9], [12.0, 15.0, 11.0]
    found = difference_interval(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.mean == pytest.approx(np.mean(second) - np.mean(first))


def test_difference_of_constant_repeats_is_exact() -> None:
    found = difference_interval([2.0, 2.0], [5.0, 5.0])
    assert found is not None
    assert (found.low, found.mean, found.high) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 3), (7, 9), (50, 50), (333, 1000)])
def test_interval_of_a_share_is_scipys_wilson_interval(successes: int, trials: int) -> None:
    found = proportion_interval(successes, trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("trials", range(1, 60))
def test_interval_of_none_or_all_begins_or_ends_exactly_there(trials: int) -> None:
    none, every = proportion_interval(0, trials), proportion_interval(trials, trials)
    assert none is not None and every is not None
    assert (none.low, every.high) == (0.0, 1.0)


def test_share_of_no_trials_is_unknown() -> None:
    assert proportion_interval(0, 0) is None
