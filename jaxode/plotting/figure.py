"""New figures, and writing them to files."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size: tuple[float, float]) -> "Figure":
    """A figure that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", folder: Path, name: str) -> Path:
    """Save as a PNG in `folder`; the path comes back."""
    path = folder / f"{name}.png"
    figure.savefig(path)
    return path
