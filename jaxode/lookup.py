"""Options: by name or object, and numbers that must be positive."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import OptionError, unknown_name
from .problem import is_traced


def find(what: str, value: Any, known: Mapping[str, type], kind: Any, example: str) -> Any:
    """The object that `value` names, or `value` itself where it is one of `kind`.

    **Raises:** `OptionError` for an unknown name (with the nearest known), a class, or anything
    else.
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
    """**Raises:** `error` unless `value` is None, traced or a positive number."""
    if value is None or is_traced(value):
        return
    try:
        number = np.asarray(value, float)
    except (TypeError, ValueError):
        number = np.asarray(np.nan)
    if number.ndim or not 0 < number < np.inf:
        raise error(f"{what} must be a positive number{remark}, got {value!r}")
