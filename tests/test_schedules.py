"""Schedules are pure functions of the step."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_topk.schedules import Constant, Cosine, Exponential, Linear, Piecewise


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), {0: 0.3, 7: 0.3}),
        (Linear(1.0, 0.2, length=8), {0: 1.0, 2: 0.8, 8: 0.2, 9: 0.2}),
        (Linear(1.0, 0.0, length=10, delay=5), {0: 1.0, 5: 1.0, 10: 0.5, 15: 0.0}),
        (Cosine(1.0, 0.0, length=4), {0: 1.0, 1: (1 + math.sqrt(0.5)) / 2, 2: 0.5, 4: 0.0, 5: 0.0}),
        (Exponential(1.0, 0.01, length=4), {0: 1.0, 2: 0.1, 4: 0.01, 8: 0.01}),
        (Piecewise([10, 20], [1.0, 0.5, 0.1]), {0: 1.0, 9: 1.0, 10: 0.5, 19: 0.5, 20: 0.1}),
    ],
)
def test_values(schedule, values) -> None:
    for step, value in values.items():
        assert math.isclose(schedule(step), value, abs_tol=1e-12)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert not schedule.needs_total


@given(st.sampled_from([Linear, Cosine, Exponential]), st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0, 1))
def test_between_the_ends_and_monotone(kind, start: float, end: float, share: float) -> None:
    schedule = kind(start, end)
    low, high = sorted((start, end))
    value = schedule(100 * share, total=100)
    assert low - 1e-9 <= value <= high + 1e-9
    assert math.isclose(schedule(0, total=100), start)
    assert math.isclose(schedule(100, total=100), end)
    later = schedule(min(100 * share + 1, 100), total=100)
    assert (later - value) * (end - start) >= -1e-9


def test_without_length_it_spans_the_run_after_the_delay() -> None:
    schedule = Linear(1.0, 0.0, delay=20)
    assert schedule.needs_total
    assert [schedule(step, 100) for step in (0, 20, 60, 100)] == [1.0, 1.0, 0.5, 0.0]
    assert Linear(1.0, 0.0, delay=20)(19, 10) == 1.0
    assert Linear(1.0, 0.0, delay=20)(20, 10) == 0.0
    for total in (None, 0, math.inf, -1):
        with pytest.raises(ValueError, match="needs the finite length of the run"):
            schedule(1, total)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(math.nan), "`value` should be a finite number"),
        (lambda: Linear(1.0, math.inf), "`end` should be a finite number"),
        (lambda: Linear(1.0, 0.0, length=0), r"`length` should be a finite number > 0"),
        (lambda: Linear(1.0, 0.0, delay=-1), r"`delay` should be a finite number >= 0"),
        (lambda: Exponential(0.0, 1.0), r"`start` should be a finite number > 0"),
        (lambda: Piecewise([10, 10], [1, 2, 3]), "`milestones` should increase"),
        (lambda: Piecewise([10], [1]), "one entry more than `milestones`. Found 1 values for 1 milestones"),
    ],
)
def test_bad_parameters(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
