"""The precision of times: the dtype that holds them, and what float32 would lose of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import TimesError, TimesWarning, warn_user
from .origin import Origin
from .state import Packing
from .times import shown

# Times this many spans from zero lose digits that their differences have.
_FAR = 16
# Warned is where rounding moves a time by more than this share of the solve, or a difference of two
# neighbouring times by more than this share of itself.
_SHARE_OF_SPAN, _SHARE_OF_GAP = 1e-3, 0.05
# Differences of so many roundings are that of two ways to compute one time.
_SAME = 64
_REMEDY = "with jax_enable_x64 give ts in NumPy's float64, or count from a nearer origin"


def with_times(packing: Packing, times: Array | np.ndarray, given: Any) -> Packing:
    """The packing of a solve at these `times`: arrays keep their precision, if JAX has it.

    `given`: the times as the user gives them. Numbers of Python have the precision of the state,
    unless that makes them coarse.
    """
    finest = jax.dtypes.canonicalize_dtype(np.float64)
    fits = times.dtype.itemsize <= 2 or times.dtype == np.float32
    if fits or packing.number_dtype == finest:
        return packing
    numbers = isinstance(given, list | tuple) and all(type(t) in (int, float) for t in given)
    if numbers and isinstance(times, np.ndarray):
        if tells_apart(times, single := np.dtype(np.float32)):
            return packing
        times = _bounded(times)
        near = not _is_far(*_size_and_span(times)).any()
        if near and not _gaps(times, times.astype(single))[2].any():
            return packing
    return packing.with_times(np.dtype(finest))


def tells_apart(times: np.ndarray, dtype: np.dtype) -> bool:
    """True if a dtype plainly keeps the digits of these times, by a look at the ends alone."""
    if times.ndim != 1 or not (times.size == 2 or times.dtype == dtype):
        return False
    first, last = float(times[0]), float(_bounded(times)[-1])
    return max(abs(first), abs(last)) <= _FAR * abs(last - first)


def find_origin(times: np.ndarray, packing: Packing) -> Origin | None:
    """The origin from which times of known values are to be counted; None to count from zero.

    `times` has the shape `(times,)`, or `(trajectories, times)` for an origin of each trajectory.
    """
    if packing.time_dtype != np.float32 or not np.any(_is_far(*_size_and_span(times))):
        return None
    return Origin.at(np.asarray(times[..., 0], np.float64))


def check_resolution(what: str, given: np.ndarray, held: np.ndarray) -> None:
    """Check that the times `held` differ from one to the next as those `given` do.

    Both have the times along the last axis, in order.

    **Raises:** `TimesError` for different times that become equal. **Warns:** `TimesWarning` for
    times that are rounded to a large share of their difference.
    """
    if held.dtype == given.dtype:
        return
    given, held = _bounded(given), _bounded(held)
    gaps, kept, off = _gaps(given, held)
    if not off.any():
        return
    exact = np.asarray(given, np.float64)
    # One number in float32 and in float64 is no two times.
    single = np.asarray(exact, np.float32) == exact
    lost = off & (kept == 0) & ~single[..., 1:] & ~single[..., :-1]
    place = tuple(np.argwhere(lost if lost.any() else off)[0])
    times = f"{what} {place[-1]} and {place[-1] + 1}, {gaps[place]:.3g} apart at"
    times = f"{times} {shown(exact[place])},"
    if lost.any():
        raise TimesError(f"{times} are equal in {held.dtype}: {_REMEDY}")
    message = f"{times} are {kept[place]:.3g} apart in {held.dtype}: {_REMEDY}"
    warn_user(message, TimesWarning)


def warn_of_lost_digits(times: np.ndarray) -> bool:
    """Warn if times were given in float32 and have lost digits already; return whether it did."""
    if times.dtype.kind in "iu" or times.dtype.itemsize > 4:
        return False
    size, span = _size_and_span(times)
    spacing = _spacing(size, times.dtype)
    # Over no time, digits are missed where integers are.
    lost = np.where(span > 0, _is_far(size, span) & (spacing > _SHARE_OF_SPAN * span), spacing >= 2)
    if not lost.any():
        return False
    number = np.argmax(lost)
    warn_user(
        f"ts was given in {times.dtype}, whose numbers are {np.ravel(spacing)[number]:.3g} apart "
        f"at {shown(np.ravel(size)[number])}: give numbers of Python, or NumPy's float64",
        TimesWarning,
    )
    return True


def coarse_time(times: np.ndarray, packing: Packing) -> str | None:
    """The warning for functions that read `t`, if the state's dtype is coarse for these times."""
    size, span = _size_and_span(times)
    spacing = _spacing(size, packing.real_dtype)
    coarse = _is_far(size, span) & (spacing > _SHARE_OF_SPAN * span)
    if not coarse.any():
        return None
    number = np.argmax(coarse)
    return (
        f"the functions of this solve read t in {packing.real_dtype}, whose numbers are "
        f"{np.ravel(spacing)[number]:.3g} apart at {shown(np.ravel(size)[number])}: count time "
        "from a nearer origin, or give y0 in a finer dtype"
    )


def _gaps(given: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The differences of neighbouring times, those of the times held, and which these are off."""
    integers = given.dtype.kind in "iu"
    given = given.astype(np.int64) if integers else given
    gaps = np.abs(np.asarray(np.diff(given), np.float64))
    kept = np.abs(np.diff(np.asarray(held, np.float64)))
    size = np.abs(np.asarray(given, np.float64))
    least = 0 if integers else _SAME * 2.0**-52 * np.maximum(size[..., 1:], size[..., :-1])
    return gaps, kept, np.abs(kept - gaps) > np.maximum(_SHARE_OF_GAP * gaps, least)


def _spacing(size: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The distance of neighbouring numbers of a dtype at this size."""
    return np.ldexp(float(jnp.finfo(dtype).eps), np.frexp(size)[1] - 1)


def _size_and_span(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    times = _bounded(times)
    first, last = (np.asarray(times[..., i], np.float64) for i in (0, -1))
    return np.maximum(np.abs(first), np.abs(last)), np.abs(last - first)


def _bounded(times: np.ndarray) -> np.ndarray:
    """The times, an infinite last one replaced by a time one unit after that before it."""
    last = times[..., -1]
    if not np.isinf(last).any():
        return times
    end = np.where(np.isinf(last), times[..., -2] + np.sign(last), last)
    return np.concatenate([times[..., :-1], end[..., None]], axis=-1).astype(times.dtype)


def _is_far(size: np.ndarray, span: np.ndarray) -> np.ndarray:
    return (size > _FAR * span) & (span > 0)
