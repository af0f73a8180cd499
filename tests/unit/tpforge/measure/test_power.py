"""The smallest change that is seen, held against scipy's tests of drawn runs."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from tpforge.measure.power import APART, IN_TURNS, noise_of, smallest_change

DRAWS = 20_000


@pytest.mark.parametrize("noise", [0.02, 0.05])
@pytest.mark.parametrize("num_repeats", sorted({*APART, 13, 25, 40}))
def test_a_change_of_that_size_is_seen_in_four_of_five_comparisons(num_repeats: int, noise: float) -> None:
    generator = numpy.random.default_rng(num_repeats)
    change = smallest_change(num_repeats, noise=noise)
    assert change is not None
    first = generator.normal(0, noise, (DRAWS, num_repeats))
    second = generator.normal(math.log1p(change), noise, (DRAWS, num_repeats))
    seen = stats.ttest_ind(second, first, axis=1, equal_var=False).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("num_rounds", sorted(IN_TURNS))
def test_so_is_one_of_rounds_in_turns(num_rounds: int) -> None:
    generator = numpy.random.default_rng(num_rounds)
    change = smallest_change(num_rounds, noise=0.05, table=IN_TURNS)
    assert change is not None
    ratios = generator.normal(math.log1p(change), 0.05, (DRAWS, num_rounds))
    assert (stats.ttest_1samp(ratios, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_one_repeat_sees_nothing() -> None:
    assert smallest_change(1, noise=0.01) is None


def test_noise_is_that_of_the_logarithms() -> None:
    assert noise_of([1.0, math.e]) == pytest.approx(math.sqrt(0.5))
    assert noise_of([1.0]) is None
    assert noise_of([1.0, 0.0]) is None
