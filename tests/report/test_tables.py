"""Tables, and what the console shows of them."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
import torch
from rich.console import Console

from lightning_topk.report import accuracy_table, class_table, console_table, counts_summary, csv_text

HISTOGRAM = torch.tensor([[3, 1, 0], [1, 0, 1], [0, 1, 2], [0, 0, 0]])


def printed(table: Any, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=out, width=width).print(table)
    out.flush()
    return raw.getvalue().decode(encoding)


def test_groups_are_macro_means_over_their_seen_classes() -> None:
    rows = {row["group"]: row for row in accuracy_table(HISTOGRAM, [1, 2], [500, 101, 100, 3])}
    assert list(rows) == ["macro", "micro", "many", "medium", "few"]
    assert rows["macro"]["top1"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3, abs=1e-15)
    assert rows["micro"]["top1"] == 4 / 9
    assert rows["many"] == {
        "group": "many",
        "classes": 2,
        "classes_seen": 2,
        "training_samples": 601,
        "samples": 6,
        "top1": (3 / 4 + 1 / 2) / 2,
        "top2": (1 + 1 / 2) / 2,
    }
    assert (rows["macro"]["classes"], rows["macro"]["classes_seen"]) == (4, 3)


def test_a_group_that_was_not_seen_has_no_accuracy() -> None:
    few = accuracy_table(HISTOGRAM, [1], [500, 101, 100, 3])[-1]
    assert few["top1"] is None
    assert few["classes"] == 1
    none_in_group = accuracy_table(HISTOGRAM, [1], [500] * 4)[-1]
    assert (none_in_group["classes"], none_in_group["top1"], none_in_group["training_samples"]) == (0, None, 0)


def test_groups_are_left_out_without_counts() -> None:
    rows = accuracy_table(HISTOGRAM, [1])
    assert [row["group"] for row in rows] == ["macro", "micro"]
    assert rows[0]["training_samples"] is None


def test_classes() -> None:
    table = class_table(HISTOGRAM, [1, 2], [500, 101, 100, 3], ["a", "b,c", 'd"', "e"])
    assert table["top2"] == [1.0, 0.5, 1 / 3, None]
    assert table["samples"] == [4, 2, 3, 0]
    assert csv_text(table).splitlines()[2] == '1,"b,c",101,2,0.5,0.5'


def test_names_of_another_number_of_classes_are_left_out() -> None:
    assert class_table(HISTOGRAM, [1], names=["a", "b"])["name"] == [None] * 4


def test_summary_with_an_empty_class() -> None:
    assert counts_summary([4, 0])["imbalance_factor"] is None


def test_console_shows_percent_and_what_was_not_seen() -> None:
    rows = accuracy_table(HISTOGRAM, [1, 2], [5000, 101, 100, 3])
    lines = [line.split() for line in printed(console_table(rows, [1, 2])).splitlines()]
    assert ["all,", "macro", "3/4", "5,204", "41.7", "61.1"] in lines
    assert ["few", "(<", "20)", "0/1", "3", "-", "-"] in lines


def test_the_best_epoch_stands_beside_within_80_columns() -> None:
    rows = accuracy_table(HISTOGRAM, [1, 2, 2], [500_000, 101, 100, 3])
    text = printed(console_table(rows, [1, 2, 2], name="last", beside=rows), width=80)
    assert text.count("last") == text.count("best") == 3
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_console_without_unicode() -> None:
    assert "all, micro" in printed(console_table(accuracy_table(HISTOGRAM, [1]), [1]), encoding="ascii")


def test_a_hundred_thousand_classes_are_quick() -> None:
    histogram, counts = torch.randint(0, 5, (100_000, 6)), torch.randint(1, 3000, (100_000,))
    start = time.perf_counter()
    accuracy_table(histogram, (1, 3, 5), counts)
    text = csv_text(class_table(histogram, (1, 3, 5), counts))
    assert time.perf_counter() - start < 5
    assert text.count("\n") == 100_001
