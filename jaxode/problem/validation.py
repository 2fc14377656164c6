"""Validation of options: objects or their names, positive numbers, and integers."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import CALL_ERRORS, OptionError, unknown_name
from .state import is_traced


def find_option(
    what: str, value: Any, known: Mapping[str, Callable[[], Any]], kind: Any, example: str
) -> Any:
    """Find the object for an option: `value` itself if of type `kind`, or made from its name.

    **Raises:** `OptionError` for an unknown name (with the nearest known), a class, or an object
    of another type.
    """
    if isinstance(value, str):
        if value.lower() not in known:
            raise unknown_name(what, value, known)
        return known[value.lower()]()
    if inspect.isclass(value):
        raise OptionError(
            f"{what} must be an instance, but got the class {value.__name__}: write "
            f"{value.__name__}()"
        )
    if not isinstance(value, kind):
        raise OptionError(
            f"{what} must be a name or an object such as {example}, got {value!r}; "
            f"known names: {', '.join(sorted(known))}"
        )
    return value


def real_number(value: Any) -> float:
    """The real number that `value` is, also as an array of shape `()`; NaN of anything else.

    A boolean is no number. The value is known, not traced.
    """
    if isinstance(value, bool) or not isinstance(
        value, int | float | np.generic | jax.Array | np.ndarray
    ):
        return math.nan
    if not isinstance(value, int | float) and (np.ndim(value) or not is_real(value.dtype)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_real(dtype: Any) -> bool:
    """True for a dtype of real numbers, integers too, that JAX has."""
    if isinstance(dtype, np.dtype) and dtype.kind in "iuf":
        return dtype.itemsize <= 8
    return bool(jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating))


def real_array(what: str, value: Any, error: type[Exception] = OptionError) -> Any:
    """Make `value` an array of its dtype, of NumPy if it is known. **Raises:** `error`.

    The error is for what holds anything but real numbers.
    """
    try:
        # NumPy for known values: jnp would make them tracers under jit.
        array = jnp.asarray(value) if is_traced(value) else np.asarray(value)
    except CALL_ERRORS:
        array = np.asarray(None)
    if not is_real(array.dtype):
        shown = shown_value(value)
        raise error(f"{what} must hold real numbers, got dtype {array.dtype}: {shown}")
    return array


def check_positive(
    what: str,
    value: Any,
    error: type[Exception] = OptionError,
    remark: str = "",
    none: bool = True,
) -> None:
    """Check that `value` is traced, a positive number, or None if `none`. **Raises:** `error`."""
    if (value is None and none) or is_traced(value):
        return
    if not 0 < real_number(value) < np.inf:
        raise error(f"{what} must be a positive number{remark}, got {shown_value(value)}")


def check_flag(what: str, value: Any) -> bool:
    """Make `value`, True or False of Python or NumPy, one of Python. **Raises:** `OptionError`."""
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{what} must be True or False, got {shown_value(value)}")
    return bool(value)


def check_key(key: Any) -> Any:
    """Check that `key` is one key of `jax.random`, and return it. **Raises:** `OptionError`."""
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
        if typed or (key.dtype == np.uint32 and key.ndim == 1):
            return key
    raise OptionError(f"key must be one key, such as jax.random.key(0), got {shown_value(key)}")


def check_name(what: str, name: Any, known: Iterable[str]) -> str:
    """Check that `name` is one of those `known`, and return it. **Raises:** `OptionError`."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(what, str(name), known)
    return name


def check_level(what: str, value: Any) -> None:
    """Check that `value` is traced or a number that is not negative. **Raises:** `OptionError`."""
    if not is_traced(value) and not 0 <= real_number(value) < np.inf:
        shown = shown_value(value)
        raise OptionError(f"{what} must be a number that is not negative, got {shown}")


def shown_value(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def is_count(value: Any, least: int = 1) -> bool:
    """True if `value` is an integer, Python's or NumPy's, of at least `least`."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return integer and int(value) >= least


def check_count(
    what: str, value: Any, least: int = 1, most: int | None = None, remark: str = ""
) -> int:
    """Make `value`, an integer from `least` to `most`, a Python int. **Raises:** `OptionError`."""
    if is_count(value, least) and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise OptionError(f"{what} must be an integer {bounds}{remark}, got {shown_value(value)}")


def check_counts(owner: str = "", /, **counts: Any) -> tuple[int, ...]:
    """Check positive integers with `check_count`; `owner` names the object they belong to."""
    prefix = f"{owner}: " if owner else ""
    return tuple(check_count(prefix + name, value) for name, value in counts.items())


def check_pair(name: str, description: str, value: Any) -> tuple[float, float]:
    """Convert a pair of numbers to floats. **Raises:** `OptionError` with the description."""
    array = isinstance(value, jax.Array | np.ndarray) and is_real(value.dtype)
    entries = np.asarray(value).tolist() if array else value
    numbers = [real_number(x) for x in entries] if isinstance(entries, list | tuple) else []
    if len(numbers) != 2 or any(map(math.isnan, numbers)):
        raise OptionError(f"{name} must be {description}, got {shown_value(value)}")
    return numbers[0], numbers[1]


def python_int(value: Any) -> Any:
    """Make a NumPy integer a Python int, because Equinox treats NumPy integers as arrays."""
    return int(value) if isinstance(value, np.integer) else value
