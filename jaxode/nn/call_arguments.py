"""Checks of the arguments of calls and methods of models, which have the same names in all."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from ..problem.errors import CALL_ERRORS, DataError, OptionError, TimesError
from ..problem.state import is_traced
from ..problem.validation import (
    check_count,
    check_flag,
    check_key,
    check_level,
    is_real,
    real_array,
    shown_value,
)

Method = TypeVar("Method", bound=Callable[..., Any])


def check_call_arguments(given: Mapping[str, Any]) -> None:
    """Check arguments by their names: what they are, not how their shapes fit together.

    **Raises:** `DataError` for values that are no numbers, `TimesError` for times, `OptionError`
    for keys, flags and settings.
    """
    for name, value in given.items():
        if name in _CHECKS:
            _CHECKS[name](name, value)


def with_checked_arguments(method: Method) -> Method:
    """Decorate a method so that its arguments are checked before it runs."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args: Any, **options: Any) -> Any:
        check_call_arguments(signature.bind(*args, **options).arguments)
        return method(*args, **options)

    return checked  # pyright: ignore[reportReturnType]


def check_noise(noise: Any, channels: int) -> None:
    """Check a standard deviation of all channels, or one of each. **Raises:** `OptionError`."""
    if is_traced(noise):
        return
    values = np.asarray(real_array("noise", noise))
    if values.shape not in ((), (channels,)) or not np.all((values > 0) & np.isfinite(values)):
        raise OptionError(
            f"noise must be a positive number, or one for each of {channels} channels, got "
            f"{shown_value(noise)}"
        )


def _check_values(name: str, value: Any) -> None:
    """Check that `value` holds real or complex numbers."""
    if is_traced(value):
        return
    known = isinstance(value, jax.Array | np.ndarray | np.generic | list | tuple)
    if not known and not hasattr(value, "__array__"):
        raise DataError(f"{name} must be an array of numbers, got {type(value).__name__}")
    try:
        dtype = value.dtype if isinstance(value, jax.Array) else np.asarray(value).dtype
    except CALL_ERRORS as error:
        raise DataError(f"{name} must be an array of numbers: {error}") from error
    if not (is_real(dtype) or dtype in (np.bool_, np.complex64, np.complex128)):
        raise DataError(f"{name} must hold numbers, got dtype {dtype}")


def _check_mask(name: str, value: Any) -> None:
    if value is not None:
        _check_values(name, value)


def _check_times(name: str, value: Any) -> None:
    if value is not None:
        real_array(name, value, TimesError)


def _check_optional_time(name: str, value: Any) -> None:
    if value is not None:
        _check_time(name, value)


def _check_time(name: str, value: Any) -> None:
    if is_traced(value):
        return
    if not np.all(np.isfinite(np.asarray(real_array(name, value, TimesError)))):
        raise TimesError(f"{name} must be finite, got {shown_value(value)}")


def _check_optional_key(_: str, value: Any) -> None:
    if value is not None:
        check_key(value)


def _check_axes(name: str, value: Any) -> None:
    for axis in jax.tree.leaves(value):
        if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
            raise OptionError(
                f"{name} must be an integer, None, or a pytree of these like args, got "
                f"{shown_value(value)}"
            )


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(["x", "xs", "y1", "z", "z0", "z1"], _check_values),
    **dict.fromkeys(["mask", "lengths"], _check_mask),
    **dict.fromkeys(["ts", "times"], _check_times),
    "t": _check_time,
    "t0": _check_optional_time,
    **dict.fromkeys(["evolving", "from_base"], check_flag),
    **dict.fromkeys(["kl_weight", "weight"], check_level),
    "key": _check_optional_key,
    "args_axes": _check_axes,
    "n": check_count,
}
