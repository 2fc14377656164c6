"""Figures of batches: time against size, useful share of lane-steps against spread."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmarks.figures.style import plain_grid, plain_ticks
from benchmarks.harness.folders import RESULTS
from jaxode.plotting.axes import COLOURS
from jaxode.plotting.figure import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("jaxode, solve_batch", "diffrax, vmap")

# For each size or spread, the values of jaxode and of diffrax.
Pairs = Mapping[int, tuple[float, float]]


def draw_batch_size(times: Pairs) -> None:
    """Draw microseconds per trajectory against the size of the batch."""
    figure = new_figure((6.4, 4.2))
    ax = figure.add_subplot()
    draw_pairs(ax, times)
    ax.set(
        title="Lorenz to t = 2, Tsit5, rtol $10^{-6}$, end states",
        xlabel="trajectories in the batch",
        ylabel="time per trajectory, µs",
        xscale="log",
        yscale="log",
    )
    plain_ticks(ax.xaxis, list(times))
    plain_ticks(ax.yaxis)
    ax.legend(loc="center right")
    save_png(figure, RESULTS, "batch_size")


def draw_useful_share(shares: Pairs, per_step: Pairs) -> None:
    """Draw the useful share of lane-steps, and ns per useful step, against the spread of mu."""
    figure = new_figure((6.4, 6.0))
    above, below = figure.subplots(2, 1, sharex=True)
    draw_pairs(above, shares)
    above.set(
        title=r"2,048 Van der Pol oscillators to t = 20, $\mu$ log-uniform from 1/s to s",
        ylabel="useful share of lane-steps",
        ylim=(0, 1.05),
    )
    draw_pairs(below, per_step)
    below.set(
        xlabel=r"spread s of $\mu$",
        ylabel="time per useful step, ns",
        xscale="log",
        yscale="log",
    )
    plain_ticks(below.xaxis, list(shares))
    plain_ticks(below.yaxis)
    above.legend(loc="lower left")
    save_png(figure, RESULTS, "useful_share")


def draw_pairs(ax: "Axes", pairs: Pairs) -> None:
    """Draw a line of jaxode and one of diffrax."""
    for name, marker, colour, ys in zip(
        NAMES, "os", COLOURS, zip(*pairs.values(), strict=True), strict=False
    ):
        ax.plot(list(pairs), ys, color=colour, marker=marker, markersize=5, label=name)
    plain_grid(ax)
