"""Figures without a window, and saving them as files."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size: tuple[float, float]) -> "Figure":
    """Make a figure without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", folder: Path, name: str) -> Path:
    """Save the figure as `folder/name.png`, and return the path."""
    path = folder / f"{name}.png"
    figure.savefig(path)
    return path
