"""Validation of the times of a solve."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import TimesError
from .state import is_traced
from .validation import real_array, real_number, shown_value

# Whether the first and the last time of a solve are its ends alone, and not among the saved times.
Ends = tuple[bool, bool]


def times_with_ends(ts: Any, t0: Any, t1: Any) -> tuple[Any, Ends]:
    """The times of a solve from `t0` through the saved times `ts` to `t1`, and the ends not saved.

    Each may be None: a missing end is that of `ts`; ends without `ts` are saved themselves.

    **Raises:** `TimesError` where the ends are not known, or are no real scalars.
    """
    if t0 is None and t1 is None:
        return ts, (False, False)
    for name, end in (("t0", t0), ("t1", t1)):
        if end is not None and (shape := real_array(name, end, TimesError).shape):
            raise TimesError(f"{name} must be one time, got shape {shape}")
    if ts is None:
        if t0 is None or t1 is None:
            missing = "t0" if t0 is None else "t1"
            raise TimesError(f"neither ts nor {missing} is given: where does the solve end?")
        return (t0, t1), (False, False)
    first, last = ([] if t is None else [t] for t in (t0, t1))
    if isinstance(ts, list | tuple):
        return (*first, *ts, *last), (t0 is not None, t1 is not None)
    times = real_array("ts", ts, TimesError)
    if times.ndim != 1:
        raise TimesError(f"ts must be one-dimensional; got shape {times.shape}")
    space = jnp if is_traced((ts, t0, t1)) else np
    dtype = space.result_type(*map(weak_or_dtype, (times, *first, *last)))
    parts = [space.asarray(x, dtype) for x in (first, times, last)]
    return space.concatenate(parts), (t0 is not None, t1 is not None)


def weak_or_dtype(time: Any) -> Any:
    """What says how a time is promoted: a number of Python itself, else the dtype."""
    if type(time) in (int, float):
        return time
    return time.dtype if hasattr(time, "dtype") else np.asarray(time).dtype


def saved_rows(count: int, unsaved: Ends) -> slice:
    """The rows of the saved times, among `count` times of a solve."""
    return slice(int(unsaved[0]), count - int(unsaved[1]))


def check_times(
    ts: Any, unsaved: Ends = (False, False), events_end: bool = False
) -> Array | np.ndarray:
    """Validate the times and make them a one-dimensional array, of at least two, in their dtype.

    It is one of NumPy if their values are known. `unsaved`: as `times_with_ends` returns it.
    `events_end`: an event can end the solve, so that the last time may be infinite.

    **Raises:** `TimesError`. Values that are traced under `jit` are unknown here: for them the
    solve checks monotonicity, and fails with `Status.BAD_TIMES`.
    """
    if ts is None:
        raise TimesError("ts is None: expected times such as (t0, t1), or t0= and t1=")
    times = real_array("ts", ts, TimesError)
    if times.ndim != 1:
        raise TimesError(f"ts must be one-dimensional, (t0, t1) or longer; got shape {times.shape}")
    if isinstance(times.shape[0], int) and times.shape[0] < 2:  # unknown under `jax.export`
        raise TimesError(
            f"ts must hold at least two times, got {times.shape[0]}; for fewer give t0= and t1= too"
        )
    if not is_traced(ts):
        _check_time_values(np.asarray(times, np.float64), unsaved, events_end)
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


def _check_time_values(times: np.ndarray, unsaved: Ends, events_end: bool) -> None:
    bad = ~np.isfinite(times)
    if bad[-1] and np.isinf(times[-1]):
        bad[-1] = not events_end
    if bad.any():
        place = int(np.argmax(bad))
        raise TimesError(
            f"{_name_of(place, times.size, unsaved)} is {times[place]}: every time must be finite, "
            "but for the last one of a solve that an event may end (terminal=True, or jo.AtRest())"
        )
    if times.size == 2:
        return
    steps = np.diff(times) * np.sign(times[-1] - times[0])
    if times[-1] == times[0]:
        steps = -np.abs(np.diff(times))
    reversals = np.flatnonzero(steps < 0)
    if reversals.size:
        i = int(reversals[0])
        if any(unsaved):
            before, after = (_name_of(k, times.size, unsaved) for k in (i, i + 1))
            raise TimesError(
                f"t0, ts and t1 must be monotone, but go from {before} = {shown(times[i])} to "
                f"{after} = {shown(times[i + 1])} while running from {shown(times[0])} to "
                f"{shown(times[-1])}"
            )
        raise TimesError(
            f"ts must be monotone, but goes from {shown(times[i])} to {shown(times[i + 1])} at "
            f"index {i + 1} while running from {shown(times[0])} to {shown(times[-1])}"
        )


def _name_of(place: int, count: int, unsaved: Ends) -> str:
    """What the user calls the time at this place among those of a solve."""
    if place == 0 and unsaved[0]:
        return "t0"
    return "t1" if place == count - 1 and unsaved[1] else f"ts[{place - int(unsaved[0])}]"
