"""The figures: time against size, useful share against spread, error against time."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxode.plotting.axes import COLOURS, FAINT, INK
from jaxode.plotting.figure import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from benchmarks.work_precision import Curves

RESULTS = pathlib.Path(__file__).parent / "results"
NAMES = ("jaxode, solve_batch", "diffrax, vmap")

# A figure of jaxode and one of diffrax, by what they were measured at.
Pairs = Mapping[int, tuple[float, float]]


def draw_batch_size(times: Pairs) -> None:
    """Microseconds per trajectory by how many there are."""
    figure = new_figure((6.4, 4.2))
    ax = figure.add_subplot()
    lines(ax, times)
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
    """Useful share of lane-steps, and ns per useful step, by the spread of mu."""
    figure = new_figure((6.4, 6.0))
    above, below = figure.subplots(2, 1, sharex=True)
    lines(above, shares)
    above.set(
        title=r"2,048 Van der Pol oscillators to t = 20, $\mu$ log-uniform from 1/s to s",
        ylabel="useful share of lane-steps",
        ylim=(0, 1.05),
    )
    lines(below, per_step)
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


def draw_work_precision(found: Mapping[str, tuple["Curves", "Curves"]]) -> None:
    """Error against time, a panel for each problem: ours in colour, the peers dashed."""
    figure = new_figure((11.0, 7.0))
    panels = figure.subplots(2, 3).ravel()
    for ax, (name, (ours, theirs)) in zip(panels, found.items(), strict=False):
        for (solver, points), colour, marker in zip(
            ours.items(), (*COLOURS, INK), "osD^v<p", strict=False
        ):
            style = {"color": colour, "marker": marker, "markersize": 4}
            ax.plot([p.time for p in points], [p.error for p in points], label=solver, **style)
        for (peer, points), marker in zip(theirs.items(), "xo+sd", strict=False):
            style = {"color": FAINT, "marker": marker, "markersize": 4, "linestyle": "--"}
            style |= {"linewidth": 1, "markerfacecolor": "white"}
            ax.plot([p.time for p in points], [p.error for p in points], label=peer, **style)
        ax.set(title=name, xscale="log", yscale="log", ylim=(1e-10, 1e-1))
        ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    for ax in panels[len(found) :]:
        ax.axis("off")
        ax.legend(handles, labels, loc="center", frameon=False)
    figure.supxlabel("time of a solve, ms")
    figure.supylabel("largest relative error of a component at the end")
    save_png(figure, RESULTS, "work_precision")


def lines(ax: "Axes", pairs: Pairs) -> None:
    """A line of jaxode and one of diffrax, with a faint grid."""
    for name, marker, colour, ys in zip(
        NAMES, "os", COLOURS, zip(*pairs.values(), strict=True), strict=False
    ):
        ax.plot(list(pairs), ys, color=colour, marker=marker, markersize=5, label=name)
    ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def plain_ticks(axis: "Axis", ticks: list[int] | None = None) -> None:
    """Plain numbers at `ticks`, or at 1, 2 and 5 of each decade."""
    from matplotlib import ticker

    axis.set_major_locator(
        ticker.FixedLocator(ticks) if ticks else ticker.LogLocator(subs=(1, 2, 5))
    )
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_locator(ticker.NullLocator())
