"""The error for what kernels do not support, and its location in the user's code."""

import os
import sys
from typing import Any

import equinox
import jax
from jax.extend.core import JaxprEqn


class NoKernelError(Exception):
    """The reason why a solve has no kernel; it completes the sentence "there is no kernel: ..."."""


_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(path))
    for path in (jax.__file__, equinox.__file__, sys.modules[__name__.partition(".")[0]].__file__)
    if path is not None
)


def source_location(equation: JaxprEqn) -> str:
    """Return " (file.py:12)", the innermost user line of an equation; else an empty text."""
    frames: Any = getattr(equation.source_info.traceback, "frames", ())
    for frame in frames:
        if not os.path.abspath(frame.file_name).startswith(_LIBRARIES):
            return f" ({os.path.basename(frame.file_name)}:{frame.line_num})"
    return ""


def refuse_extended(dtype: Any, location: str = "") -> None:
    """Check that a dtype is of numbers. **Raises:** `NoKernelError` if not (random keys)."""
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        raise NoKernelError(f"an array of {dtype}{location}")
