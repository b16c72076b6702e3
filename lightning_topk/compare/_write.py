"""The files of a comparison: the table in three forms, and all that is needed to make it again."""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_topk.compare._console import markdown
from lightning_topk.compare._figure import figure_of
from lightning_topk.compare._jobs import essential
from lightning_topk.compare._select import Candidate, accuracies
from lightning_topk.compare._table import ComparisonTable, label_of, notes_of
from lightning_topk.report import csv_text, json_text, png_of, write_atomically


def write_tables(
    table: ComparisonTable,
    grid: Any,
    output: Path,
    *,
    command: Sequence[str] | None = None,
    times: Mapping[str, Any] | None = None,
) -> None:
    """Write ``results.csv``, ``results.json``, ``results.md``, ``figure.png`` and the configurations of the columns.

    Args:
        table: The table.
        grid: The runs that it is made from.
        output: The folder.
        command: What was typed.
        times: What was measured of the time of a step.
    """
    table.notes = notes_of(table, facts_of(grid))
    write_atomically(output / "results.csv", csv_text(long_columns(table)))
    write_atomically(output / "results.md", markdown(table))
    write_atomically(output / "results.json", json_text(contents(table, grid, command, times)))
    if any(measure[0] == "macro" for measure, _ in table.rows):  # or each run has failed
        write_atomically(output / "figure.png", png_of(figure_of(table)))
    configs = output / "configs"
    configs.mkdir(exist_ok=True)
    for name, candidate in grid.chosen.items():
        if candidate is not None and candidate.variant == "plain":
            config = essential(candidate.setting.config)
            write_atomically(configs / f"{file_name(name)}.yaml", yaml.safe_dump(config, sort_keys=False))


def facts_of(grid: Any) -> dict[str, Any]:
    """Return what the notes below a table say of its runs."""
    comparison = grid.comparison
    several = [name for name, candidates in grid.candidates.items() if len(candidates) > 1]
    chosen_by = None
    if several:
        seeds = ", ".join(map(str, comparison.tuning_seeds))
        chosen_by = f"Settings chosen by {comparison.select} (mean over seed {seeds}) for: {', '.join(several)}."
    return {"checkpoint": comparison.checkpoint, "chosen_by": chosen_by}


def long_columns(table: ComparisonTable) -> dict[str, list[Any]]:
    """Return the table as columns of a CSV file, one row for each cell."""
    rows = [(measure, name, cells[name]) for measure, cells in table.rows for name in table.columns]
    return {
        "group": [measure[0] for measure, _, _ in rows],
        "k": [measure[1] for measure, _, _ in rows],
        "loss": [name for _, name, _ in rows],
        "mean": [cell.mean for _, _, cell in rows],
        "half_width_95": [cell.half for _, _, cell in rows],
        "seeds": [len(cell.values) for _, _, cell in rows],
        "best": [int(cell.best) for _, _, cell in rows],
        "p_against_best": [cell.p for _, _, cell in rows],
        "step_time": [table.step_time.get(name) for _, name, _ in rows],
    }


def contents(
    table: ComparisonTable,
    grid: Any,
    command: Sequence[str] | None,
    times: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what ``results.json`` holds: the table, the numbers of each seed, the choice, and how it was made."""
    comparison = grid.comparison
    return {
        "table": [
            {
                "measure": label_of(measure),
                "group": measure[0],
                "k": measure[1],
                "cells": {
                    name: {
                        "mean": cell.mean,
                        "half_width_95": cell.half,
                        "values": cell.values,
                        "best": cell.best,
                        "not_significantly_worse": cell.close,
                        "p_against_best": cell.p,
                    }
                    for name, cell in cells.items()
                },
            }
            for measure, cells in table.rows
        ],
        "columns": {name: _column(candidate, name, grid) for name, candidate in grid.chosen.items()},
        "step_time": times,
        "notes": table.notes,
        "failures": table.failures,
        "seeds": list(comparison.seeds),
        "tuning_seeds": list(comparison.tuning_seeds),
        "select": comparison.select,
        "checkpoint": comparison.checkpoint,
        "command": None if command is None else list(command),
        "folder": os.getcwd(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "processor": _processor(), "python": sys.version.split()[0]},
        "versions": _versions(grid),
    }


def _column(candidate: Candidate | None, name: str, grid: Any) -> dict[str, Any]:
    candidates = grid.candidates[name]
    found: dict[str, Any] = {
        "tried": [{"options": each.options, "validation": each.scores} for each in candidates if len(candidates) > 1]
    }
    if candidate is None:
        return {"chosen": None, **found}
    runs = {}
    for seed in grid.comparison.seeds:
        result = grid.results.get(candidate.setting.keys[seed])
        if result is None:
            continue
        runs[seed] = {
            "run": candidate.setting.keys[seed],
            **{
                f"{split}_{group}_top{k}": value
                for split in ("val", "test")
                if candidate.variant in result[split]
                for (group, k), value in accuracies(result, split, candidate.variant, grid.comparison.ks).items()
            },
            **{name: result[name] for name in ("epochs", "steps", "seconds", "cpu_seconds", "threads", "device")},
            "initial_weights": result["initial_weights"],
        }
    config = essential(candidate.setting.config)
    return {"chosen": candidate.options, **found, "runs": runs, "config": config}


def _versions(grid: Any) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for result in grid.results.values():
        for name, version in result["versions"].items():
            found.setdefault(name, set()).add(version)
    return {name: sorted(versions) for name, versions in found.items()}


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor()


def file_name(name: str) -> str:
    """Return the name of a column as a file can have it.

    Example:
        >>> file_name("noised + post-hoc")
        'noised_post-hoc'
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "column"
