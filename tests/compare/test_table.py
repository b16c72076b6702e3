"""Choice of settings, marks of the table, and its forms."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from lightning_topk.compare import Column, Comparison, print_table
from lightning_topk.compare._console import markdown
from lightning_topk.compare._figure import figure_of
from lightning_topk.compare._select import Setting, accuracies, candidates_of, choose
from lightning_topk.compare._table import ComparisonTable, build_table, notes_of, text_of
from lightning_topk.compare._write import long_columns
from lightning_topk.report import csv_text, png_of

# Two classes, ranks 0, 1 and later.
GOOD, MIDDLING, BAD = [[8, 2, 0], [6, 2, 2]], [[6, 2, 2], [5, 3, 2]], [[1, 1, 8], [2, 2, 6]]


def result(val: Any, **variants: Any) -> dict[str, Any]:
    return {"val": {"plain": val, **variants}, "test": {}, "class_counts": [150, 5]}


def setting(column: Column, number: int, seeds: tuple[int, ...] = (0, 1)) -> Setting:
    return Setting(column, {"model.loss.epsilon": number}, {}, {seed: f"{number}-{seed}" for seed in seeds})


def test_accuracies_by_hand() -> None:
    found = accuracies(result(GOOD), "val", "plain", [1, 2])
    assert found[("macro", 1)] == pytest.approx((0.8 + 0.6) / 2)
    assert found[("micro", 2)] == pytest.approx(18 / 20)
    assert (found[("many", 1)], found[("few", 2)]) == pytest.approx((0.8, 0.8))
    assert ("medium", 1) not in found


def test_the_best_mean_on_validation_data_is_chosen_and_tuning_seeds_alone_count() -> None:
    column = Column("a")
    settings = [setting(column, 0), setting(column, 1)]
    comparison = Comparison((column,), seeds=(0, 1, 2), tuning_seeds=(0, 1), ks=(1, 2), k=1)
    candidates = candidates_of(column, settings)["a"]
    results = {"0-0": result(GOOD), "0-1": result(BAD), "1-0": result(MIDDLING), "1-1": result(MIDDLING)}
    chosen = choose(candidates, results, comparison)
    assert chosen.setting is settings[1]
    assert candidates[0].scores == pytest.approx({0: 0.7, 1: 0.15})
    assert chosen.mean == pytest.approx(0.55)


def test_the_first_of_equals_is_chosen() -> None:
    column = Column("a")
    settings = [setting(column, 0), setting(column, 1)]
    results = {f"{number}-0": result(GOOD) for number in (0, 1)}
    comparison = Comparison((column,), seeds=(0,), ks=(1,), k=1)
    assert choose(candidates_of(column, settings)["a"], results, comparison).setting is settings[0]


def test_setting_and_strength_of_the_adjustment_are_chosen_together() -> None:
    column = Column("a", posthoc_tau=(0.5, 1.0))
    settings = [setting(column, 0), setting(column, 1)]
    found = candidates_of(column, settings)
    assert {name: len(candidates) for name, candidates in found.items()} == {"a": 2, "a + post-hoc": 4}
    results = {
        "0-0": result(GOOD, **{"0.5": BAD, "1.0": BAD}),
        "1-0": result(BAD, **{"0.5": BAD, "1.0": MIDDLING}),
    }
    comparison = Comparison((column,), seeds=(0,), ks=(1,), k=1)
    assert choose(found["a"], results, comparison).setting is settings[0]
    adjusted = choose(found["a + post-hoc"], results, comparison)
    assert (adjusted.setting, adjusted.options) == (settings[1], {"model.loss.epsilon": 1, "posthoc_tau": 1.0})


def test_a_setting_with_a_failed_run_is_not_chosen() -> None:
    column = Column("a")
    settings = [setting(column, 0), setting(column, 1)]
    comparison = Comparison((column,), seeds=(0, 1), tuning_seeds=(0, 1), ks=(1,), k=1)
    results = {"0-0": result(GOOD), "1-0": result(BAD), "1-1": result(BAD)}
    assert choose(candidates_of(column, settings)["a"], results, comparison).setting is settings[1]
    assert choose(candidates_of(column, settings)["a"], {}, comparison) is None


def test_a_choice_by_classes_that_are_not_there() -> None:
    column = Column("a")
    comparison = Comparison((column,), ks=(1,), k=1, group="medium")
    with pytest.raises(ValueError, match="Parameter `select` should .* Found `select = val_medium_top1` without"):
        choose(candidates_of(column, [setting(column, 0)])["a"], {"0-0": result(GOOD)}, comparison)


VALUES = {
    "best": {0: 0.60, 1: 0.62, 2: 0.61},
    "near": {0: 0.58, 1: 0.63, 2: 0.605},
    "far": {0: 0.40, 1: 0.41, 2: 0.415},
}


def table(values: Any = VALUES, **options: Any) -> ComparisonTable:
    by_measure = {
        name: {seed: {("macro", 1): value, ("few", 1): value / 2} for seed, value in by_seed.items()}
        for name, by_seed in values.items()
    }
    made = build_table(by_measure, options.pop("seeds", (0, 1, 2)), [1], 1, **options)
    made.notes = notes_of(made, {"checkpoint": "last"})
    return made


def test_means_intervals_and_marks() -> None:
    (measure, cells), (other, _) = table().rows
    assert (measure, other) == (("macro", 1), ("few", 1))
    assert [(cell.best, cell.close) for cell in cells.values()] == [(True, False), (False, True), (False, False)]
    for name, cell in cells.items():
        own = list(VALUES[name].values())
        assert cell.mean == pytest.approx(sum(own) / 3)
        assert cell.half == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(own))
    for name in ("near", "far"):
        expected = stats.ttest_rel(list(VALUES["best"].values()), list(VALUES[name].values())).pvalue
        assert cells[name].p == pytest.approx(expected)
    assert text_of(cells["best"]) == "61.0 ± 2.5"


def test_one_seed_has_no_interval_and_no_mark_but_the_best() -> None:
    made = table({"a": {0: 0.5}, "b": {0: 0.4}}, seeds=(0,))
    cells = made.rows[0][1]
    assert [(cell.half, cell.best, cell.close) for cell in cells.values()] == [
        (None, True, False),
        (None, False, False),
    ]
    assert "±" not in markdown(made)
    assert made.notes[1] == "One seed: no interval and no test. Bold: best."


def test_columns_with_failed_runs_are_marked_and_cannot_be_best() -> None:
    made = table({"a": {0: 0.9}, "b": {0: 0.4, 1: 0.5, 2: 0.6}, "c": {}}, failures={"a": ["ValueError: x"] * 2})
    text = markdown(made)
    assert text.splitlines()[0] == "|  | a ! | b | c |"
    assert text.splitlines()[2] == "| macro top-1 | 90.0 (n=1) | **50.0 ± 24.8** | - |"
    assert made.notes[-1] == "! a: 2 failed: ValueError: x"


def test_the_console_shows_what_fits_side_by_side() -> None:
    out = io.StringIO()
    print_table(table(), Console(file=out, width=45))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert [line.split() for line in lines if "best" in line.split() or line.split() == ["far"]] == [
        ["best", "near"],
        ["far"],
    ]
    assert sum(line.startswith("macro top-1") for line in lines) == 2
    assert not any("…" in line for line in lines)


def test_csv_has_a_row_for_each_cell() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(long_columns(table())))))
    assert [(row["group"], row["k"], row["loss"], row["best"]) for row in rows[:2]] == [
        ("macro", "1", "best", "1"),
        ("macro", "1", "near", "0"),
    ]
    assert float(rows[0]["mean"]) == pytest.approx(0.61)


def test_the_figure_has_a_panel_for_each_k() -> None:
    figure = figure_of(table())
    assert [axes.get_xlabel() for axes in figure.axes] == ["top-1 (%)"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["best", "near", "far"]
    Path("figure.png").write_bytes(png_of(figure))
    with pytest.raises(ValueError, match="A figure needs accuracies of the group .* Found no row of `micro`"):
        figure_of(table(), "micro")
