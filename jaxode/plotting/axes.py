"""Axes and colours that all figures use."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..problem.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which is distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#222222", "#8A8A8A"


def require_matplotlib() -> None:
    """Import matplotlib. **Raises:** `OptionError` if it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError('plotting needs matplotlib: pip install "jaxode[plot]"') from error


def find_axes(ax: Any) -> "Axes":
    """Check the user's Axes, or make one on a new pyplot figure if `ax` is None.

    **Raises:** `OptionError` if matplotlib is not installed, or `ax` is not an Axes.
    """
    check_axes(ax)
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained")[1]
    return ax


def check_axes(ax: Any) -> None:
    """Check the user's Axes, before anything is computed. **Raises:** as `find_axes`."""
    require_matplotlib()
    from matplotlib import axes

    if ax is not None and not isinstance(ax, axes.Axes):
        raise OptionError(f"ax must be one matplotlib Axes or None, got {type(ax).__name__}")


def find_panels(axes: Any, count: int) -> list["Axes"]:
    """Check the user's Axes, one for each of `count` panels, or make a column of them if None.

    **Raises:** `OptionError` if matplotlib is not installed, or for anything else.
    """
    require_matplotlib()
    if axes is None:
        from matplotlib import pyplot

        size = 6.4, 1.2 + 2.4 * count
        column = pyplot.subplots(count, 1, sharex=True, figsize=size, layout="constrained")[1]
        return list(np.ravel(column))
    panels = np.ravel(np.asarray(axes, object))
    if len(panels) != count:
        raise OptionError(f"ax must be {count} Axes, one for each channel, got {len(panels)}")
    return [find_axes(panel) for panel in panels]


def class_colour(label: int) -> str:
    """The colour of a class by its number; colours repeat after six."""
    return COLOURS[int(label) % len(COLOURS)]
