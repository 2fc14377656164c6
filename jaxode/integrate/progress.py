"""Progress bars: of one solve in time, of a batch in finished trajectories."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..problem.errors import OptionError

_bars: list[Any] = []


def solve_progress(progress: bool | None) -> Callable[..., None] | None:
    """The function that the step loop calls after each step to update the bar, or None.

    **Raises:** `OptionError` if tqdm is not installed, or `progress` is not a boolean.
    """
    if progress is None or progress is False:
        return None
    if progress is not True:
        raise OptionError(f"progress must be True or False, got {progress!r}")
    tqdm_class()
    return report


def batch_progress(progress: bool | None) -> Callable[..., None] | None:
    """The function that a batch's loop calls to update the bar, or None.

    **Raises:** `OptionError` as `solve_progress`.
    """
    return None if solve_progress(progress) is None else report_done


def tqdm_class() -> Any:
    """Import the class of tqdm's bars. **Raises:** `OptionError` if tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise OptionError('progress=True needs tqdm: pip install "jaxode[train]"') from error
    return tqdm


def report(t: Array, t0: Array, t1: Array, goes_on: Array) -> None:
    """Update the bar to time `t` from inside a compiled loop; one host callback per step.

    `goes_on`: whether another step follows; else the bar is closed where it is.
    """
    share = (t - t0) / jnp.where(t1 == t0, 1, t1 - t0)
    jax.debug.callback(_show, share, t, goes_on)


def _show(share: Any, t: Any, goes_on: Any) -> None:
    if _bars and 100.0 * float(share) < _bars[0].n:
        _bars.pop().close()  # the bar of a solve whose program was interrupted
    if not _bars:
        layout = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"  # tqdm adds the comma
        _bars.append(tqdm_class()(total=100.0, desc="solve", bar_format=layout, leave=True))
    bar = _bars[0]
    bar.postfix = f"t={float(t):.4g}"
    bar.update(max(0.0, 100.0 * float(share) - bar.n))
    if not goes_on:
        bar.close()
        _bars.clear()


def report_done(before: Array, now: Array, count: int) -> None:
    """Update a batch's bar to `now` trajectories; one host callback per hundredth of them."""
    hundredth = -(-count // 100)
    lax.cond(
        now // hundredth > before // hundredth,
        lambda: jax.debug.callback(_show_done, now, count),
        lambda: None,
    )


def _show_done(done: Any, count: int) -> None:
    if _bars and int(done) < _bars[0].n:
        _bars.pop().close()
    if not _bars:
        _bars.append(tqdm_class()(total=int(count), desc="solve_batch", unit=" trajectories"))
    bar = _bars[0]
    bar.update(int(done) - bar.n)
    if int(done) == int(count):
        bar.close()
        _bars.clear()
