"""Events: conditions that a solve watches, and what happens where one is met."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ...problem.closure import ClosedFunction, close
from ...problem.errors import EventError, unknown_name
from ...problem.field import Split, check_like
from ...problem.state import Packing
from ...problem.validation import check_positive
from ...solvers.step_size import Tolerance, rms_norm

DIRECTIONS = {"both": 0, "up": 1, "down": -1}
Condition = Callable[[Array, PyTree, PyTree], Array]
Apply = Callable[[Array, PyTree, PyTree], PyTree]


class Event(eqx.Module):
    """What happens where `condition(t, y, args)` crosses zero, or becomes true.

    **Arguments:**

    - `condition`: returns a real scalar, whose crossings of zero are located on the dense output
      of each step, to rounding; or a boolean one, which is met where it becomes true. A step is
      looked at in four places: what crosses zero twice between two of them is not seen.
    - `direction`: "up" for crossings from below zero, "down" for those from above, in the direction
      in which the solve runs; or "both". "down" of a boolean is where it becomes false.
    - `apply`: `(t, y, args)` to the state that the solve goes on with, like `y`. A condition that
      this takes across zero is met then, at the same time; the event's own is not.
    - `terminal`: whether the solve ends there; `sol.y1` is the state then, after `apply`. Of a
      batch it ends that trajectory. A boolean that is true from the start ends it there.

    Derivatives flow through the times of events, by the implicit function theorem, and through
    what is applied: with the sensitivities "discrete" and "forward". The time at which a boolean
    becomes true is taken for a constant.

    **Raises:** `EventError` for what is no function and for another direction.
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
    """The end of a solve whose flow has come to rest, for `events=`; also at its start.

    That is where the root mean square of `f(t, y, args) / (atol + rtol * |y|)` is below one: at
    this pace the state moves by less than a tolerance in a unit of time. `sol.y1` is the state
    then. Its derivatives are those at that time, which comes to rest too. For the root itself, and
    derivatives that do not depend on the way to it, there is `steady_state`.

    **Raises:** `OptionError` unless both are positive numbers.
    """

    rtol: ArrayLike = 1e-4
    atol: ArrayLike = 1e-6

    def __check_init__(self) -> None:
        check_positive("rtol of jo.AtRest", self.rtol)
        check_positive("atol of jo.AtRest", self.atol)


class Jumps(eqx.Module):
    """Times at which field or state jump: a step ends on each, and the next begins afresh.

    **Arguments:**

    - `times`: shape `(k,)`, in any order; of a batch also `(trajectories, k)`. Those outside of
      the solve, and its two ends, are passed over; what stands there twice counts once.
    - `apply`: `(t, y, args)` to the state that the solve goes on with, like `y`: a dose, for
      example. None where the field alone is discontinuous.
    """

    times: ArrayLike | Sequence[float]
    apply: Apply | None = None


class CompiledEvent(eqx.Module):
    """An event as the engine has it: functions with every array they use as a leaf."""

    condition: ClosedFunction
    apply: ClosedFunction | None
    sign: int = eqx.field(static=True)  # of the crossings that count; zero for both
    terminal: bool = eqx.field(static=True)
    logical: bool = eqx.field(static=True)

    @property
    def truncates_step(self) -> bool:
        """Whether the step ends where it is met."""
        return self.terminal or self.apply is not None


def check_events(events: Any) -> tuple[Event, ...]:
    """One event, several or None as a tuple. **Raises:** `EventError` for anything else."""
    if events is None:
        return ()
    given = tuple(events) if isinstance(events, list | tuple) else (events,)
    for event in given:
        if not isinstance(event, Event | AtRest):
            raise EventError(
                f"events= takes jo.Event(...), jo.AtRest() or several of them, got {event!r}"
            )
    return given


def close_events(
    events: Sequence[Event | AtRest], field: Callable, y0: PyTree, args: PyTree, packing: Packing
) -> tuple[CompiledEvent, ...]:
    """The events, traced. **Raises:** `EventError` where they do not fit the state."""

    def plain(event: Event | AtRest) -> Event:
        return event if isinstance(event, Event) else _resting(event, field, packing)

    return tuple(_close_event(plain(event), y0, args, packing) for event in events)


def _resting(rest: AtRest, field: Callable, packing: Packing) -> Event:
    """The event that the flow of `field` comes to rest."""
    tolerance = Tolerance(jnp.asarray(rest.rtol), jnp.asarray(rest.atol), rms_norm)

    def resting(t: Array, y: PyTree, args: PyTree) -> Array:
        parts = (field.stiff, field.other) if isinstance(field, Split) else (field,)
        slope = sum(packing.pack(part(t, y, args)) for part in parts)
        return tolerance.scaled_norm(jnp.asarray(slope), packing.pack(y)) < 1

    return Event(resting, terminal=True)


def _close_event(event: Event, y0: PyTree, args: PyTree, packing: Packing) -> CompiledEvent:
    t = jax.ShapeDtypeStruct((), packing.real_dtype)

    def condition(t: Array, y: PyTree, args: PyTree) -> Array:
        return jnp.asarray(event.condition(t, y, args))

    try:
        closed, shape = close(condition, t, y0, args)
    except (TypeError, ValueError) as error:
        raise EventError(f"calling condition(t, y, args) of jo.Event failed: {error}") from error
    logical = shape.dtype == jnp.bool_
    if shape.shape != () or not (logical or jnp.issubdtype(shape.dtype, jnp.floating)):
        raise EventError(
            "condition(t, y, args) of jo.Event must return one real number or one boolean, but "
            f"returned {shape.dtype}{list(shape.shape)}"
        )
    after = close_apply("jo.Event", event.apply, y0, args, packing)
    sign = DIRECTIONS[event.direction] or logical  # a boolean is met where it becomes true
    return CompiledEvent(closed, after, int(sign), event.terminal, logical)


def close_apply(
    what: str, apply: Apply | None, y0: PyTree, args: PyTree, packing: Packing
) -> ClosedFunction | None:
    """What is applied, traced. **Raises:** `EventError` where it does not return a state."""
    if apply is None:
        return None
    if not callable(apply):
        raise EventError(f"apply of {what} must be a function (t, y, args), got {apply!r}")
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = close(apply, t, y0, args)
    except (TypeError, ValueError) as error:
        raise EventError(f"calling apply(t, y, args) of {what} failed: {error}") from error
    check_like(f"apply(t, y, args) of {what}", output, y0, EventError)
    return closed


def packed_apply(apply: ClosedFunction, t: Array, y: Array, args: Any, packing: Packing) -> Array:
    """What is applied to a packed state."""
    after = apply(t.astype(packing.real_dtype), packing.unpack(y), args)
    return packing.pack(after).astype(y.dtype)


def conditions_of(
    events: tuple[CompiledEvent, ...], args: Any, packing: Packing
) -> list[Callable[[Array, Array], Array]]:
    """The conditions on packed states: a real number, one and minus one for true and false."""

    def of(event: CompiledEvent) -> Callable[[Array, Array], Array]:
        def value(t: Array, y: Array) -> Array:
            found = event.condition(t.astype(packing.real_dtype), packing.unpack(y), args)
            number = jnp.where(found, 1.0, -1.0) if event.logical else jnp.asarray(found)
            return number.astype(t.dtype)

        return value

    return [of(event) for event in events]
