"""Student's t against scipy, and plain arithmetic."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_topk.compare._student import paired_p_value, t_cdf, t_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 29, 500])
def test_the_distribution_is_that_of_scipy(degrees: int) -> None:
    for t in (-30.0, -2.5, -1e-3, 0.0, 0.2, 1.0, 4.0, 75.0):
        assert t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), rel=1e-11, abs=1e-15)
    for probability in (0.005, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9995):
        expected = stats.t.ppf(probability, degrees)
        assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_the_cauchy_distribution_in_closed_form() -> None:
    assert t_cdf(1.0, 1) == pytest.approx(0.75)
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475))


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_intervals_and_paired_tests_are_those_of_scipy(count: int) -> None:
    random = np.random.default_rng(count)
    first, second = random.normal(0.6, 0.1, count), random.normal(0.55, 0.1, count)
    low, high = stats.t.interval(0.95, count - 1, first.mean(), stats.sem(first))
    mean, half = t_interval(first.tolist())
    assert (mean - half, mean + half) == pytest.approx((low, high))
    expected = stats.ttest_rel(first, second).pvalue
    assert paired_p_value(first.tolist(), second.tolist()) == pytest.approx(expected)


def test_one_value_has_no_interval_and_no_test() -> None:
    assert t_interval([0.25]) == (0.25, None)
    assert paired_p_value([0.25], [0.5]) is None


def test_differences_without_spread() -> None:
    assert paired_p_value([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1.0
    assert paired_p_value([0.5, 0.75], [0.25, 0.5]) == 0.0
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.0)
