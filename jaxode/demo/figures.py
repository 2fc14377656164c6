"""The four figures of the demo."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plotting
from ..plotting.axes import FAINT, INK
from .pelts import FITTED, SPECIES
from .spiral import SpiralFit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("spiral_boundary", "spiral_flow", "pelts_phase", "pelts_forecast")
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def draw_boundary(figure: "Figure", spiral: SpiralFit) -> None:
    """Draw the held-out points over the regions of the classifier."""
    ax = plotting.decision_boundary(spiral.model, spiral.X, spiral.y, figure.add_subplot())
    ax.set_title(
        f"Spiral: regions of the neural ODE and the {len(spiral.y)} points held out\n"
        f"accuracy {spiral.accuracy:.1%}"
    )


def draw_flow(figure: "Figure", spiral: SpiralFit) -> None:
    """Draw the trajectories of the held-out points, and the line of equal logits."""
    ax = plotting.flow(spiral.model.ode, spiral.X, spiral.y, ax=figure.add_subplot())
    ax.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=1, label="equal logits")
    ax.set(
        title="Spiral: the flow from input to output, first two of five coordinates",
        xlabel="$x_1$, logit of class 0",
        ylabel="$x_2$, logit of class 1",
    )
    ax.legend(loc="best", framealpha=0.9)


def draw_phase(figure: "Figure", field: Any, counts: np.ndarray, curves: Curves) -> None:
    """Draw the learned field in the plane of hare and lynx, the models' curves and the record."""
    states = {name: states for name, (_, states) in curves.items()}
    everything = np.concatenate([counts, *states.values()])
    # The field in logarithms is undefined at counts of zero, so the limits start from 1.
    high = 1.08 * everything.max(0)
    ax = plotting.phase_portrait(
        field, (1.0, float(high[0])), (1.0, float(high[1])), states, figure.add_subplot()
    )
    ax.scatter(*counts[:FITTED].T, s=26, color=INK, zorder=4, label="data, fitted")
    ahead = counts[FITTED:].T
    ax.scatter(*ahead, s=26, facecolors="white", edgecolors=INK, zorder=4, label="data, held out")
    ax.plot([], [], color=FAINT, linewidth=0.8, label="learned field")
    ax.set(
        title="Hare and lynx, 1900-1920: the learned field and its trajectory",
        xlabel="hare, thousands of pelts",
        ylabel="lynx, thousands of pelts",
    )
    ax.legend(loc="upper right", framealpha=0.9)


def draw_forecast(
    figure: "Figure", years: np.ndarray, counts: np.ndarray, model: tuple, baselines: Curves
) -> None:
    """Draw the record, the neural ODE and the baselines over the years, a panel per species."""
    panels = figure.subplots(2, 1, sharex=True)
    split = float(years[FITTED - 1])
    plotting.forecast(years, counts, model, split, baselines, panels, label="neural ODE")
    panels[0].get_legend().remove()
    for ax, species in zip(panels, SPECIES, strict=True):
        ax.set(ylabel=f"{species}, thousands of pelts")
        ax.set_ylim(bottom=0)
    panels[1].set(xlabel="year", xticks=np.arange(years[0], years[-1] + 1, 5))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    panels[0].set_title("Hudson Bay pelts: fitted to 1900-1914, forecast for 1915-1920 (shaded)")
