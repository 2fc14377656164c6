"""Validation of the times of a solve."""

from typing import Any

import numpy as np
from jax import Array

from .errors import TimesError
from .state import is_traced
from .validation import real_array, real_number, shown_value


def check_times(ts: Any, events_end: bool = False) -> Array | np.ndarray:
    """Validate the times and make them a one-dimensional array, of at least two, in their dtype.

    It is one of NumPy if their values are known. `events_end`: an event can end the solve, so that
    the last time may be infinite.

    **Raises:** `TimesError`. Values that are traced under `jit` are unknown here: for them the
    solve checks monotonicity, and fails with `Status.BAD_TIMES`.
    """
    if ts is None:
        raise TimesError("ts is None: expected times such as (t0, t1)")
    times = real_array("ts", ts, TimesError)
    if times.ndim != 1:
        raise TimesError(f"ts must be one-dimensional, (t0, t1) or longer; got shape {times.shape}")
    if times.shape[0] < 2:
        raise TimesError(f"ts must hold at least two times, got {times.shape[0]}")
    if not is_traced(ts):
        _check_time_values(np.asarray(times, np.float64), events_end)
    return times


def check_time(what: str, t: Any) -> Any:
    """Check that `t` is one time, traced or finite. **Raises:** `TimesError`."""
    fits = np.ndim(t) == 0 if is_traced(t) else np.isfinite(real_number(t))
    if not fits:
        raise TimesError(f"{what} must be one finite time, got {shown_value(t)}")
    return t


def shown(time: float | np.ndarray) -> str:
    """A time for a message; of a large one more digits."""
    return f"{time:.6g}" if abs(time) < 1e5 else f"{time:.12g}"


def _check_time_values(times: np.ndarray, events_end: bool) -> None:
    bad = ~np.isfinite(times)
    if bad[-1] and np.isinf(times[-1]):
        bad[-1] = not events_end
    if bad.any():
        place = int(np.argmax(bad))
        raise TimesError(
            f"ts[{place}] is {times[place]}: every time must be finite, but for the last one of a "
            "solve that an event may end (terminal=True, or jo.AtRest())"
        )
    if times.size == 2:
        return
    steps = np.diff(times) * np.sign(times[-1] - times[0])
    if times[-1] == times[0]:
        steps = -np.abs(np.diff(times))
    reversals = np.flatnonzero(steps < 0)
    if reversals.size:
        i = int(reversals[0])
        raise TimesError(
            f"ts must be monotone, but goes from {shown(times[i])} to {shown(times[i + 1])} at "
            f"index {i + 1} while running from {shown(times[0])} to {shown(times[-1])}"
        )
