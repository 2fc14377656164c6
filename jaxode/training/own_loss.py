"""Losses that are functions of the user: how they are called, and what they have to return."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.solution import Stats
from ..problem.errors import CALL_ERRORS, OptionError, own_error
from ..problem.validation import shown_value
from .objective import Evaluation, Loss, Objective, log_entries


def own_objective(
    loss: Loss, has_state: bool, samples: Callable[[PyTree], int] | None
) -> Objective:
    """The objective of a function `(model, batch)`, or `(model, state, batch)`, with a key or not.

    `samples`: the number of those of a batch, where the function may return their losses; else
    None.
    """
    with_key = _with_key(loss, 3 if has_state else 2)

    def objective(model: PyTree, state: Any, batch: PyTree, key: Array) -> Evaluation:
        if has_state:
            out, state = _loss_and_state(with_key(model, state, batch, key=key))
        else:
            out = with_key(model, batch, key=key)
        value, extra = _loss_and_extra(out, None if samples is None else samples(batch))
        return Evaluation(value, log_entries(dict(extra)), state)

    return objective


def loss_shape(
    objective: Objective, model: PyTree, state: Any, batch: PyTree
) -> jax.ShapeDtypeStruct:
    """Trace a loss of the user, before anything is compiled. **Raises:** `OptionError`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        return eqx.filter_eval_shape(objective, model, state, batch, key).loss
    except CALL_ERRORS as error:
        raise own_error(error) or OptionError(f"calling the loss failed: {error}") from error


def _loss_and_state(out: Any) -> tuple[Any, Any]:
    """What the loss of a model with state returned, and the state. **Raises:** `OptionError`."""
    if not isinstance(out, tuple) or len(out) not in (2, 3) or not is_state(out[1]):
        raise OptionError(
            "the loss of a model with state must return the loss and the new state, and may return "
            f"a dict of what to log after them, got {shown_value(out)}"
        )
    return (out[0] if len(out) == 2 else (out[0], out[2])), out[1]


def is_state(value: Any) -> bool:
    """True for the state of an Equinox model."""
    return isinstance(value, eqx.nn.State)


def _loss_and_extra(out: Any, samples: int | None) -> tuple[Array, dict]:
    """The loss and what is logged, of what a loss function returned. **Raises:** `OptionError`."""
    parts: Any = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
    value, extra = parts
    shapes = [()] if samples is None else [(), (samples,)]
    if not eqx.is_inexact_array(value) or jnp.iscomplexobj(value) or value.shape not in shapes:
        found = f"{value.dtype}{[*value.shape]}" if eqx.is_array(value) else shown_value(value)
        vector = "" if samples is None else f", or the losses of {samples} samples"
        raise OptionError(
            f"the loss must return a real scalar{vector}, or such a scalar and a dict of what to "
            f"log, got {found}"
        )
    if not isinstance(extra, dict):
        raise OptionError(f"what a loss logs must be a dict of scalars, got {shown_value(extra)}")
    for name, entry in extra.items():
        scalar = isinstance(entry, int | float) or (eqx.is_array(entry) and entry.shape == ())
        if not isinstance(entry, Stats) and not scalar:
            raise OptionError(f"what a loss logs must be scalars, but {name!r} is none")
    return value, extra


def _with_key(loss: Loss, before: int) -> Callable[..., Any]:
    """The loss as a function of `before` arguments and `key=`.

    The key goes to an argument called `key`, or to the one after those before if that has no
    default. An argument that the user has bound keeps its value, as in
    `lambda model, batch, weight=0.1`.
    """
    place = _place_of_key(loss, before)
    if place == "next":
        return lambda *args, key: loss(*args, key)
    if place == "name":
        return lambda *args, key: loss(*args, key=key)
    return lambda *args, key: loss(*args)


def _place_of_key(loss: Loss, before: int) -> Literal["next", "name"] | None:
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except (TypeError, ValueError):
        return None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    following, by_name = positional[before : before + 1], [*positional[before + 1 :]]
    by_name += [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    if any(p.name == "key" for p in by_name) and "key" not in bound:
        return "name"
    if following and (
        following[0].name == "key" or following[0].default is inspect.Parameter.empty
    ):
        return "next"
    return None
