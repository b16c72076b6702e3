"""Files are whole at any time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from lightning_topk.report import csv_text, history_columns, json_text, rows_up_to, write_atomically


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.txt", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", b"x")
    (tmp_path / "b.txt").write_bytes(b"x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_text_that_is_no_unicode_is_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "\u00e9\udc80")
    assert (tmp_path / "a.txt").read_text() == "\u00e9\\udc80"


def write_for_ever(path: Path) -> None:
    number = 0
    while True:
        number += 1
        write_atomically(path, json_text([number] * 200_000))


@pytest.mark.timeout(60)
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    for wait in (0.0, 0.003, 0.011, 0.017):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        writer.start()
        try:
            deadline = time.monotonic() + 20
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(wait)
        finally:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
        numbers = json.loads(path.read_text())
        assert len(numbers) == 200_000
        assert len(set(numbers)) == 1


def test_json_has_no_nan() -> None:
    assert json.loads(json_text({"a": [float("inf"), (1.5, None)], 3: float("nan")})) == {
        "a": [None, [1.5, None]],
        "3": None,
    }


def test_floats_keep_full_precision() -> None:
    assert float(csv_text({"x": [0.1 + 0.2]}).splitlines()[1]) == 0.1 + 0.2


def test_history_columns_fill_gaps_and_later_rows_are_dropped() -> None:
    rows = [{"step": 1, "epoch": 0, "b": 2.0}, {"step": 2, "epoch": 0, "a": 1.0, "val_loss": 3.0}]
    assert history_columns(rows) == {
        "epoch": [0, 0],
        "step": [1, 2],
        "val_loss": [None, 3.0],
        "a": [None, 1.0],
        "b": [2.0, None],
    }
    assert rows_up_to(rows, 1) == rows[:1]
