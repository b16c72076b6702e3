"""Pictures of losses and of class counts.

Example:
    >>> from lightning_topk.losses import NoisedTopKLoss
    >>> from lightning_topk.plot import plot_level_sets
    >>> figure, axes = plot_level_sets(NoisedTopKLoss(k=2, epsilon=0.3, num_samples=30), resolution=20)
"""

from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import check_float, check_int
from lightning_topk.imbalance import check_counts, class_groups
from lightning_topk.losses import TopKLoss
from lightning_topk.report._style import GROUP_STYLES, INK, legend_beside, new_figure, tidy

__all__ = ["plot_class_counts", "plot_level_sets"]

# Corners of the triangle for the classes 0, 1 and 2; the label is the upper one.
_CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]], dtype=torch.float64)


def plot_class_counts(counts: Any, *, title: str = "", ax: Any = None) -> tuple[Any, Any]:
    """Draw the training count of every class, the most frequent class first, on a logarithmic axis.

    The curve is filled by group: many (more than 100 samples), medium (20 to 100) and few (fewer than 20). Classes
    without samples end the curve.

    Args:
        counts: Training samples of each class, shape [C].
        title: Title of the figure; that of given axes stays as it is.
        ax: Matplotlib axes to draw on; a new figure when not given.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: Counts that are none.

    Example:
        >>> figure, axes = plot_class_counts([500, 158, 50, 15, 5])
        >>> axes.get_yscale()
        'log'
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = check_counts(counts).sort(descending=True).values
    if ax is None:
        _, (ax,) = new_figure(1, title)
    rank = torch.arange(len(values) + 1)
    for group, mask in class_groups(values).items():
        places = mask.nonzero().flatten()
        if len(places):
            first, last = int(places[0]), int(places[-1]) + 1
            heights = torch.cat([values[first:last], values[last - 1 : last]])
            label = f"{group}-shot\n({last - first:,} classes)"
            color = GROUP_STYLES[group][0]
            ax.fill_between(rank[first : last + 1], 0.5, heights, step="post", color=color, linewidth=0, label=label)
    ax.step(rank, torch.cat([values, values[-1:]]), where="post", color=INK, linewidth=1.2)
    ax.set_yscale("log")
    ax.set(xlim=(0, len(values)), ylim=(0.5, 1.5 * int(values.max())))
    ax.set_xlabel("classes, the most frequent first")
    ax.set_ylabel("training samples")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    tidy(ax)
    legend_beside(ax)
    return ax.figure, ax


def plot_level_sets(
    loss: TopKLoss, *, size: float = 2.0, levels: int = 12, resolution: int = 150, ax: Any = None
) -> tuple[Any, Any]:
    r"""Draw the level sets of a loss over the scores of three classes, for the label at the upper corner.

    The scores are those of a scaled simplex, :math:`s \in \{a p : p \ge 0, p_0 + p_1 + p_2 = 1\}`; the corner of a
    class is where it alone has the score a. The loss is rescaled to [0, 1] over the triangle, dark is high. Losses that
    need class counts and have none get equal ones. The loss is evaluated in ``eval()`` mode, without its gradient.

    Args:
        loss: The loss, with k at most 2.
        size: Scale a > 0 of the simplex, in units of the logits. Garcin et al. draw 2.
        levels: Number of levels >= 2.
        resolution: Points along an edge >= 2.
        ax: Matplotlib axes to draw on; a new figure when not given.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: A number out of range, or a loss that is not defined for three classes.

    References:
        Garcin, Servajean, Joly, Salmon, ICML 2022, the figure of level sets for L = 3, K = 2.

    Example:
        >>> from lightning_topk.losses import CrossEntropyLoss
        >>> figure, axes = plot_level_sets(CrossEntropyLoss(), resolution=10)
    """
    from matplotlib.figure import Figure

    check_float("size", size, 0.0, low_open=True)
    check_int("levels", levels, 2)
    check_int("resolution", resolution, 2)
    if ax is None:
        ax = Figure(figsize=(3, 2.8), layout="constrained").add_subplot()
    shares = _triangle(resolution)
    values = _values(loss, size * shares)
    span = values.max() - values.min()
    values = (values - values.min()) / torch.where(span > 0, span, 1.0)
    points = shares @ _CORNERS
    ax.tricontourf(points[:, 0], points[:, 1], values, levels=levels, cmap="viridis_r", vmin=0.0, vmax=1.0)
    ax.tricontour(points[:, 0], points[:, 1], values, levels=levels, colors="white", linewidths=0.4)
    outline = torch.cat([_CORNERS, _CORNERS[:1]])
    ax.plot(outline[:, 0], outline[:, 1], color="black", linewidth=1.0)
    for (x, y), name, shift in zip(_CORNERS.tolist(), ("0", "1", "y = 2"), (-0.06, -0.06, 0.06), strict=True):
        ax.text(x, y + shift, name, horizontalalignment="center", verticalalignment="center")
    ax.set(aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.12, 0.98))
    ax.set_axis_off()
    return ax.figure, ax


def _triangle(resolution: int) -> Tensor:
    """Evenly spaced points of the simplex, shape [N, 3]."""
    first, second = torch.meshgrid(torch.arange(resolution), torch.arange(resolution), indexing="ij")
    inside = first + second < resolution
    pair = torch.stack([first[inside], second[inside]], -1).double() / (resolution - 1)
    return torch.cat([pair, 1 - pair.sum(-1, keepdim=True)], -1)


@torch.no_grad()
def _values(loss: TopKLoss, scores: Tensor) -> Tensor:
    """Loss of each point at label 2, whatever the reduction of the loss."""
    if loss.needs_class_counts and loss.class_counts is None:
        loss.bind_class_counts([1, 1, 1])
    training, reduction = loss.training, loss.reduction
    loss.eval()
    loss.reduction = "none"
    try:
        return loss(scores, torch.full((len(scores),), 2))
    finally:
        loss.train(training)
        loss.reduction = reduction
