"""Validation of the series that the baselines take."""

from typing import Any

import numpy as np

from ..problem.errors import DataError
from ..problem.state import is_traced
from ..problem.validation import real_array


def check_series(name: str, value: Any, *, missing: bool = False) -> np.ndarray:
    """Convert series to floats of shape `(batch, times, channels)`; NaN only if `missing`.

    **Raises:** `DataError` naming the argument.
    """
    if is_traced(value):
        raise DataError(f"{name} must be known: the baselines do not work inside of jit")
    array = real_array(name, value, DataError).astype(float)
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"{name} must have shape (batch, times, channels), got {array.shape}")
    bad = np.argwhere(np.isinf(array) if missing else ~np.isfinite(array))
    if bad.size:
        place = tuple(int(i) for i in bad[0])
        hint = "" if missing else "; jo.baselines.interpolate fills gaps"
        raise DataError(f"{name} is {array[place]} at {place}, it must be finite{hint}")
    return array


def check_times(name: str, value: Any, batch: int, length: int | None = None) -> np.ndarray:
    """Convert times of shape `(n,)` or `(batch, n)` to floats of shape `(batch, n)`.

    `length`: how many there must be, which then increase; None for any number in any order.

    **Raises:** `DataError` naming the argument.
    """
    if is_traced(value):
        raise DataError(f"{name} must be known: the baselines do not work inside of jit")
    array = real_array(name, value, DataError).astype(float)
    n = array.shape[-1] if array.ndim else 0
    if array.shape not in ((n,), (batch, n)) or n == 0 or length not in (None, n):
        wanted = "n" if length is None else length
        raise DataError(
            f"{name} must have shape ({wanted},) or ({batch}, {wanted}), got {array.shape}"
        )
    if not np.isfinite(array).all() or (length is not None and (np.diff(array) <= 0).any()):
        raise DataError(f"{name} must be finite{'' if length is None else ' and increase'}")
    return np.broadcast_to(array, (batch, n))
