"""Mistakes in the shipped configurations and in options: refused in a few lines, or understood as they were meant.

A selection runs here; ``HYPOTHESIS_PROFILE=long`` runs one mutation of each kind for each option, and
``benchmarks/config_mutations.py`` runs all and prints the table.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

import pytest

from mutation_runs import judge, make_data
from mutations import FILES, Mutation, mutations, representative

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
# Every file and every kind comes up; the numbers have no factor in common with those of kinds and files.
SELECTION = representative() if LONG else representative()[::17]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations")
    make_data(folder)
    return folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mutation", SELECTION, ids=lambda each: each.label)
def test_a_mistake_is_refused_or_understood(mutation: Mutation, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on runs of two steps
        verdict = judge(mutation, folder)
    assert verdict.outcome in ("refused", "harmless", "read alone"), verdict.message
    assert not verdict.faults, verdict.message


def test_every_option_of_every_file_is_mutated() -> None:
    found = mutations()
    assert {each.file for each in found} == set(FILES)
    assert len(found) > 5000
    assert found == mutations()
    kinds = Counter(each.kind for each in found)
    assert len(kinds) >= 40
    assert min(kinds.values()) >= 1
    assert len(representative()) > 1000
