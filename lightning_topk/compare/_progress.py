"""How far a comparison is: one bar for all runs on a terminal, a line for each finished run elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Clock:
    """Estimates the time that is left from the runs that are finished and those under way.

    Args:
        jobs: Runs at a time.

    Example:
        >>> clock = Clock(jobs=2)
        >>> clock.finished("a", 30.0)
        >>> clock.left({"a": 4})
        60.0
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = max(jobs, 1)
        self._seconds: dict[str, list[float]] = {}

    def finished(self, column: str, seconds: float) -> None:
        """Note the time that a run of a column took."""
        self._seconds.setdefault(column, []).append(seconds)

    def left(self, runs: dict[str, float]) -> float | None:
        """Return the seconds for so many runs by column, parts of runs included; None before anything is known."""
        known = {name: sum(seconds) / len(seconds) for name, seconds in self._seconds.items()}
        if not known:
            return None
        mean = sum(known.values()) / len(known)
        return sum(number * known.get(name, mean) for name, number in runs.items()) / self.jobs


class Progress:
    """Tells on a console how many runs are finished, and when the rest will be.

    Args:
        console: Where to.
        jobs: Runs at a time.
    """

    def __init__(self, console: "Console", jobs: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.console = console
        self.clock = Clock(jobs)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: Any = None
        self._running: dict[int, tuple[str, float, float]] = {}
        self._waiting: list[str] = []
        self._expected = 0
        self._names: list[str] = []

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, title: str, columns: Sequence[str], *, later: int = 0) -> None:
        """Start with runs of the given columns, after which so many others are expected."""
        self._names = list(columns)
        self._waiting, self._running, self._expected = list(columns), {}, later
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=len(columns), left="")

    def started(self, index: int, column: str) -> None:
        """Note that a run has begun, or begun again."""
        self._running[index] = (column, time.monotonic(), 0.0)

    def moved(self, index: int, fraction: float) -> None:
        """Note which part of a run is done."""
        column, since, _ = self._running[index]
        self._running[index] = (column, since, fraction)

    def ended(self, index: int, text: str, *, seconds: float | None = None, failed: bool = False) -> None:
        """Note the end of a run, with its time where no start was noted, and print a line."""
        column, since, _ = self._running.pop(index, (self._names[index], time.monotonic(), 0.0))
        if not failed:
            seconds = time.monotonic() - since if seconds is None else seconds
            self.clock.finished(column, seconds)
            text += f": {duration(seconds)}"
        if column in self._waiting:
            self._waiting.remove(column)
        self._bar.advance(self._task)
        done = self._bar.tasks[-1]
        left = self._left()
        tail = f", {left}" if left and not self.console.is_terminal else ""
        line = f"{done.completed:.0f}/{done.total:.0f} {text}{tail}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Show the time that is left."""
        self._bar.update(self._task, left=self._left())

    def _left(self) -> str:
        waiting: dict[str, float] = {}
        for column in self._waiting:
            waiting[column] = waiting.get(column, 0.0) + 1.0
        guess = None
        for column, since, fraction in self._running.values():
            waiting[column] = waiting.get(column, 1.0) - fraction
            if fraction > 0.02:
                guess = (time.monotonic() - since) / fraction
        if self._expected:
            waiting["\0"] = float(self._expected)
        left = self.clock.left(waiting)
        if left is None and guess is not None:
            left = guess * sum(waiting.values()) / self.clock.jobs
        return "" if left is None else f"{duration(left)} left"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> duration(42), duration(130), duration(7300)
        ('42 s', '2 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
