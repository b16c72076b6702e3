"""How many cases were generated, by test, and how each of them ended."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import settings

from properties.messages import is_in_the_list

T = TypeVar("T")
#: Properties of the whole table of losses have more examples than those of one function.
thorough = settings(max_examples=max(50, settings.default.max_examples))
brief = settings(max_examples=max(20, settings.default.max_examples // 3))

CASES: Counter[tuple[str, str]] = Counter()
"""Number of examples by (property, end), where the end is "right" or "refused"."""


def count(name: str, *, refused: bool) -> None:
    """Count one generated example that ended as it should."""
    CASES[name, "refused" if refused else "right"] += 1


def attempt(name: str, call: Callable[[], T], *groups: str) -> T | None:
    """Return what a call returns, or None where it raises an error of the list, and count the case.

    Args:
        name: Property under which the case is counted.
        call: The call, which returns no None.
        groups: Groups of the list that may answer; all of the package when none is given.

    Raises:
        Exception: An error that is not in the list.
    """
    try:
        value = call()
    except Exception as error:
        if not is_in_the_list(error, *groups):
            raise
        count(name, refused=True)
        return None
    count(name, refused=False)
    return value


def report() -> list[str]:
    """Return one line for each property and a last one with the sums."""
    names = sorted({name for name, _ in CASES})
    lines = [f"{name:<44}{CASES[name, 'right']:>8} right{CASES[name, 'refused']:>8} refused" for name in names]
    right = sum(CASES[name, "right"] for name in names)
    refused = sum(CASES[name, "refused"] for name in names)
    return [*lines, f"{right + refused} generated cases: {right} right, {refused} refused by a message of the list"]
