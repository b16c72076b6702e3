"""Put the page of a run together from what was measured."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_topk.callbacks._report_facts import Measured
from lightning_topk.report import accuracy_table
from lightning_topk.report._console import LABELS
from lightning_topk.report._look_alikes import look_alikes_html
from lightning_topk.report._page import (
    Section,
    accuracy_html,
    details_html,
    facts_html,
    figure_html,
    percent,
    table_html,
)
from lightning_topk.report._svg import svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COVERAGE_NOTE = (
    "The K best classes of a sample have a probability together, and hold the label or not. On the dashed line they "
    "hold it as often as this probability says; below it the model is too sure. Larger dots have more samples."
)
_AVERAGE_NOTE = (
    "With one threshold on the probability of a class, clear samples get few classes and doubtful ones many. "
)
_NO_PROBABILITIES = (
    "The loss does not make probabilities of its scores: their softmax, with the scale of the loss, stands for them "
    "here, and its distance from the nominal coverage says nothing against the K best classes."
)


def evaluation_section(
    measured: Measured,
    facts: Mapping[str, Any],
    figures: "Mapping[str, Figure]",
    heading: str,
    tables: Mapping[str, Mapping[str, Sequence[Any]]],
    pictures: Mapping[tuple[int, int], Any],
    *,
    probabilities: bool,
) -> Section:
    """Return what there is to say of one evaluation.

    Args:
        measured: What was measured.
        facts: Its circumstances.
        figures: Figures by the names of their files; those of other evaluations are passed over, and the others are
            changed.
        heading: Heading, as text.
        tables: ``look_alikes`` and ``average_k`` as far as there are any.
        pictures: Examples of look-alikes.
        probabilities: Whether the loss makes probabilities of its scores.
    """
    stem, k = measured.stem, measured.k
    best = facts["best"]
    best_rows = None if best is None or best["step"] == facts["step"] else best["rows"]
    body = [accuracy_html("Top-K accuracy in %", measured.rows, measured.ks, best_rows)]
    if best is not None:
        body.append(f"<p>{_best_line(best, facts)}</p>\n")
    every_k = range(1, measured.histogram.shape[1])
    rows = accuracy_table(measured.histogram, every_k, measured.counts)
    shown = []

    def show(name: str, title: str, description: str, note: str = "") -> None:
        if f"{stem}_{name}" in figures:
            picture = svg_of(figures[f"{stem}_{name}"], f"{stem}-{name}")
            shown.append(figure_html(title, picture, description, note))

    show(
        "accuracy_by_count",
        f"Top-{k} accuracy of each class by its training samples",
        f"Scatter plot of {len(measured.histogram):,} classes with a running mean. " + _group_line(measured.rows, k),
        "Each dot is a class. The line is a running mean over classes of similar counts, with its 95 % band.",
    )
    show(
        "accuracy_by_k",
        "Accuracy for every K and group",
        f"Line chart for K from 1 to {every_k[-1]}. " + " ".join(_from_to(row, every_k[-1]) for row in rows),
    )
    show(
        "coverage",
        "Reliability of the K best classes",
        _coverage_line(measured),
        _COVERAGE_NOTE if probabilities else f"{_COVERAGE_NOTE} {_NO_PROBABILITIES}",
    )
    average = tables.get("average_k")
    if average is not None:
        show(
            "average_k",
            "K classes on average, or K classes each",
            f"Line chart. With {average['mean_set_size'][-1]:.2f} classes on average the label is among them in "
            f"{percent(average['average_k_accuracy'][-1])} % of the samples, with {average['k'][-1]} each in "
            f"{percent(average['topk_accuracy'][-1])} %.",
            _AVERAGE_NOTE + _threshold_line(average["threshold_from"][0], measured.stage),
        )
    body.append(f'<div class="figures">{"".join(shown)}</div>\n')
    body.append(details_html("Accuracy for every K as a table", accuracy_html("In %", rows, every_k)))
    if average is not None:
        body.append(details_html("Sets of K classes on average as a table", _average_table(average)))
    pairs = tables.get("look_alikes")
    if pairs is not None:
        body.append(f"<h3>Look-alikes: classes that are most often among the {k} best of one another</h3>\n")
        body.append(look_alikes_html(pairs, k, pictures) if pairs["class_a"] else "<p>No two classes were.</p>\n")
        if measured.found is not None and measured.found.pairs is not None and measured.found.pairs.missed:
            missed = measured.found.pairs.missed
            body.append(f"<p>There were too many pairs to keep them all: a count may be too low by {missed:,}.</p>\n")
    body.append(f"<h3>Facts</h3>\n{facts_html(_facts(facts))}")
    return Section(stem, heading, "".join(body))


def curves_section(figure: "Figure", history: Sequence[Mapping[str, Any]]) -> Section:
    """Return the course of the training."""
    losses = [row["train_loss"] for row in history if row.get("train_loss") is not None]
    fact = f" The training loss goes from {losses[0]:.4g} to {losses[-1]:.4g}." if losses else ""
    picture = svg_of(figure, "learning-curves")
    description = f"Line charts of loss and accuracy over {len(history)} validations.{fact}"
    return Section("learning_curves", "Learning curves", figure_html("Loss and accuracy", picture, description))


def _best_line(best: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if best["step"] == facts["step"]:
        return f"The last epoch, {best['epoch']}, is the best by {best['monitor']}."
    return (
        f"Epoch {facts['epoch']} was the last. Epoch {best['epoch']} was the best by {best['monitor']}: "
        f"{percent(best['value'])} %."
    )


def _group_line(rows: Sequence[Mapping[str, Any]], k: int) -> str:
    known = [row for row in rows if row.get(f"top{k}") is not None]
    return "In %: " + ", ".join(f"{LABELS[row['group']]} {percent(row[f'top{k}'])}" for row in known) + "."


def _from_to(row: Mapping[str, Any], last: int) -> str:
    if row["top1"] is None:
        return ""
    return f"{LABELS[row['group']]}: from {percent(row['top1'])} to {percent(row[f'top{last}'])} %."


def _coverage_line(measured: Measured) -> str:
    if measured.found is None or measured.found.sets is None:
        return ""
    lines = []
    for k in measured.found.sets.ks:
        bins = measured.found.sets.coverage(k)
        samples = sum(n for n, _, _ in bins)
        if samples:
            nominal = sum(n * share for n, _, share in bins) / samples
            covered = sum(hits for _, hits, _ in bins) / samples
            lines.append(f"K = {k}: nominal {percent(nominal)} %, found {percent(covered)} %.")
    return "Line chart of coverage. Over all samples, " + " ".join(lines)


def _threshold_line(source: str, stage: str) -> str:
    if source == stage:
        return "The threshold was chosen on these very samples."
    return "The threshold was chosen on the validation set, so that the sets there have K classes on average."


def _average_table(average: Mapping[str, Sequence[Any]]) -> str:
    rows = [
        (str(k), f"{threshold:.3g}", f"{size:.2f}", percent(accuracy), percent(top))
        for k, threshold, _, size, accuracy, top in zip(*average.values(), strict=True)
    ]
    columns = ("K", "least probability", "classes in a set", "average-K accuracy (%)", "top-K accuracy (%)")
    return table_html("Sets of K classes on average; accuracies over samples", columns, rows)


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    loss, counts = facts["loss"], facts["class_counts"]
    if isinstance(loss, Mapping):
        arguments = {name: value for name, value in loss["init_args"].items() if value is not None}
        loss = f"{loss['class_path'].rpartition('.')[2]}({', '.join(f'{n}={_short(v)}' for n, v in arguments.items())})"
    checkpoint = facts["checkpoint"]
    found = {
        "date": facts["date"],
        "function": facts["function"],
        "epoch": facts["epoch"],
        "step": facts["step"],
        "checkpoint": None if checkpoint is None else os.path.basename(checkpoint),
        "loss": loss,
        "training set": None
        if counts is None
        else f"{counts['samples']:,} samples of {counts['classes']:,} classes, from {counts['smallest']:,} to "
        f"{counts['largest']:,} each",
        "seeds": ", ".join(f"{name} {value}" for name, value in facts["seeds"].items() if value is not None),
        "versions": ", ".join(f"{name} {value}" for name, value in facts["versions"].items()),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
