r"""Schedules: pure functions from a step to a value.

A schedule holds no state, so a resumed run continues exactly where it was. ``schedule(step, total)`` gives the value
at a step, where ``total`` is the length of the run in the same unit (steps or epochs); schedules that were given an
own length ignore it. Every schedule is constant before its begin and after its end.

Example:
    >>> from lightning_topk.schedules import Cosine, Linear
    >>> anneal = Linear(start=1.0, end=0.2, length=8)
    >>> [round(anneal(step), 3) for step in (0, 4, 8, 100)]
    [1.0, 0.6, 0.2, 0.2]
    >>> round(Cosine(start=1.0, end=0.0)(25, total=100), 3)
    0.854
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from lightning_topk._checks import check_float, check_floats

__all__ = ["Constant", "Cosine", "Exponential", "Linear", "Piecewise", "Schedule"]


class Schedule(ABC):
    """A pure function ``schedule(step, total) -> value``."""

    @property
    def needs_total(self) -> bool:
        """Whether the value depends on ``total``."""
        return False

    @abstractmethod
    def __call__(self, step: float, total: float | None = None) -> float:
        """Return the value at ``step``.

        Args:
            step: Position in steps or epochs, a finite number.
            total: Length of the run in the same unit, > 0 and finite. Needed when :attr:`needs_total` is true.

        Raises:
            TypeError: A step that is no number.
            ValueError: A step that is not finite, or no length of the run where it is needed.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Args:
        value: That value.

    Example:
        >>> Constant(0.5)(1000)
        0.5
    """

    value: float

    def __post_init__(self) -> None:
        check_float("value", self.value)

    def __call__(self, step: float, total: float | None = None) -> float:
        return float(self.value)


@dataclass(frozen=True)
class _Interpolation(Schedule):
    """From ``start`` to ``end`` over ``length`` steps, after ``delay`` steps."""

    start: float
    end: float
    length: float | None = None
    delay: float = 0

    def __post_init__(self) -> None:
        check_float("start", self.start)
        check_float("end", self.end)
        check_float("delay", self.delay, 0)
        if self.length is not None:
            check_float("length", self.length, 0, low_open=True)

    @property
    def needs_total(self) -> bool:
        return self.length is None

    def __call__(self, step: float, total: float | None = None) -> float:
        check_float("step", step)
        length = self.length
        if length is None:
            if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < math.inf:
                raise ValueError(
                    "A schedule without `length` needs the finite length of the run, total > 0. "
                    f"Found `total = {total}`."
                )
            length = total - self.delay
        share = min(max((step - self.delay) / length, 0.0), 1.0) if length > 0 else float(step >= self.delay)
        # The ends are exact, where a formula may round.
        return float(self.start if share == 0.0 else self.end if share == 1.0 else self._at(share))

    @abstractmethod
    def _at(self, share: float) -> float:
        """Return the value at a share in [0, 1] of the way."""


@dataclass(frozen=True)
class Linear(_Interpolation):
    r"""A straight line, :math:`v = a + (b - a) u` with u in [0, 1] the share of the way that is done.

    Args:
        start: Value a at the begin.
        end: Value b at the end.
        length: Number of steps (or epochs) from a to b, > 0; the rest of the run after ``delay`` when None.
        delay: Steps (or epochs) at ``start`` before the way begins, >= 0.

    Example:
        >>> Linear(start=1.0, end=0.0, length=10, delay=5)(10)
        0.5
    """

    def _at(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Cosine(_Interpolation):
    r"""Half a cosine wave, :math:`v = b + (a - b)(1 + \cos \pi u) / 2`; flat at both ends.

    Args:
        start: Value a at the begin.
        end: Value b at the end.
        length: Number of steps (or epochs) from a to b, > 0; the rest of the run after ``delay`` when None.
        delay: Steps (or epochs) at ``start`` before the way begins, >= 0.

    Example:
        >>> round(Cosine(start=1.0, end=0.0, length=4)(1), 4)
        0.8536
    """

    def _at(self, share: float) -> float:
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * share)) / 2.0


@dataclass(frozen=True)
class Exponential(_Interpolation):
    r"""A geometric decay (or growth), :math:`v = a (b / a)^u`.

    Args:
        start: Value a > 0 at the begin.
        end: Value b > 0 at the end.
        length: Number of steps (or epochs) from a to b, > 0; the rest of the run after ``delay`` when None.
        delay: Steps (or epochs) at ``start`` before the way begins, >= 0.

    Example:
        >>> round(Exponential(start=1.0, end=0.01, length=2)(1), 6)
        0.1
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_float("start", self.start, 0, low_open=True)
        check_float("end", self.end, 0, low_open=True)

    def _at(self, share: float) -> float:
        return float(self.start * (self.end / self.start) ** share)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """One value per interval: ``values[i]`` from ``milestones[i - 1]`` up to, but without, ``milestones[i]``.

    Args:
        milestones: Increasing steps (or epochs) >= 0 at which the value changes.
        values: One value more than milestones.

    Example:
        >>> anneal = Piecewise(milestones=[10, 20], values=[1.0, 0.5, 0.1])
        >>> [anneal(step) for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.1]
    """

    milestones: list[float]
    values: list[float]

    def __post_init__(self) -> None:
        check_floats("values", self.values)
        check_floats("milestones", self.milestones, 0)
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError(f"Parameter `milestones` should increase. Found `milestones = {self.milestones}`.")
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                "Parameter `values` should have one entry more than `milestones`. "
                f"Found {len(self.values)} values for {len(self.milestones)} milestones."
            )

    def __call__(self, step: float, total: float | None = None) -> float:
        check_float("step", step)
        return float(self.values[sum(step >= milestone for milestone in self.milestones)])
