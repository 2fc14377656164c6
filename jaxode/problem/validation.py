"""Validation of options: objects or their names, positive numbers, and integers."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import OptionError, unknown_name
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


def check_positive(
    what: str, value: Any, error: type[Exception] = OptionError, remark: str = ""
) -> None:
    """Check that `value` is None, traced or a positive number. **Raises:** `error`."""
    if value is None or is_traced(value):
        return
    try:
        number = np.asarray(value, float)
    except (TypeError, ValueError):
        number = np.asarray(np.nan)
    if number.ndim or not 0 < number < np.inf:
        raise error(f"{what} must be a positive number{remark}, got {value!r}")


def is_count(value: Any, least: int = 1) -> bool:
    """True if `value` is an integer, Python's or NumPy's, of at least `least`."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return integer and int(value) >= least


def check_count(what: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Make `value`, an integer from `least` to `most`, a Python int. **Raises:** `OptionError`."""
    if is_count(value, least) and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise OptionError(f"{what} must be an integer {bounds}, got {value!r}")


def check_counts(owner: str = "", /, **counts: Any) -> tuple[int, ...]:
    """Check positive integers with `check_count`; `owner` names the object they belong to."""
    prefix = f"{owner}: " if owner else ""
    return tuple(check_count(prefix + name, value) for name, value in counts.items())


def check_pair(name: str, description: str, value: Any) -> tuple[float, float]:
    """Convert a pair of numbers to floats. **Raises:** `OptionError` with the description."""
    try:
        first, second = (float(x) for x in value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} must be {description}, got {value!r}") from error
    return first, second


def python_int(value: Any) -> Any:
    """Make a NumPy integer a Python int, because Equinox treats NumPy integers as arrays."""
    return int(value) if isinstance(value, np.integer) else value
