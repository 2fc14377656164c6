"""Validation of the options of `fit`, before anything is compiled."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from ..problem.errors import DataError, OptionError
from ..problem.validation import (
    check_count,
    check_flag,
    check_key,
    check_name,
    real_number,
    shown_value,
)
from .own_loss import is_state
from .state import TrainingState


def check_model(model: Any, loss: Any) -> tuple[Any, Any]:
    """The model and its state, None if it has none. **Raises:** `OptionError`.

    A loss by name must be able to call it.
    """
    state = None
    if isinstance(model, tuple) and len(model) == 2 and is_state(model[1]):
        model, state = model
        try:
            jax.tree.leaves(state)
        except ValueError as error:
            raise OptionError("the state of the model is an old one, which was replaced") from error
    called = callable(getattr(model, "solve", model)) and not isinstance(model, type)
    if isinstance(loss, str) and not called:
        raise OptionError(
            f"a loss by name calls the model, but it cannot be called: {shown_value(model)}"
        )
    return model, state


def check_lengths(steps: Any, epochs: Any) -> tuple[int | None, int | None]:
    """The steps or the epochs as integers. **Raises:** `OptionError`, also if both are given."""
    if steps is not None and epochs is not None:
        raise OptionError(f"steps={steps!r} and epochs={epochs!r} are given: give one of them")
    steps = None if steps is None else check_count("steps", steps)
    return steps, None if epochs is None else check_count("epochs", epochs)


def check_key_or_seed(key: Any, seed: Any) -> Array:
    """The key of a training. **Raises:** `OptionError`, also if both are given."""
    if key is not None and seed is not None:
        raise OptionError("key and seed are given: give one of them")
    if key is not None:
        return check_key(key)
    return jax.random.key(0 if seed is None else check_count("seed", seed, 0, 2**32 - 1))


def check_validation(validation: Any) -> None:
    """Check that validation is a share or data to iterate over. **Raises:** both errors."""
    share = real_number(validation)
    if isinstance(validation, bool) or (share == share and not 0 < share < 1):
        raise OptionError(
            f"validation must be data, or a share between 0 and 1, got {shown_value(validation)}"
        )
    if hasattr(validation, "__next__"):
        raise DataError(
            "validation data are gone through again and again: give a function that makes the "
            "iterator"
        )


def check_waiting(validate_every: Any, patience: Any, validation: Any) -> None:
    """Check when validation is and what it ends. **Raises:** `OptionError`."""
    for name, value in (("validate_every", validate_every), ("patience", patience)):
        if value is not None:
            check_count(name, value)
            if validation is None:
                raise OptionError(f"{name} needs validation data: give validation=")


def check_callbacks(callbacks: Any) -> tuple[Callable[[TrainingState], Any], ...]:
    """The callbacks, one or several, as a tuple. **Raises:** `OptionError`."""
    if callable(callbacks) and not isinstance(callbacks, type):
        return (callbacks,)
    several = isinstance(callbacks, list | tuple)
    if not several or not all(callable(f) and not isinstance(f, type) for f in callbacks):
        raise OptionError(
            "callbacks must be a function of the state of the training, or a list of such "
            f"functions, got {shown_value(callbacks)}"
        )
    return tuple(callbacks)


def check_appearance(progress: Any, label: Any) -> None:
    """Check what is shown. **Raises:** `OptionError`."""
    if progress is not None:
        check_flag("progress", progress)
    if not isinstance(label, str):
        raise OptionError(f"label must be a string, got {shown_value(label)}")


def check_failure_option(on_failure: Any) -> bool:
    """True if what fails is skipped. **Raises:** `OptionError`."""
    return check_name("on_failure", on_failure, ("stop", "skip")) == "skip"
