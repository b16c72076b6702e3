"""What is made at the end of a run for the eye: figures, the tables behind them, and the page."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_topk.callbacks._report_examples import example_pictures
from lightning_topk.callbacks._report_facts import Measured
from lightning_topk.callbacks._report_observed import ReportOptions
from lightning_topk.callbacks._report_output import STAGES, ReportFolder, title_of
from lightning_topk.callbacks._report_page import curves_section, evaluation_section
from lightning_topk.report import (
    accuracy_by_count,
    accuracy_by_k,
    accuracy_table,
    class_table,
    csv_text,
    learning_curves,
    png_of,
)
from lightning_topk.report._look_alikes import look_alike_table
from lightning_topk.report._page import Section, page_html
from lightning_topk.report._probabilities import softmax_factor
from lightning_topk.report._reliability import average_k_accuracy, coverage_of_sets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tables = dict[str, dict[str, list[Any]]]

_FIGURES = "The figures of TopKReport should be drawn at the end of a run."


class Pictures:
    """Figures, tables and page of a run; an evaluation after others joins the page of its folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._sections: dict[str, Section] = {}

    def write(
        self,
        folder: ReportFolder,
        trainer: Trainer,
        measured: Sequence[tuple[Measured, Mapping[str, Any]]],
        history: Sequence[Mapping[str, Any]],
        options: ReportOptions,
        levels: Mapping[str, int],
    ) -> None:
        """Write everything, and show the figures to the loggers that take figures. What fails costs a warning.

        Args:
            folder: Where to.
            trainer: The trainer.
            measured: What was measured last, with its circumstances.
            history: Rows of the history; empty after an evaluation alone.
            options: What is shown.
            levels: Thresholds of average-K that were chosen in validation, by K.
        """
        if not folder.writes:
            return
        if self._folder != folder.path:
            self._folder, self._sections = folder.path, {}
        try:
            tables = [_tables(each, options, levels) for each, _ in measured]
            figures = dict(_figures(measured, tables, history))
            for name, figure in figures.items():
                folder.write(f"{name}.png", png_of(figure))
        except Exception as error:  # a training of days does not end in an error for the sake of a figure
            rank_zero_warn(f"{_FIGURES} Found {error!r}.")
            return
        _show(figures, trainer)
        for (each, _), own in zip(measured, tables, strict=True):
            for name, table in own.items():
                folder.write(f"{each.stem}_{name}.csv", csv_text(table))
        try:
            self._write_page(folder, trainer, measured, tables, figures, history, options)
        except Exception as error:
            rank_zero_warn(f"The page of TopKReport should be written at the end of a run. Found {error!r}.")

    def _write_page(
        self,
        folder: ReportFolder,
        trainer: Trainer,
        measured: Sequence[tuple[Measured, Mapping[str, Any]]],
        tables: Sequence[Tables],
        figures: "Mapping[str, Figure]",
        history: Sequence[Mapping[str, Any]],
        options: ReportOptions,
    ) -> None:
        criterion: Any = trainer.lightning_module.topk_criterion
        for (each, facts), own in zip(measured, tables, strict=True):
            pictures = {}
            if each.found is not None and "look_alikes" in own:
                pairs = zip(own["look_alikes"]["class_a"], own["look_alikes"]["class_b"], strict=True)
                try:
                    pictures = example_pictures(each.found, each.source, pairs, options.examples)
                except Exception as error:  # the data may be gone by now
                    rank_zero_warn(f"Examples of look-alikes should be read from the data set. Found {error!r}.")
            loader = "" if each.loader is None else f", dataloader {each.loader}"
            self._sections[each.stem] = evaluation_section(
                each,
                facts,
                figures,
                STAGES[each.stage] + loader,
                own,
                pictures,
                probabilities=softmax_factor(criterion) is not None,
            )
        if "learning_curves" in figures:
            self._sections["learning_curves"] = curves_section(figures["learning_curves"], history)
        place = {"val": 0, "test": 1, "learning_curves": 2}
        sections = sorted(self._sections.values(), key=lambda each: place[each.anchor.partition("_dataloader_")[0]])
        name = Path(os.path.abspath(folder.log_dir))
        title = f"{name.parent.name}, {name.name}" if name.name.startswith("version_") else name.name
        date = measured[-1][1]["date"] if measured else ""
        lead = f"{type(criterion).__name__}, written {date.replace('T', ' ')}"
        footer = "Beside this page lie the tables as CSV and JSON files, and the figures as PNG files."
        folder.write("report.html", page_html(title, lead, sections, footer))


def _show(figures: "Mapping[str, Figure]", trainer: Trainer) -> None:
    """Show the figures to the loggers that take figures."""
    try:
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            for name, figure in figures.items() if hasattr(experiment, "add_figure") else ():
                experiment.add_figure(f"report/{name}", figure, global_step=trainer.global_step)
    except Exception as error:
        rank_zero_warn(f"{_FIGURES} Found {error!r}.")


def _tables(measured: Measured, options: ReportOptions, levels: Mapping[str, int]) -> Tables:
    tables: Tables = {}
    found = measured.found
    if found is None:
        return tables
    if found.pairs is not None:
        support = measured.histogram.sum(1).tolist()
        tables["look_alikes"] = look_alike_table(found.pairs.largest(options.look_alikes), support, measured.names)
    if found.sets is not None and int(found.sets.samples):
        ks = range(1, measured.histogram.shape[1])
        chosen = all(str(k) in levels for k in ks)
        sets = [found.sets.average_k(k, levels[str(k)] if chosen else None) for k in ks]
        micro = accuracy_table(measured.histogram, ks)[1]
        tables["average_k"] = {
            "k": list(ks),
            "threshold": [each.threshold for each in sets],
            "threshold_from": ["val" if chosen else measured.stage] * len(sets),
            "mean_set_size": [each.size for each in sets],
            "average_k_accuracy": [each.accuracy for each in sets],
            "topk_accuracy": [micro[f"top{k}"] for k in ks],
        }
    return tables


def _figures(
    measured: Iterable[tuple[Measured, Mapping[str, Any]]],
    tables: Iterable[Tables],
    history: Sequence[Mapping[str, Any]],
) -> "Iterable[tuple[str, Figure]]":
    for (each, facts), own in zip(measured, tables, strict=True):
        title = title_of(each, "" if facts["epoch"] is None else f", epoch {facts['epoch']}")
        if each.counts is not None:
            accuracy = class_table(each.histogram, [each.k])[f"top{each.k}"]
            figure = accuracy_by_count(each.counts, accuracy, k=each.k, title=title)
            yield f"{each.stem}_accuracy_by_count", figure
        every_k = range(1, each.histogram.shape[1])
        rows = accuracy_table(each.histogram, every_k, each.counts)
        yield f"{each.stem}_accuracy_by_k", accuracy_by_k(rows, title=title)
        if each.found is not None and each.found.sets is not None:
            bins = {k: each.found.sets.coverage(k) for k in each.found.sets.ks}
            yield f"{each.stem}_coverage", coverage_of_sets(bins, title=title)
        if "average_k" in own:
            average = own["average_k"]
            sets = [dict(zip(average, row, strict=True)) for row in zip(*average.values(), strict=True)]
            yield f"{each.stem}_average_k", average_k_accuracy(sets, title=title)
        if history and each.loader in (None, 0):
            yield "learning_curves", learning_curves(history, each.ks, suffix=each.suffix)
