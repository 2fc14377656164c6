"""What a kernel cannot do, and where in the user's code it stands."""

import os
import sys
from typing import Any

import equinox
import jax
from jax.extend.core import JaxprEqn


class NoKernelError(Exception):
    """Why a solve has no kernel; its text completes the sentence "there is no kernel: ..."."""


_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(path))
    for path in (jax.__file__, equinox.__file__, sys.modules[__name__.partition(".")[0]].__file__)
    if path is not None
)


def source_location(equation: JaxprEqn) -> str:
    """(file.py:12), the innermost line of the user's that the equation is from; else nothing."""
    frames: Any = getattr(equation.source_info.traceback, "frames", ())
    for frame in frames:
        if not os.path.abspath(frame.file_name).startswith(_LIBRARIES):
            return f" ({os.path.basename(frame.file_name)}:{frame.line_num})"
    return ""


def refuse_extended(dtype: Any, place: str = "") -> None:
    """**Raises:** `NoKernelError` for random keys and what else is no number."""
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        raise NoKernelError(f"an array of {dtype}{place}")
