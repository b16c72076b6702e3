"""Print at the end how many cases were generated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from properties import tally


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the long profile more time: a hang of one example still ends the test."""
    for item in items:
        if Path(__file__).parent in item.path.parents and settings.default.max_examples > 100:
            item.add_marker(pytest.mark.timeout(1200))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the tally where any property ran."""
    if tally.CASES:
        terminalreporter.section("generated cases")
        for line in tally.report():
            terminalreporter.write_line(line)
