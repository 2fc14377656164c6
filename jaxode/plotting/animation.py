"""A moving picture of points that follow a flow."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from ..problem.errors import OptionError
from ..problem.validation import check_count, check_flag, shown_value
from .axes import check_axes, class_colour, find_axes
from .boundary import limits_of
from .checks import check_labels, check_points
from .paths import check_flow, paths_of, times_of

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes


def animate_flow(
    model: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    path: "str | os.PathLike[str] | None" = None,
    ax: "Axes | None" = None,
    *,
    times: ArrayLike | None = None,
    pause: int = 12,
    back: bool = False,
    fps: int = 20,
    dpi: int = 80,
) -> "FuncAnimation":
    """Animate the points `X` from the input of a `NeuralODE` to its output, one frame per time.

    Of a `CNF` they go from the base to the data: take `X = flow.base.sample(key, n)`.

    **Arguments:**

    - `model`: a `NeuralODE`, a `CNF`, or a module like the first, as `plotting.flow` takes. The
      first two coordinates are drawn.
    - `X`: points, shape `(n, features)`. `y`: their classes, integers of shape `(n,)`, or None.
    - `path`: where to save it, as a GIF (`name.gif`), or not at all if None. The size in pixels is
      that of the figure of `ax` in inches times `dpi`.
    - `ax`: where to draw; a new figure without axes, 6 by 6 inches, if None.
    - `times`: of the frames, increasing, shape `(m,)`; 48 from `model.t0` to `model.t1` if None.
    - `pause`: frames for which the first and the last picture stand still.
    - `back`: whether the points then go back the same way, so that the loop has no jump.
    - `fps`: frames per second of the file.

    **Returns:** the animation of matplotlib. In a notebook show the file by an image in Markdown,
    or `IPython.display.HTML(animation.to_jshtml())`.

    **Raises:** `DataError` for points or labels of other shapes; `OptionError` for another model or
    option, or if matplotlib is missing; `TimesError` for bad times.
    """
    check_flow(model)
    X = check_points(X)
    labels = None if y is None else check_labels(y, len(X))
    path = _check_path(path)
    pause, fps = check_count("pause", pause, least=0), check_count("fps", fps, most=1000)
    dpi, back = check_count("dpi", dpi, most=1000), check_flag("back", back)
    check_axes(ax)
    paths = paths_of(model, X, times_of(model, times, 48))
    ax = _bare_axes() if ax is None else find_axes(ax)
    animation = _animate(ax, paths, labels, _frames(paths.shape[1], pause, back), fps)
    if path is not None:
        animation.save(path, writer="pillow", fps=fps, dpi=dpi)
        _shrink(path)
    return animation


def _check_path(path: Any) -> Path | None:
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or Path(path).suffix != ".gif":
        raise OptionError(f"path must be the name of a file *.gif, got {shown_value(path)}")
    return Path(path)


def _shrink(path: Path) -> None:
    """Write a GIF anew with one palette of 32 colours, in about half the bytes."""
    from PIL import Image, ImageSequence

    with Image.open(path) as file:
        pairs = [(f.convert("RGB"), f.info["duration"]) for f in ImageSequence.Iterator(file)]
    frames, durations = zip(*pairs, strict=True)  # frames that stand still are one, and long
    palette = frames[0].quantize(32, Image.Quantize.MAXCOVERAGE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)


def _bare_axes() -> "Axes":
    """Axes over a whole new figure, without a frame."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(6, 6))
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    return ax


def _frames(count: int, pause: int, back: bool) -> np.ndarray:
    """The number of the time that each frame shows."""
    there = [0] * pause + list(range(count)) + [count - 1] * pause
    return np.array(there + list(range(count - 2, 0, -1)) * back)


def _animate(
    ax: "Axes", paths: np.ndarray, labels: np.ndarray | None, frames: np.ndarray, fps: int
) -> "FuncAnimation":
    from matplotlib.animation import FuncAnimation

    colours = [class_colour(0)] if labels is None else [class_colour(label) for label in labels]
    dots = ax.scatter(*paths[:, 0].T, s=8, c=colours, linewidths=0)
    ax.set(xlim=limits_of(paths[..., 0], 0.03), ylim=limits_of(paths[..., 1], 0.03), aspect="equal")

    def show(frame: int) -> Any:
        dots.set_offsets(paths[:, frames[frame]])
        return (dots,)

    figure: Any = ax.figure
    return FuncAnimation(figure, show, frames=len(frames), interval=1000 / fps, blit=False)
