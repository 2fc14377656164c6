"""Validation of the times of a solve."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import TimesError
from .state import is_traced


def check_times(ts: Any) -> Array | np.ndarray:
    """Validate the times and make them a one-dimensional array, of at least two, in their dtype.

    It is one of NumPy if their values are known.

    **Raises:** `TimesError`. Values that are traced under `jit` are unknown here: for them the
    solve checks monotonicity, and fails with `Status.BAD_TIMES`.
    """
    if ts is None:
        raise TimesError("ts is None: expected times such as (t0, t1)")
    traced = is_traced(ts)
    try:
        # NumPy for known values: jnp would make them tracers under jit.
        times = jnp.asarray(ts) if traced else np.asarray(ts)
    except (TypeError, ValueError) as error:
        raise TimesError(f"ts must be a sequence of numbers, got {ts!r}") from error
    if times.ndim != 1:
        raise TimesError(f"ts must be one-dimensional, (t0, t1) or longer; got shape {times.shape}")
    if times.shape[0] < 2:
        raise TimesError(f"ts must hold at least two times, got {times.shape[0]}")
    if times.dtype.kind not in "iu" and not jnp.issubdtype(times.dtype, jnp.floating):
        raise TimesError(f"ts must hold real numbers, got dtype {times.dtype}")
    if not traced:
        _check_time_values(np.asarray(times, np.float64))
    return times


def shown(time: float | np.ndarray) -> str:
    """A time for a message; of a large one more digits."""
    return f"{time:.6g}" if abs(time) < 1e5 else f"{time:.12g}"


def _check_time_values(times: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise TimesError(f"ts[{bad[0]}] is {times[bad[0]]}: every time must be finite")
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
