"""Optimisers by name, and the learning rate of a step."""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import OptionError, unknown_name
from ..problem.validation import shown_value

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: optax.adam(1e-3),
    "lbfgs": optax.lbfgs,
}
# These need the loss of all data at every step.
FULL_BATCH = ("lbfgs",)


def find_optimizer(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation of a name, of None (Adam) or of one. **Raises:** `OptionError`.

    It takes `value`, `grad` and `value_fn`, whether it has a use for them or not.
    """
    if optimizer is None:
        optimizer = "adam"
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", optimizer, OPTIMIZERS)
        optimizer = OPTIMIZERS[optimizer]()
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        names = ", ".join(map(repr, OPTIMIZERS))
        raise OptionError(
            f"optimizer must be {names} or an Optax transformation, got {shown_value(optimizer)}"
        )
    return optax.with_extra_args_support(optimizer)


def rate_of(optimizer: Any) -> Callable[[PyTree, PyTree], dict[str, Array]]:
    """A function of the optimiser's states before and after a step: its learning rate, if known.

    It is known for a schedule, for `optax.inject_hyperparams`, and for a line search.
    """
    schedules = _schedules(optimizer)

    def rate(before: PyTree, after: PyTree) -> dict[str, Array]:
        counts = [x.count for x in jax.tree.leaves(before, is_leaf=_scheduled) if _scheduled(x)]
        if len(schedules) == len(counts) == 1:
            return {"learning_rate": jnp.abs(schedules[0](counts[0]))}
        held = optax.tree_utils.tree_get_all_with_path(after, "learning_rate")
        return {"learning_rate": jnp.asarray(held[0][1])} if held else {}

    return rate


def _scheduled(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)


def _schedules(value: Any, seen: frozenset[int] = frozenset()) -> list[Callable[[Array], Array]]:
    """The schedules in a transformation: Optax keeps them in the closures of its functions."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [found for entry in value for found in _schedules(entry, seen)]
    if not isinstance(value, types.FunctionType) or id(value) in seen:
        return []
    closure = _closure(value)
    if value.__qualname__ == "scale_by_schedule.<locals>.update_fn":
        return [closure["step_size_fn"]] if "step_size_fn" in closure else []
    return _schedules(tuple(closure.values()), seen | {id(value)})


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over, by name."""
    names = function.__code__.co_freevars
    cells = zip(names, function.__closure__ or (), strict=True)
    closure = {}
    for name, cell in cells:
        try:
            closure[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return closure
