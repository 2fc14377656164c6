"""The named errors of jaxode: each says what was wrong and what was expected."""

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Any

# Frames of these libraries are no lines of the user.
_LIBRARIES = ("jaxode", "jax", "jaxlib", "equinox", "contextlib", "functools")


class StateError(TypeError):
    """The initial state is not a pytree of floating-point or complex arrays."""


class FieldError(TypeError):
    """The vector field cannot be called, or its output does not match the state."""


class TimesError(ValueError):
    """The times are not one-dimensional, finite and monotone, or too close for their precision."""


class ToleranceError(ValueError):
    """A tolerance is negative, not a number, or of a shape that does not fit the state."""


class OptionError(ValueError):
    """An option has a value that does not exist or does not fit the others."""


class EventError(ValueError):
    """An event's condition, or the state map it applies, does not fit the state."""


class DifferentiationError(TypeError):
    """A derivative whose direction or order the `sensitivity` of a solve does not support."""


class BatchError(ValueError):
    """The batch axes do not fit the arguments or each other, or there are no trajectories."""


class OutOfMemoryError(MemoryError):
    """The solve needs more memory than the machine has."""


class DataError(ValueError):
    """Training data that do not fit together or hold values that are not finite."""


class TimesWarning(UserWarning):
    """Times are coarse: the precision in which they are given, held or read rounds them visibly."""


class ToleranceWarning(UserWarning):
    """A tolerance is tighter than the precision of the state can resolve."""


class RecompilationWarning(UserWarning):
    """A function is compiled anew at every call, because values that it reads change."""


class StiffnessWarning(UserWarning):
    """Stability, not accuracy, bound the steps of an explicit solver."""


class TrainingWarning(UserWarning):
    """Training stopped before its last step."""


class SolveError(RuntimeError):
    """A solve ended before its last time; the message says why, where, and what to try."""


class TrainingError(RuntimeError):
    """A training that cannot go on: a callback or the data raised, or too many steps failed.

    `model` and `log` are those so far; a training on validation data has the best model.
    """

    model: Any = None
    log: Any = None


# What JAX, NumPy and Python raise where a function of the user does not fit its inputs.
CALL_ERRORS = (TypeError, ValueError, IndexError, AttributeError, OverflowError)


def own_error(error: Exception) -> Exception | None:
    """The error itself if it is one of these, which say more than that a call failed; else None."""
    return error if type(error).__module__ == __name__ else None


def unknown_name(what: str, name: str, valid_names: Iterable[str]) -> OptionError:
    """Make the error for a name that is not among the `valid_names`; it suggests the nearest."""
    valid_names = sorted(valid_names)
    near = difflib.get_close_matches(name.lower(), valid_names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"known: {', '.join(valid_names)}"
    )
    return OptionError(f"there is no {what} called {name!r}; {hint}")


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line of the call stack that is in no library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
