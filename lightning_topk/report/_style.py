"""What all figures share: colours that the colour-blind can tell apart, and a frame without ornament."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of Okabe and Ito; a marker and a line style of its own for each, so that no meaning rests on colour alone.
INK = "#222222"
GROUP_STYLES = {
    "macro": (INK, "o", "-"),
    "micro": ("#8C8C8C", "D", "--"),
    "many": ("#0072B2", "s", "-"),
    "medium": ("#E69F00", "^", "-"),
    "few": ("#CC3311", "v", "-"),
}
K_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def new_figure(panels: int, title: str) -> tuple["Figure", Any]:
    """Return a figure with panels side by side, made without pyplot, so that no global state changes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0) if panels == 1 else (11.0, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure, axes


def tidy(axes: Any) -> None:
    """Leave a light grid and two spines."""
    axes.grid(True, which="major", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(which="both", color="#888888", labelcolor=INK, labelsize=9)


def legend_beside(axes: Any) -> None:
    """Put the legend to the right of the axes, where it covers no data."""
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
        for handle in legend.legend_handles:
            if not hasattr(handle, "get_hatch") or hasattr(handle, "set_sizes"):  # a band stays as light as it is
                handle.set_alpha(1.0)
            if hasattr(handle, "set_sizes"):  # dots, which may be tiny among many
                handle.set_sizes([22.0])


def png_of(figure: "Figure") -> bytes:
    """Return a figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
