"""What is told of the progress, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from lightning_topk.compare import _progress
from lightning_topk.compare._progress import Clock, Progress, duration


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: times[0])
    return times


def test_the_time_left_comes_from_finished_runs_of_the_same_column() -> None:
    clock = Clock(jobs=2)
    assert clock.left({"a": 1}) is None
    clock.finished("a", 10.0)
    clock.finished("a", 20.0)
    clock.finished("b", 45.0)
    assert clock.left({"a": 2, "b": 1}) == pytest.approx((2 * 15 + 45) / 2)
    assert clock.left({"unknown": 4}) == pytest.approx(4 * 30 / 2)


def test_a_line_for_each_run_where_there_is_no_terminal(now: list[float]) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=60), jobs=1) as progress:
        progress.begin("training", ["a", "a", "b"], later=2)
        progress.started(0, "a")
        progress.tick()
        now[0] = 5.0
        progress.moved(0, 0.5)
        assert progress._left() == f"{duration(10 * (0.5 + 2 + 2))} left"
        now[0] = 10.0
        progress.ended(0, "a, seed 0")
        progress.ended(2, "b, seed 0 failed: ValueError: " + "x" * 80, failed=True)
        progress.ended(1, "a, seed 1", seconds=30.0)
    assert out.getvalue().splitlines() == [
        "1/3 a, seed 0: 10 s, 40 s left",
        f"2/3 b, seed 0 failed: ValueError: {'x' * 80}, 30 s left",
        "3/3 a, seed 1: 30 s, 40 s left",
    ]


def test_a_bar_on_a_terminal(now: list[float]) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=100, force_terminal=True), jobs=1) as progress:
        progress.begin("training", ["a", "b"])
        progress.started(0, "a")
        now[0] = 60.0
        progress.ended(0, "a, seed 0")
        progress.tick()
        progress._bar.refresh()
    shown = out.getvalue()
    assert "training" in shown
    assert "1/2" in shown
    assert "60 s left" in shown
