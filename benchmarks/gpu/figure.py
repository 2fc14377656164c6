"""The figure: time against ensemble size, steps that adapt and steps that do not."""

import pathlib
from collections.abc import Mapping

from benchmarks.gpu.card import Card
from benchmarks.gpu.comparison import DIFFRAX, KERNEL, TORCH, XLA
from benchmarks.gpu.jobs import Key, Row
from jaxode.plotting.axes import COLOURS, FAINT
from jaxode.plotting.figure import new_figure, save_png

LINES = {
    KERNEL: ("jaxode, one kernel", COLOURS[0], "o"),
    XLA: ("jaxode, XLA", COLOURS[2], "^"),
    DIFFRAX: ("diffrax, vmap", COLOURS[1], "s"),
    TORCH: ("torchdiffeq, one step size", COLOURS[3], "D"),
}


def draw(folder: pathlib.Path, card: Card, rows: Mapping[Key, Row]) -> pathlib.Path | None:
    """A panel for each kind of steps; None where there is nothing to draw, or nothing to do it."""
    found = [row for row in rows.values() if row.key.section == "lorenz" and not row.failure]
    if not found:
        return None
    try:
        from matplotlib.ticker import NullFormatter

        figure = new_figure((9.6, 4.2))
    except ImportError:
        return None
    works = list(dict.fromkeys(row.key.work for row in found))
    panels = figure.subplots(1, len(works), sharey=True, squeeze=False)[0]
    for ax, work in zip(panels, works, strict=True):
        for by, (label, colour, marker) in LINES.items():
            points = sorted((r.key.count, r.ms) for r in found if r.key[1::2] == (work, by))
            if not points:
                continue
            style = {"color": colour, "marker": marker, "markersize": 5, "label": label}
            ax.plot([n for n, _ in points], [ms for _, ms in points], **style)
        ax.set(title=work, xlabel="trajectories", xscale="log", yscale="log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(color=FAINT, alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("time of a solve, ms")
    handles = {line.get_label(): line for ax in panels for line in ax.get_lines()}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"Lorenz to t = 1, Tsit5, float32, on {card.name}")
    return save_png(figure, folder, card.slug)
