"""The style that the benchmarks' figures share: grids and ticks."""

from typing import TYPE_CHECKING

from jaxode.plotting.axes import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


def plain_grid(ax: "Axes") -> None:
    """Draw a faint grid, without the upper and right spines."""
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def plain_ticks(axis: "Axis", ticks: list[int] | None = None) -> None:
    """Write plain numbers at `ticks`, or at 1, 2 and 5 of each decade."""
    from matplotlib import ticker

    axis.set_major_locator(
        ticker.FixedLocator(ticks) if ticks else ticker.LogLocator(subs=(1, 2, 5))
    )
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_locator(ticker.NullLocator())
