"""Figure of prediction sets: coverage against the nominal one, and sets of K classes on average."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_topk.report._style import GROUP_STYLES, INK, K_COLORS, legend_beside, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def coverage_of_sets(bins: Mapping[int, Sequence[tuple[int, int, float]]], *, title: str = "") -> "Figure":
    """Draw how often the label is among the K best classes against how often their probabilities say so.

    Args:
        bins: For each K the samples, those whose label is among the K best, and the mean probability of the K best
            together, for each bin of this probability.
        title: Title of the figure.

    Returns:
        A figure that no window system knows of; ``figure.savefig(path)`` writes it.

    Example:
        >>> figure = coverage_of_sets({1: [(10, 4, 0.55), (20, 19, 0.97)]})
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['as nominal', 'K = 1']
    """
    figure, (axes,) = new_figure(1, title)
    axes.plot([0, 100], [0, 100], "--", color=INK, linewidth=1.2, label="as nominal")
    for (k, rows), color, marker in zip(bins.items(), K_COLORS * len(bins), "osv^Dp" * len(bins), strict=False):
        most = max((samples for samples, _, _ in rows), default=1)
        nominal, found = [100 * row[2] for row in rows], [100 * row[1] / row[0] for row in rows]
        axes.plot(nominal, found, color=color, linewidth=1.6, alpha=0.8, marker=marker, markersize=0, label=f"K = {k}")
        # The area of a dot is the share of the samples in it.
        areas = [6 + 60 * row[0] / most for row in rows]
        axes.scatter(nominal, found, s=areas, color=color, marker=marker, linewidths=0, alpha=0.8, zorder=3)
    axes.set(
        xlabel="probability of the K best classes (%)", ylabel="label among them (%)", xlim=(0, 100), ylim=(0, 100)
    )
    tidy(axes)
    legend_beside(axes)
    return figure


def average_k_accuracy(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> "Figure":
    """Draw the accuracy of sets of K classes on average beside that of sets of K classes each.

    Args:
        rows: ``k``, ``average_k_accuracy``, ``mean_set_size`` and ``topk_accuracy``.
        title: Title of the figure.

    Returns:
        A figure that no window system knows of; ``figure.savefig(path)`` writes it.

    Example:
        >>> rows = [{"k": 5, "mean_set_size": 4.8, "average_k_accuracy": 0.8, "topk_accuracy": 0.7}]
        >>> average_k_accuracy(rows).axes[0].get_xlabel()
        'classes in a set, on average'
    """
    figure, (axes,) = new_figure(1, title)
    for x, y, label, group in (
        ("mean_set_size", "average_k_accuracy", "average-K", "many"),
        ("k", "topk_accuracy", "top-K", "micro"),
    ):
        color, marker, style = GROUP_STYLES[group]
        places, values = [row[x] for row in rows], [100 * row[y] for row in rows]
        axes.plot(places, values, color=color, marker=marker, linestyle=style, markersize=5, clip_on=False, label=label)
    axes.set(xlabel="classes in a set, on average", ylabel="accuracy over samples (%)", ylim=(0, 100))
    axes.set_xlim(left=0)
    tidy(axes)
    legend_beside(axes)
    return figure
