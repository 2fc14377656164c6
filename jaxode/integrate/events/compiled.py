"""Events and the state maps of jumps, closure-converted for a solve and packed.

A condition that returns a vector is one condition with several events, its entries. Everything
after the trace numbers the entries of all conditions one after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ...problem.calling import positional_arguments, taking_args
from ...problem.closure import ClosedFunction, closure_convert
from ...problem.errors import CALL_ERRORS, EventError, own_error
from ...problem.field import Split, check_like, returning_state
from ...problem.state import Packing
from ...solvers.step_size import Tolerance, rms_norm
from .event import DIRECTIONS, Apply, AtRest, Event


class CompiledEvent(eqx.Module):
    """An event with closure-converted functions; `apply` is one of `(t, y, args, entry)`.

    `of_rest`: the condition also takes the size of a step there.
    """

    condition: ClosedFunction
    apply: ClosedFunction | None
    sign: int = eqx.field(static=True)  # crossings that count: 1 upwards, -1 downwards, 0 both
    terminal: int = eqx.field(static=True)  # the occurrence that ends the solve; 0 for none
    logical: bool = eqx.field(static=True)
    of_rest: bool = eqx.field(static=True, default=False)
    entries: int | None = eqx.field(static=True, default=None)  # of a vector of conditions

    @property
    def count(self) -> int:
        """The number of entries of the condition, 1 of a scalar."""
        return 1 if self.entries is None else self.entries

    @property
    def may_truncate(self) -> bool:
        """True if a step may end at the event."""
        return self.terminal > 0 or self.apply is not None


def places(events: Sequence[CompiledEvent]) -> tuple[np.ndarray, np.ndarray]:
    """The event and the entry of its condition of each number, and -1 of number -1, the last."""
    event = np.repeat(np.arange(len(events)), [e.count for e in events])
    entry = np.concatenate([np.arange(e.count) for e in events])
    return np.append(event, -1).astype(np.int32), np.append(entry, -1).astype(np.int32)


def trace_events(
    events: Sequence[Event | AtRest], field: Callable, y0: PyTree, args: PyTree, packing: Packing
) -> tuple[CompiledEvent, ...]:
    """Closure-convert the events. **Raises:** `EventError` if they do not fit the state."""

    def trace(event: Event | AtRest) -> CompiledEvent:
        if isinstance(event, Event):
            return trace_event(event, y0, args, packing)
        return _trace_rest(event, field, y0, args, packing)

    return tuple(map(trace, events))


def _trace_rest(
    rest: AtRest, field: Callable, y0: PyTree, args: PyTree, packing: Packing
) -> CompiledEvent:
    """Closure-convert the condition that the solution of `field` has come to rest."""
    tolerance = Tolerance(jnp.asarray(rest.rtol), jnp.asarray(rest.atol), rms_norm)

    def at_rest(t: Array, y: PyTree, args: PyTree, h: Array) -> Array:
        t, y, args, h = lax.stop_gradient((t, y, args, h))
        fields = (field.stiff, field.other) if isinstance(field, Split) else (field,)

        def slope(t: Array, y: Array) -> Array:
            return jnp.asarray(sum(packing.pack(f(t, packing.unpack(y), args)) for f in fields))

        state = packing.pack(y)
        start = slope(t, state)
        _, rate = jax.jvp(slope, (t, state), (jnp.ones_like(t), start))
        return tolerance.scaled_norm(_change_ahead(start, rate, h), state) <= 1

    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    closed, _ = closure_convert(at_rest, t, y0, args, t, users=False)
    return CompiledEvent(closed, None, 1, terminal=1, logical=True, of_rest=True)


def _change_ahead(slope: Array, rate: Array, h: Array) -> Array:
    """How far each component is about to move, from its slope and the derivative of that by time.

    It is the larger of the change in a step of size `h`, which holds where others bend the slope,
    and of what is left of an exponential decay, which no step size enters.
    """
    speed, bend = jnp.abs(slope), jnp.abs(rate)
    left = speed * jnp.where(bend > 0, speed / jnp.where(bend > 0, bend, 1), jnp.inf)
    return jnp.where(speed == 0, 0, jnp.maximum(h * speed, left))


def trace_event(event: Event, y0: PyTree, args: PyTree, packing: Packing) -> CompiledEvent:
    """Closure-convert an event. **Raises:** `EventError` if it does not fit the state."""
    t, given = jax.ShapeDtypeStruct((), packing.real_dtype), taking_args(event.condition)

    def condition(t: Array, y: PyTree, args: PyTree) -> Array:
        return jnp.asarray(given(t, y, args))

    try:
        closed, shape = closure_convert(condition, t, y0, args)
    except CALL_ERRORS as error:
        raise own_error(error) or EventError(
            f"calling condition(t, y, args) of jo.Event failed: {error}"
        ) from error
    logical = shape.dtype == jnp.bool_
    fits = shape.shape == () or (len(shape.shape) == 1 and shape.shape[0] > 0)
    if not fits or not (logical or jnp.issubdtype(shape.dtype, jnp.floating)):
        raise EventError(
            "condition(t, y, args) of jo.Event must return one real number, one boolean, or a "
            f"vector of either, but returned {shape.dtype}{list(shape.shape)}"
        )
    entries = shape.shape[0] if shape.shape else None
    apply = trace_indexed("jo.Event", event.apply, y0, args, packing)
    sign = (
        DIRECTIONS[str(event.direction)] or logical
    )  # the default of a boolean: where it becomes true
    terminal = int(event.terminal)
    return CompiledEvent(closed, apply, int(sign), terminal, logical, entries=entries)


def trace_indexed(
    what: str, apply: Apply | None, y0: PyTree, args: PyTree, packing: Packing
) -> ClosedFunction | None:
    """Closure-convert a state map, as one of `(t, y, args, index)`; `index` is an int32 scalar.

    **Raises:** `EventError` if it does not return a state.
    """
    if apply is None:
        return None
    if not callable(apply):
        raise EventError(f"apply of {what} must be a function (t, y, args), got {apply!r}")
    takes_index = takes_four(apply)
    given = returning_state(apply if takes_index else taking_args(apply))

    def of_index(t: Array, y: PyTree, args: PyTree, index: Array) -> PyTree:
        return given(t, y, args, index) if takes_index else given(t, y, args)

    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = closure_convert(of_index, t, y0, args, jax.ShapeDtypeStruct((), jnp.int32))
    except CALL_ERRORS as error:
        raise own_error(error) or EventError(
            f"calling apply(t, y, args) of {what} failed: {error}"
        ) from error
    check_like(f"apply(t, y, args) of {what}", output, y0, EventError)
    return closed


def takes_four(apply: Callable) -> bool:
    """True if a state map has to be given the index too."""
    least, _ = positional_arguments(apply) or (3, 3)
    return least == 4 or isinstance(apply, ClosedFunction)


def packed_apply(
    apply: ClosedFunction, t: Array, y: Array, args: Any, packing: Packing, index: Array
) -> Array:
    """Apply a state map of `(t, y, args, index)` to a packed state."""
    after = apply(t.astype(packing.real_dtype), packing.unpack(y), args, index)
    return packing.pack(after).astype(y.dtype)


def conditions_of(
    events: tuple[CompiledEvent, ...], args: Any, packing: Packing, h: Array
) -> list[Callable[[Array, Array], Array]]:
    """Make the conditions functions on packed states; true and false become 1 and -1.

    `h`: the size of a step there. Each returns a vector, of its entries.
    """

    def on_packed_state(event: CompiledEvent) -> Callable[[Array, Array], Array]:
        def condition(t: Array, y: Array) -> Array:
            more = (h.astype(packing.real_dtype),) if event.of_rest else ()
            value = event.condition(t.astype(packing.real_dtype), packing.unpack(y), args, *more)
            number = jnp.where(value, 1.0, -1.0) if event.logical else jnp.asarray(value)
            return number.astype(packing.number_dtype).reshape(event.count)

        return condition

    return [on_packed_state(event) for event in events]
