"""The figure of the GPU benchmark: time against the size of an ensemble."""

import pathlib
from collections.abc import Mapping, Sequence

from benchmarks.figures.style import plain_grid
from jaxode.plotting.axes import COLOURS
from jaxode.plotting.figure import new_figure, save_png

# For each method, its label, colour and marker.
LINES = {
    "kernel": ("jaxode, one kernel", COLOURS[0], "o"),
    "XLA": ("jaxode, XLA", COLOURS[2], "^"),
    "diffrax": ("diffrax, vmap", COLOURS[1], "s"),
    "torchdiffeq": ("torchdiffeq, one step size", COLOURS[3], "D"),
}

# For each method, pairs of an ensemble's size and a time in ms.
TimesByMethod = Mapping[str, Sequence[tuple[int, float]]]


def draw_ensemble_size(
    folder: pathlib.Path, name: str, title: str, panels: Mapping[str, TimesByMethod]
) -> pathlib.Path | None:
    """Draw a panel for each title in `panels`; None if there is none, or no matplotlib."""
    if not panels:
        return None
    try:
        from matplotlib.ticker import NullFormatter

        figure = new_figure((9.6, 4.2))
    except ImportError:
        return None
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (panel_title, times) in zip(axes, panels.items(), strict=True):
        for method, (label, colour, marker) in LINES.items():
            if method in times:
                sizes, ms = zip(*sorted(times[method]), strict=True)
                style = {"color": colour, "marker": marker, "markersize": 5, "label": label}
                ax.plot(sizes, ms, **style)
        ax.set(title=panel_title, xlabel="trajectories", xscale="log", yscale="log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        plain_grid(ax)
    axes[0].set_ylabel("time of a solve, ms")
    handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return save_png(figure, folder, name)
