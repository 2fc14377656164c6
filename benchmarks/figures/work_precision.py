"""The work-precision figure: error against time of stiff solvers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.figures.style import plain_grid
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.work_precision import Curves
from jaxode.plotting.axes import COLOURS, FAINT, INK
from jaxode.plotting.figure import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_work_precision(curves: Mapping[str, tuple[Curves, Curves]]) -> None:
    """Draw error against time, a panel for each problem: jaxode in colour, the peers dashed."""
    figure = new_figure((11.0, 7.0))
    panels = figure.subplots(2, 3).ravel()
    for ax, (name, (ours, theirs)) in zip(panels, curves.items(), strict=False):
        _draw_panel(ax, ours, theirs)
        ax.set(title=name, xscale="log", yscale="log", ylim=(1e-10, 1e-1))
        plain_grid(ax)
    handles, labels = panels[0].get_legend_handles_labels()
    for ax in panels[len(curves) :]:
        ax.axis("off")
        ax.legend(handles, labels, loc="center", frameon=False)
    figure.supxlabel("time of a solve, ms")
    figure.supylabel("largest relative error of a component at the end")
    save_png(figure, RESULTS, "work_precision")


def _draw_panel(ax: "Axes", ours: Curves, theirs: Curves) -> None:
    """Draw the curves of one problem."""
    for (solver, points), colour, marker in zip(
        ours.items(), (*COLOURS, INK), "osD^v<p", strict=False
    ):
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        ax.plot([p.time for p in points], [p.error for p in points], label=solver, **style)
    for (peer, points), marker in zip(theirs.items(), "xo+sd", strict=False):
        style = {"color": FAINT, "marker": marker, "markersize": 4, "linestyle": "--"}
        style |= {"linewidth": 1, "markerfacecolor": "white"}
        ax.plot([p.time for p in points], [p.error for p in points], label=peer, **style)
