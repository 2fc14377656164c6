"""Events and jumps: the user's objects, and events closure-converted for the solve."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike, PyTree

from ...problem.closure import ClosedFunction, closure_convert
from ...problem.errors import EventError, unknown_name
from ...problem.field import Split, check_like, positional_arguments
from ...problem.state import Packing
from ...problem.validation import check_positive
from ...solvers.step_size import Tolerance, rms_norm

DIRECTIONS = {"both": 0, "up": 1, "down": -1}
Condition = Callable[[Array, PyTree, PyTree], Array]
Apply = Callable[[Array, PyTree, PyTree], PyTree]
JumpApply = Callable[[Array, PyTree, PyTree, Array], PyTree]
SIDES = ("before", "after")
ENDS = ("both", "first", "last", "neither")


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
      state then, after `apply`. A boolean that is true at the start ends the solve there, after no
      step.

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

    It occurs where the root mean square of `change / (atol + rtol * |y|)` is at most one. The
    change of a component is the larger of `|h f|`, that in a step of the current size, and of
    `f**2 / |df/dt|` along the solution, all that is left of an exponential decay: so it does not
    depend on the unit of time, nor on how small a step is. The start counts too: the solve then
    takes no step. `sol.y1` is the state then, and its derivatives are those at that fixed time.
    `steady_state` computes the root of `f` itself, with derivatives that do not depend on the path
    to it.

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

    A jump at the first time of a solve changes the state before the first step, one at the last
    time after the last step; `sol.y1` is the state after all of them. So a course that is solved in
    two parts needs a dose at their joint in one of the parts, or `ends="first"` in both.

    **Arguments:**

    - `times`: shape `(k,)`, in any order; of a batch also `(trajectories, k)`. Times outside of
      the solve are ignored. Jumps at one time all apply, in the order in which they stand here.
    - `apply`: a function `(t, y, args)` or `(t, y, args, index)` that returns the state, like `y`,
      with which the solve continues: a dose, for example. `index` is the place of the jump in
      `times`, an int32 scalar; it is given where three arguments do not suffice. None if only the
      field is discontinuous.
    - `saved`: "before" or "after", the side of a jump whose state is saved in `sol.ys` at its very
      time. `sol(t)` is the state after a jump, but at the last time that before it.
    - `ends`: "both", "first", "last" or "neither", those of the solve's two ends at which jumps
      apply. With "first" a solve has the jumps from its first time on and before its last.

    In a solve over no time they apply once, unless `ends` is "neither". Derivatives by the time of
    a jump at an end are those of moving it into the solve.

    **Raises:** `OptionError` for an unknown `saved` or `ends`.
    """

    times: ArrayLike | Sequence[float]
    apply: Apply | JumpApply | None = None
    saved: Literal["before", "after"] = eqx.field(static=True, default="before")
    ends: Literal["both", "first", "last", "neither"] = eqx.field(static=True, default="both")

    def __check_init__(self) -> None:
        for name, value, known in (("saved", self.saved, SIDES), ("ends", self.ends, ENDS)):
            if not isinstance(value, str) or value not in known:
                raise unknown_name(f"{name} of jo.Jumps", str(value), known)


class CompiledEvent(eqx.Module):
    """An event with closure-converted functions.

    `of_rest`: the condition also takes the size of a step there.
    """

    condition: ClosedFunction
    apply: ClosedFunction | None
    sign: int = eqx.field(static=True)  # crossings that count: 1 upwards, -1 downwards, 0 both
    terminal: bool = eqx.field(static=True)
    logical: bool = eqx.field(static=True)
    of_rest: bool = eqx.field(static=True, default=False)

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
    closed, _ = closure_convert(at_rest, t, y0, args, t)
    return CompiledEvent(closed, None, 1, terminal=True, logical=True, of_rest=True)


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
    what: str, apply: Apply | None, y0: PyTree, args: PyTree, packing: Packing, *more: Any
) -> ClosedFunction | None:
    """Closure-convert a state map of `(t, y, args, *more)`.

    **Raises:** `EventError` if it does not return a state.
    """
    if apply is None:
        return None
    if not callable(apply):
        raise EventError(f"apply of {what} must be a function (t, y, args), got {apply!r}")
    t = jax.ShapeDtypeStruct((), packing.real_dtype)
    try:
        closed, output = closure_convert(apply, t, y0, args, *more)
    except (TypeError, ValueError) as error:
        raise EventError(f"calling apply(t, y, args) of {what} failed: {error}") from error
    check_like(f"apply(t, y, args) of {what}", output, y0, EventError)
    return closed


def trace_jump(
    apply: Apply | JumpApply | None, y0: PyTree, args: PyTree, packing: Packing
) -> ClosedFunction | None:
    """Closure-convert the state map of jumps, as one of `(t, y, args, index)`."""
    if not callable(apply):
        return trace_apply("jo.Jumps", apply, y0, args, packing)
    least, _ = positional_arguments(apply) or (3, 3)
    takes_index = least == 4 or isinstance(apply, ClosedFunction)

    def of_index(t: Array, y: PyTree, args: PyTree, index: Array) -> PyTree:
        return apply(t, y, args, index) if takes_index else apply(t, y, args)  # pyright: ignore

    index = jax.ShapeDtypeStruct((), jnp.int32)
    return trace_apply("jo.Jumps", of_index, y0, args, packing, index)  # pyright: ignore


def packed_apply(
    apply: ClosedFunction, t: Array, y: Array, args: Any, packing: Packing, *more: Array
) -> Array:
    """Apply a state map of `(t, y, args, *more)` to a packed state."""
    after = apply(t.astype(packing.real_dtype), packing.unpack(y), args, *more)
    return packing.pack(after).astype(y.dtype)


def conditions_of(
    events: tuple[CompiledEvent, ...], args: Any, packing: Packing, h: Array
) -> list[Callable[[Array, Array], Array]]:
    """Make the conditions functions on packed states; true and false become 1 and -1.

    `h`: the size of a step there.
    """

    def on_packed_state(event: CompiledEvent) -> Callable[[Array, Array], Array]:
        def condition(t: Array, y: Array) -> Array:
            more = (h.astype(packing.real_dtype),) if event.of_rest else ()
            value = event.condition(t.astype(packing.real_dtype), packing.unpack(y), args, *more)
            number = jnp.where(value, 1.0, -1.0) if event.logical else jnp.asarray(value)
            return number.astype(packing.number_dtype)

        return condition

    return [on_packed_state(event) for event in events]
