"""Validation of the figures' arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..problem.errors import CALL_ERRORS, DataError, FieldError, OptionError, own_error
from ..problem.validation import check_count, check_pair, real_number, shown_value


def check_array(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Convert `value` to finite floats of `shape`, in which None is any positive length.

    **Raises:** `DataError` naming the array and the shape that was expected.
    """
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be a numeric array, got {type(value).__name__}") from error
    fits = array.ndim == len(shape) and all(
        n > 0 if m is None else n == m for n, m in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("n" if m is None else str(m) for m in shape)
        raise DataError(f"{name} must have shape ({wanted}), got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise DataError(f"{name} must be finite, but entry {_first_not_finite(array)} is not")
    return array


def _first_not_finite(array: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])


def check_points(X: Any) -> np.ndarray:
    """Convert `X` to points (n, features), two features or more. **Raises:** `DataError`."""
    X = check_array("X", X, (None, None))
    if X.shape[1] < 2:
        raise DataError(f"X must have two features or more, got shape {X.shape}")
    return X


def check_labels(y: Any, size: int) -> np.ndarray:
    """Convert `y` to integer labels of shape (size,), not negative. **Raises:** `DataError`."""
    try:
        labels = np.asarray(y)
    except (TypeError, ValueError) as error:
        raise DataError(f"y must be class numbers, got {type(y).__name__}") from error
    if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(
            f"y must be class numbers from 0, integers of shape ({size},), got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return labels


def check_limits(name: str, limits: Any) -> tuple[float, float]:
    """Convert the pair `(low, high)` to floats. **Raises:** `OptionError`."""
    low, high = check_pair(name, "a pair (low, high)", limits)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise OptionError(f"{name} must be finite with low < high, got {limits!r}")
    return low, high


def check_resolution(resolution: Any) -> int:
    """Check the number of grid points along an axis, at least two. **Raises:** `OptionError`."""
    return check_count("resolution", resolution, 2)


def check_number(name: str, value: Any) -> float:
    """Convert `value` to a float. **Raises:** `OptionError`."""
    number = real_number(value)
    if not np.isfinite(number):
        raise OptionError(f"{name} must be a number, and finite, got {shown_value(value)}")
    return number


def check_at_points(
    what: str, function: Any, shape: tuple[int, ...], call: Callable[[Any], Any]
) -> tuple[int, ...]:
    """Return the shape of what `call` makes of points of this shape, before anything is drawn.

    **Raises:** `FieldError` for a `function` that cannot be called on them.
    """
    if not callable(function):
        raise FieldError(f"{what} must be callable, got {shown_value(function)}")
    points = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    try:
        return jax.eval_shape(lambda x: jnp.asarray(call(x)), points).shape
    except CALL_ERRORS as error:
        raise own_error(error) or FieldError(f"calling {what} on points failed: {error}") from error
