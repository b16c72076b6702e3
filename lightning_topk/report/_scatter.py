"""Figure of the accuracy of each class against its training count."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_topk.imbalance import class_groups
from lightning_topk.report._style import GROUP_STYLES, INK, legend_beside, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Width of the running mean, in decades of the training count.
BANDWIDTH = 0.12
MEAN_POINTS = 200


def accuracy_by_count(class_counts: Any, accuracy: Any, *, k: int, title: str = "") -> "Figure":
    r"""Draw the top-K accuracy of each class against its training count, with a running mean.

    The mean at the count n is a weighted one over all classes,

    .. math:: \bar a(n) = \frac{\sum_c w_c a_c}{\sum_c w_c}, \qquad
        w_c = \exp\left(-\frac{(\log_{10} n_c - \log_{10} n)^2}{2 h^2}\right)

    with h = 0.12 decades. The band around it is the mean plus and minus 1.96 of its standard errors,

    .. math:: \mathrm{se}^2 = \frac{\sum_c w_c^2 (a_c - \bar a)^2}{(\sum_c w_c)^2 - \sum_c w_c^2},

    that is, where the mean would lie with other classes of the same training counts. Classes that were not seen, or
    have no training sample, are left out.

    Args:
        class_counts: Training samples of each class, shape [C].
        accuracy: Accuracy of each class in [0, 1], shape [C]; NaN or ``None`` for a class that was not seen.
        k: K, for the label.
        title: Title of the figure.

    Returns:
        A figure that no window system knows of; ``figure.savefig(path)`` writes it.

    Example:
        >>> figure = accuracy_by_count([500, 50, 5], [0.9, 0.5, None], k=5)
        >>> figure.axes[0].get_xscale()
        'log'
    """
    from matplotlib.ticker import LogLocator

    counts, values = np.asarray(class_counts, dtype=float), np.asarray(accuracy, dtype=float)
    shown = (counts > 0) & ~np.isnan(values)
    counts, values = counts[shown], 100 * values[shown]
    figure, (axes,) = new_figure(1, title)
    # Fewer classes get larger dots; many get translucent ones, so that where they lie densely can be seen.
    size, alpha = (22.0, 0.7) if len(counts) <= 500 else (9.0, 0.45) if len(counts) <= 5000 else (3.0, 0.15)
    groups = class_groups(counts) if len(counts) else {}
    for group, mask in groups.items():
        own = mask.numpy()
        if own.any():
            color, marker, _ = GROUP_STYLES[group]
            axes.scatter(
                counts[own],
                values[own],
                s=size,
                c=color,
                marker=marker,
                alpha=alpha,
                linewidths=0,
                rasterized=True,
                clip_on=False,
                zorder=3,
                label=f"{group}-shot\n({own.sum():,} classes)",
            )
    axes.set_xscale("log")
    axes.margins(x=0.03)
    if len(counts):
        grid, mean, error = running_mean(counts, values)
        low, high = np.clip([mean - 1.96 * error, mean + 1.96 * error], 0, 100)
        outline = np.concatenate([grid, grid[::-1]]), np.concatenate([low, high[::-1]])
        axes.fill(*outline, color=INK, alpha=0.15, linewidth=0, zorder=2, label="its 95 % band")
        axes.plot(grid, mean, color=INK, linewidth=2.0, zorder=4, label="running mean")
        if np.ptp(np.log10(counts)) < 2.5:
            axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.xaxis.set_minor_formatter(_whole)
            axes.tick_params(axis="x", which="minor", length=3.5, pad=3.5)  # labels in line with those of 10, 100, ...
    axes.set(xlabel="training samples of the class", ylabel=f"top-{k} accuracy of the class (%)", ylim=(0, 100))
    tidy(axes)
    axes.xaxis.set_major_formatter(_whole)
    legend_beside(axes)
    return figure


def _whole(value: float, position: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1 else ""


def running_mean(counts: Any, values: Any) -> tuple[Any, Any, Any]:
    """Return counts, at most ``MEAN_POINTS`` of those that occur, the weighted mean there, and its standard error.

    The standard error is zero where the weight of one class is all there is.
    """
    unique, inverse = np.unique(counts, return_inverse=True)
    # Classes of one count are summed first: 100,000 classes have few thousand different counts.
    number, total = np.bincount(inverse), np.bincount(inverse, weights=values)
    squares = np.bincount(inverse, weights=values**2)
    grid = unique[np.unique(np.linspace(0, len(unique) - 1, MEAN_POINTS).round().astype(int))]
    weights = np.exp(-0.5 * ((np.log10(unique) - np.log10(grid)[:, None]) / BANDWIDTH) ** 2)
    whole = weights @ number
    mean = (weights @ total) / whole
    spread = weights**2 @ squares - 2 * mean * (weights**2 @ total) + mean**2 * (weights**2 @ number)
    room = whole**2 - weights**2 @ number
    error = np.sqrt(np.divide(spread.clip(min=0), room, out=np.zeros_like(mean), where=room > 1e-9 * whole**2))
    return grid, mean, error
