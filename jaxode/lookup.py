"""Options by name or object."""

import inspect
from collections.abc import Mapping
from typing import Any

from .errors import OptionError, unknown_name


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
