"""The table of a comparison: means, intervals, what is best and what is not significantly worse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_topk.compare._select import Measure
from lightning_topk.compare._student import paired_p_value, t_interval

SIGNIFICANCE = 0.05


@dataclass
class Cell:
    """A measure of a column.

    Attributes:
        values: Values by seed.
        mean: Their mean; None without any.
        half: Half the width of the confidence interval; None with fewer than two seeds.
        best: Whether the mean is the largest among the complete columns.
        p: p-value of the paired t-test against the best; None where there is no test.
    """

    values: dict[int, float] = field(default_factory=dict)
    mean: float | None = None
    half: float | None = None
    best: bool = False
    p: float | None = None

    @property
    def close(self) -> bool:
        """Whether it is not significantly worse than the best."""
        return not self.best and self.p is not None and self.p >= SIGNIFICANCE


@dataclass
class ComparisonTable:
    """All cells, by measure and column.

    Attributes:
        columns: Names of the columns.
        rows: The measures with their cells by column.
        failures: Messages of failed runs by column.
        seeds: Seeds that each column should have.
        step_time: Time of a training step relative to that of cross-entropy, by column.
        notes: Sentences to stand below it.
    """

    columns: list[str]
    rows: list[tuple[Measure, dict[str, Cell]]]
    seeds: Sequence[int]
    failures: dict[str, list[str]] = field(default_factory=dict)
    step_time: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_table(
    values: Mapping[str, Mapping[int, Mapping[Measure, float]]],
    seeds: Sequence[int],
    ks: Sequence[int],
    k: int,
    failures: Mapping[str, Sequence[str]] | None = None,
) -> ComparisonTable:
    """Make the table of the accuracies of the runs.

    Args:
        values: Accuracies by column, seed and measure.
        seeds: The seeds of each column.
        ks: The K of the macro and micro accuracies.
        k: The K of the groups.
        failures: Messages of failed runs by column.

    Returns:
        The table. A column with a failed run takes no part in the choice of the best.
    """
    failed = {name: list(messages) for name, messages in (failures or {}).items() if messages}
    seen = {measure for by_seed in values.values() for found in by_seed.values() for measure in found}
    wanted = [(group, each) for group in ("macro", "micro") for each in ks]
    wanted += [(group, k) for group in ("many", "medium", "few")]
    rows = []
    for measure in (measure for measure in wanted if measure in seen):
        cells = {name: _cell(by_seed, measure) for name, by_seed in values.items()}
        complete = {name: cell for name, cell in cells.items() if len(cell.values) == len(seeds)}
        _mark(complete, seeds)
        rows.append((measure, cells))
    return ComparisonTable(list(values), rows, tuple(seeds), failed)


def _cell(by_seed: Mapping[int, Mapping[Measure, float]], measure: Measure) -> Cell:
    values = {seed: found[measure] for seed, found in by_seed.items() if measure in found}
    if not values:
        return Cell()
    mean, half = t_interval(list(values.values()))
    return Cell(values, mean, half)


def _mark(cells: Mapping[str, Cell], seeds: Sequence[int]) -> None:
    means = {name: cell.mean for name, cell in cells.items() if cell.mean is not None and math.isfinite(cell.mean)}
    if not means:
        return
    best = cells[max(means, key=lambda name: means[name])]
    for cell in cells.values():
        cell.best = cell is best or cell.values == best.values
        cell.p = paired_p_value([best.values[seed] for seed in seeds], [cell.values[seed] for seed in seeds])


def text_of(cell: Cell, *, digits: int = 1) -> str:
    """Return a cell in percent, such as ``61.2 ± 0.8``; ``-`` without a value.

    Example:
        >>> text_of(Cell({0: 0.5}, 0.5)), text_of(Cell({0: 0.5, 1: 0.6}, 0.55, 0.012))
        ('50.0', '55.0 ± 1.2')
    """
    if cell.mean is None:
        return "-"
    mean = f"{100 * cell.mean:.{digits}f}"
    return mean if cell.half is None else f"{mean} ± {100 * cell.half:.{digits}f}"


def label_of(measure: Measure) -> str:
    """Return the name of a row, such as ``macro top-5``."""
    return f"{measure[0]} top-{measure[1]}"


def notes_of(table: ComparisonTable, facts: Mapping[str, Any]) -> list[str]:
    """Return the sentences below a table."""
    count = len(table.seeds)
    weights = "at the end of training" if facts["checkpoint"] == "last" else "of the best validation"
    notes = [f"Test set, accuracies in percent; weights {weights}."]
    if count > 1:
        notes.append(
            f"Mean and 95 % confidence interval (Student's t) over {count} seeds. Bold: best; *: not significantly "
            f"worse (paired t-test over the seeds, two-sided, {100 * SIGNIFICANCE:.0f} %)."
        )
    else:
        notes.append("One seed: no interval and no test. Bold: best.")
    if facts.get("chosen_by"):
        notes.append(str(facts["chosen_by"]))
    if table.step_time:
        notes.append("Time per training step relative to cross-entropy, measured in turns in one process.")
    notes += [f"! {name}: {len(messages)} failed: {messages[0]}" for name, messages in table.failures.items()]
    return notes
