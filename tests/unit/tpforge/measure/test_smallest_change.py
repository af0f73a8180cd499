"""The smallest change that rounds see, held against scipy's test of drawn rounds."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from tpforge.measure.comparison.power import smallest_change

DRAWS = 20_000


@pytest.mark.parametrize("noise", [0.02, 0.05])
@pytest.mark.parametrize("num_rounds", [2, 3, 4, 5, 8, 13, 30])
def test_a_change_of_that_size_is_seen_in_four_of_five_comparisons(num_rounds: int, noise: float) -> None:
    generator = numpy.random.default_rng(num_rounds)
    change = smallest_change(num_rounds, noise=noise)
    first = generator.normal(0, noise, (DRAWS, num_rounds))
    second = generator.normal(math.log1p(change), noise, (DRAWS, num_rounds))
    seen = stats.ttest_rel(second, first, axis=1).pvalue < 0.05
    # Four standard deviations of a share of so many draws.
    assert seen.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / DRAWS))


def test_one_round_sees_nothing() -> None:
    assert smallest_change(1, noise=0.01) == math.inf
