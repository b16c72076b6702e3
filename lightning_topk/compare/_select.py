"""Accuracies of runs, and the choice of settings by those on validation data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_topk.compare._jobs import PLAIN
from lightning_topk.compare._plan import Column, Comparison, adjusted_name
from lightning_topk.report import accuracy_table

Measure = tuple[str, int]


@dataclass(frozen=True)
class Setting:
    """A column with one value for each option of its grid.

    Attributes:
        column: The column.
        options: The values.
        config: The complete configuration, apart from the seed.
        keys: Keys of its runs by seed.
    """

    column: Column
    options: Mapping[str, Any]
    config: Mapping[str, Any]
    keys: Mapping[int, str]


@dataclass
class Candidate:
    """What a column of the table could be: a setting, as it was trained or adjusted.

    Attributes:
        setting: The setting.
        variant: ``"plain"``, or the strength of the adjustment as text.
        scores: Its accuracies on validation data by tuning seed.
    """

    setting: Setting
    variant: str
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over the tuning seeds."""
        return math.fsum(self.scores.values()) / len(self.scores)

    @property
    def options(self) -> dict[str, Any]:
        """The values that were chosen among, the strength of the adjustment included."""
        own = dict(self.setting.options)
        return own if self.variant == PLAIN else {**own, "posthoc_tau": float(self.variant)}


def accuracies(result: Mapping[str, Any], split: str, variant: str, ks: Sequence[int]) -> dict[Measure, float]:
    """Return the accuracies of a run by group and K; those of groups of which nothing was seen are left out."""
    histogram = torch.tensor(result[split][variant])
    rows = accuracy_table(histogram, ks, result["class_counts"])
    return {(row["group"], k): row[f"top{k}"] for row in rows for k in ks if row[f"top{k}"] is not None}


def candidates_of(column: Column, settings: Sequence[Setting]) -> dict[str, list[Candidate]]:
    """Return the candidates for each column of the table that a column of the comparison gives."""
    own = [setting for setting in settings if setting.column.name == column.name]
    found = {column.name: [Candidate(setting, PLAIN) for setting in own]}
    if column.posthoc_tau:
        found[adjusted_name(column.name)] = [
            Candidate(setting, str(tau)) for setting in own for tau in column.posthoc_tau
        ]
    return found


def choose(candidates: Sequence[Candidate], results: Mapping[str, Any], comparison: Comparison) -> Candidate | None:
    """Give candidates their scores, and return the best by the mean over the tuning seeds; the first of equals.

    Args:
        candidates: What is chosen from.
        results: Results of runs by key; those of failed runs are missing.
        comparison: Says by what is chosen.

    Returns:
        The best candidate, or None when each has a failed run.

    Raises:
        ValueError: The value to choose by is not known for these data.
    """
    measure = comparison.group, comparison.k
    for candidate in candidates:
        for seed in comparison.tuning_seeds:
            result = results.get(candidate.setting.keys[seed])
            if result is not None:
                found = accuracies(result, "val", candidate.variant, [comparison.k])
                if measure not in found:
                    raise ValueError(
                        "Parameter `select` should name an accuracy that is known for these data. "
                        f"Found `select = {comparison.select}` without validation samples of such classes."
                    )
                candidate.scores[seed] = found[measure]
    complete = [each for each in candidates if len(each.scores) == len(comparison.tuning_seeds)]
    return max(complete, key=lambda each: each.mean, default=None)
