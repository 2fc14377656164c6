"""Solves that go on where another one ended."""

from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.solution import Solution, has_failed
from ..problem.errors import OptionError
from ..problem.state import is_traced


def resumed(start: Any, y0: PyTree, t0: Any) -> tuple[PyTree, Any]:
    """The state and the time from which a solve goes on, if `y0` and `t0` are not given.

    **Raises:** `OptionError` if `start` is no solution, or one that failed.
    """
    if start is None:
        return y0, t0
    if not isinstance(start, Solution):
        raise OptionError(f"start must be a solution to go on from, got {start!r}")
    if has_failed(start.status):
        raise OptionError("start is a solution that failed: there is no last state to go on from")
    return start.y1 if y0 is None else y0, _end(start) if t0 is None else t0


def next_dt(start: Solution | None, dt: Any, controller: Any) -> Any:
    """The size of the step that would have followed, where neither `dt` nor a grid is given."""
    prescribed = controller is not None and not getattr(controller, "adaptive", True)
    if start is None or dt is not None or prescribed:
        return dt
    size = start.stats.next_dt
    known = None if is_traced(size) else float(np.asarray(size))
    return size if known is None or 0 < known < np.inf else None


def _end(start: Solution) -> Any:
    """The time at which a solution ends; one number for a batch, if it is the same for all."""
    t = start.stats.t_reached
    if np.ndim(t) == 0 or is_traced(t):
        return t
    ends: Array | np.ndarray = np.asarray(jax.tree.map(lax.stop_gradient, t))
    return ends[0] if np.all(ends == ends[0]) else t
