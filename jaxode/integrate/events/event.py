"""Events and jumps: the user's objects, and events closure-converted for the solve."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ...problem.closure import ClosedFunction, closure_convert
from ...problem.errors import EventError, unknown_name
from ...problem.field import Split, check_like
from ...problem.state import Packing
from ...problem.validation import check_positive
from ...solvers.step_size import Tolerance, rms_norm

DIRECTIONS = {"both": 0, "up": 1, "down": -1}
Condition = Callable[[Array, PyTree, PyTree], Array]
Apply = Callable[[Array, PyTree, PyTree], PyTree]


class Event(eqx.Module):
    """An event, which occurs where `condition(t, y, args)` crosses zero or becomes true.

    **Arguments:**

    - `condition`: a function `(t, y, args)`. It returns a real scalar, whose zero crossings are
      located on the dense output of each step, to rounding; or a boolean scalar, whose event is
      where it becomes true. The condition is sampled at four points of a step: two zero crossings
      between neighbouring points are not detected.
    - `direction`: "up" for crossings from negative to positive, "down" for the opposite, in the
      direction of integration; or "both". "down" of a boolean is where it becomes false.
    - `apply`: a function `(t, y, args)` that returns the state, like `y`, with which the solve
      continues. If it takes another condition across zero, that event occurs at the same time; the
      event's own condition is exempt.
    - `terminal`: True to end the solve (of a batch: that trajectory) at the event; `sol.y1` is the
      state then, after `apply`. A boolean that is true at the start ends the solve there.

    Derivatives flow through the times of events, by the implicit function theorem, and through
    `apply`, with the sensitivities "discrete" and "forward". The time at which a boolean becomes
    true is treated as a constant.

    **Raises:** `EventError` if `condition` or `apply` is no function or `terminal` no boolean;
    `OptionError` for an unknown direction.
    """

    condition: Condition
    direction: Literal["both", "up", "down"] = eqx.field(static=True, default="both")
    apply: Apply | None = None
    terminal: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if not isinstance(self.direction, str) or self.direction not in DIRECTIONS:
            raise unknown_name("direction of jo.Event", str(self.direction), DIRECTIONS)
        if not isinstance(self.terminal, bool):
            raise EventError(f"terminal of jo.Event must be True or False, got {self.terminal!r}")
        for name, function in (("condition", self.condition), ("apply", self.apply)):
            if not callable(function) and not (name == "apply" and function is None):
                raise EventError(
                    f"{name} of jo.Event must be a function (t, y, args), got {function!r}"
                )


class AtRest(eqx.Module):
    """A terminal event, for `events=`, that ends a solve once its state has come to rest.

    It occurs where the root mean square of `f(t, y, args) / (atol + rtol * |y|)` falls below one:
    the state then changes by less than a tolerance per unit of time. The start counts too. `sol.y1`
    is the state then, and its derivatives are those at that fixed time. `steady_state` computes the
    root of `f` itself, with derivatives that do not depend on the path to it.

    **Arguments:** `rtol`, `atol`: positive numbers.

    **Raises:** `OptionError` unless both are positive numbers.
    """

    rtol: ArrayLike = 1e-4
    atol: ArrayLike = 1e-6

    def __check_init__(self) -> None:
        check_positive("rtol of jo.AtRest", self.rtol)
        check_positive("atol of jo.AtRest", self.atol)


class Jumps(eqx.Module):
    """Times of discontinuities, for `jumps=`: a step ends on each, and the integrator restarts.

    **Arguments:**

    - `times`: shape `(k,)`, in any order; of a batch also `(trajectories, k)`. Times outside of
      the solve, and its two ends, are ignored; repeated times count once.
    - `apply`: a function `(t, y, args)` that returns the state, like `y`, with which the solve
      continues: a dose, for example. None if only the field is discontinuous.
    """

    times: ArrayLike | Sequence[float]
    apply: Apply | None = None


class CompiledEvent(eqx.Module):
    """An event with closure-converted functions."""

    condition: ClosedFunction
    apply: ClosedFunction | None
    sign: int = eqx.field(static=True)  # crossings that count: 1 upwards, -1 downwards, 0 both
    terminal: bool = eqx.field(static=True)
    logical: bool = eqx.field(static=True)

    @property
    def truncates_step(self) -> bool:
        """True if the step ends at the event."""
        return self.terminal or self.apply is not None


def check_events(events: Any) -> tuple[Event, ...]:
    """Make one event, several or None a tuple of events. **Raises:** `EventError` otherwise."""
    if events is None:
        return ()
    checked = tuple(events) if isinstance(events, list | tuple) else (events,)
    for event in checked:
        if not isinstance(event, Event | AtRest):
            raise EventError(
                f"events= takes jo.Event(...), jo.AtRest() or several of them, got {event!r}"
            )
    return checked


def trace_events(
    events: Sequence[Event | AtRest], field: Callable, y0: PyTree, args: PyTree, packing: Packing
) -> tuple[CompiledEvent, ...]:
    """Closure-convert the events. **Raises:** `EventError` if they do not fit the state."""

    def as_event(event: Event | AtRest) -> Event:
        return event if isinstance(event, Event) else _at_rest_event(event, field, packing)

    return tuple(trace_event(as_event(event), y0, args, packing) for event in events)


def _at_rest_event(rest: AtRest, field: Callable, packing: Packing) -> Event:
    """Make the `Event` that occurs when the solution of `field` comes to rest."""
    tolerance = Tolerance(jnp.asarray(rest.rtol), jnp.asarray(rest.atol), rms_norm)

    def at_rest(t: Array, y: PyTree, args: PyTree) -> Array:
        fields = (field.stiff, field.other) if isinstance(field, Split) else (field,)
        slope = sum(packing.pack(f(t, y, args)) for f in fields)
        return tolerance.scaled_norm(jnp.asarray(slope), packing.pack(y)) < 1

    return Event(at_rest, terminal=True)


def trace_event(event: Event, y0: PyTree, args: PyTree, packing: Packing) -> CompiledEvent:
    """Closure-convert an event. **Raises:** `EventError` if it does not fit the state."""
    t = jax.ShapeDtypeStruct((), packing.real_dtype)

    def condition(t: Array, y: PyTree, args: PyTree) -> Array:
        return jnp.asarray(event.condition(t, y, args))

    try:
        closed, shape = closure_convert(condition, t, y0, args)
    except (TypeError, ValueError) as error:
        raise EventError(f"calling condition(t, y, args) of jo.Event failed: {error}") from error
    logical = shape.dtype == jnp.bool_
    if shape.shape != () or not (logical or jnp.issubdtype(shape.dtype, jnp.floating)):
        raise EventError(
            "condition(t, y, args) of jo.Event must return one real number or one boolean, but "
            f"returned {shape.dtype}{list(shape.shape)}"
        )
    apply = trace_apply("jo.Event", event.apply, y0, args, packing)
    sign = DIRECTIONS[event.direction] or logical  # the default of a boolean: where it becomes true
    return CompiledEvent(closed, apply, int(sign), event.terminal, logical)


def trace_apply(
    what: str, apply: Apply | None, y0: PyTree, args: PyTree, packing: Packing
) -> ClosedFunction | None:
    """Closure-convert a state map. **Raises:** `EventError` if it does not return a state."""
    if apply is None:
        return None
    if not callable(apply):
        raise EventError(f"apply of {what} must be a function (t, y, args), got {apply!r}")
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = closure_convert(apply, t, y0, args)
    except (TypeError, ValueError) as error:
        raise EventError(f"calling apply(t, y, args) of {what} failed: {error}") from error
    check_like(f"apply(t, y, args) of {what}", output, y0, EventError)
    return closed


def packed_apply(apply: ClosedFunction, t: Array, y: Array, args: Any, packing: Packing) -> Array:
    """Apply a state map to a packed state."""
    after = apply(t.astype(packing.real_dtype), packing.unpack(y), args)
    return packing.pack(after).astype(y.dtype)


def conditions_of(
    events: tuple[CompiledEvent, ...], args: Any, packing: Packing
) -> list[Callable[[Array, Array], Array]]:
    """Make the conditions functions on packed states; true and false become 1 and -1."""

    def on_packed_state(event: CompiledEvent) -> Callable[[Array, Array], Array]:
        def condition(t: Array, y: Array) -> Array:
            value = event.condition(t.astype(packing.real_dtype), packing.unpack(y), args)
            number = jnp.where(value, 1.0, -1.0) if event.logical else jnp.asarray(value)
            return number.astype(t.dtype)

        return condition

    return [on_packed_state(event) for event in events]
