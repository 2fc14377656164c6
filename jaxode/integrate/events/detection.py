"""Event detection in the steps of one trajectory, and the restart after events."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.field import Field
from ...problem.roots import root_of
from ...problem.state import Packing
from ...problem.status import Status
from ..counts import first_evaluations
from ..save import StepRecord, with_derivative_of
from ..step import IntegratorState, Method, first_size, start_neighbour
from .compiled import CompiledEvent, conditions_of, packed_apply
from .discontinuities import next_discontinuity, one_sided_field
from .root_finding import ROUNDINGS, Crossing, RootBrackets, bracket_roots, first_crossing
from .state_jumps import StateJumps

# More consecutive events at one time than this, besides one of each, never end.
_MAX_STALLED = 20
# The step after an event is at most this multiple of the distance from the last step's start to the
# event, and at least this fraction of the last step's size.
_MAX_GROWTH, _MIN_FRACTION = 2.0, 1e-3
# What an event does: it is only recorded, ends its step, or ends the solve.
RECORDED, CUTS, ENDS = 0, 1, 2
# A Newton correction of more than this many roundings of the step means that there is no root.
_NO_ROOT = 1e5


class EventState(NamedTuple):
    """The state of event detection of one trajectory.

    - `signs`: the signs of the conditions just after the trajectory's time.
    - `count`: the number of events so far. `occurrences`: those of each, where a later one than the
      first ends the solve; else `()`.
    - `stalled`: the number of consecutive events between which time did not advance.
    - `stop_time`: the next time at which a step has to end.
    """

    signs: Array
    count: Array
    occurrences: Any
    stalled: Array
    stop_time: Array


class EventOccurrence(NamedTuple):
    """An occurrence of an event, the state `y` before it, its number, and its `effect`.

    The number counts the entries of all conditions; -1 is that of no event.
    """

    t: Array
    y: Array
    index: Array
    effect: Array

    @property
    def truncates_step(self) -> Array:
        """True if the step ends at the event."""
        return self.effect != RECORDED


class EventHandler(eqx.Module):
    """The events and jumps of one problem, and how the integrator handles them.

    `stops_looking`: after `max_events` events there are none; else a further one is a failure.
    """

    events: tuple[CompiledEvent, ...]
    jumps: StateJumps | None
    args: Any
    packing: Packing = eqx.field(static=True)
    max_events: int = eqx.field(static=True)
    method: Method
    field: Field
    saves_after: bool = eqx.field(static=True, default=False)
    stops_looking: bool = eqx.field(static=True, default=False)

    def initialise(self, s: IntegratorState, t1: Array) -> IntegratorState:
        """Add the event state at the start of a trajectory, whose steps aim at the first jump."""
        zero, count = jnp.zeros((), jnp.int32), self.num_events
        blank = jnp.zeros(count, self.packing.number_dtype)
        counted = any(event.terminal > 1 for event in self.events)
        occurrences = jnp.zeros(count, jnp.int32) if counted else ()
        stop_time = self.stop_time(s.t, t1)
        s = s._replace(event_state=EventState(blank, zero, occurrences, zero, stop_time))
        if self.jumps is not None:
            s = self.reinitialise(s, t1)
        if self.events:
            signs = self.signs(s.t, s.y, jnp.sign(t1 - s.t), s.h)
            s = s._replace(event_state=s.event_state._replace(signs=signs))
            # A terminal boolean that is true from the start ends the solve before a step.
            ends = jnp.any(signs == jnp.asarray(self.ending_signs, signs.dtype))
            s = s._replace(status=jnp.where(ends, jnp.int32(Status.TERMINATED), s.status))
        return s._replace(status=self.event_status(s))

    @property
    def num_events(self) -> int:
        """The number of events, entries of vectors of conditions counted each."""
        return sum(event.count for event in self.events)

    def of_each(self, function: Callable[[CompiledEvent], Any]) -> list[Any]:
        """The value of `function` for each event, for an entry that of its vector."""
        return [function(event) for event in self.events for _ in range(event.count)]

    @property
    def counted_signs(self) -> list[int]:
        """The sign after a crossing that counts, of each event; 0 for both."""
        return self.of_each(lambda event: event.sign)

    @property
    def ending_signs(self) -> list[float]:
        """The signs of terminal booleans that end the solve at its start; NaN of other events."""
        return self.of_each(lambda e: e.sign if e.logical and e.terminal == 1 else float("nan"))

    def ending_event(self, t: Array, y: Array) -> Array:
        """The place of the event that ended the solve at its start `(t, y)`.

        Of several that may have, the first is taken, and `AtRest` last.
        """
        values = self.values_at(t, y, jnp.zeros_like(t))
        ends = values == jnp.asarray(self.ending_signs, values.dtype)
        rest = jnp.asarray(self.of_each(lambda event: event.of_rest))
        return jnp.argmax(jnp.where(ends, 2 - rest, 0)).astype(jnp.int32)

    def stop_time(self, t: Array, t1: Array) -> Array:
        """The time at which steps from `t` have to end: the next discontinuity, or `t1`."""
        if self.jumps is None:
            return t1
        return next_discontinuity(self.jumps.times, t, t1, jnp.sign(t1 - t))

    def reinitialise(
        self,
        s: IntegratorState,
        t1: Array,
        size: Array | None = None,
        at_discontinuity: Array | bool = True,
    ) -> IntegratorState:
        """Restart solver and controller at the trajectory's time and state.

        The next step has `size`, if it is given and the time is not `at_discontinuity`; else its
        size is chosen as that of a first step.
        """
        method, stop_time = self.method, self.stop_time(s.t, t1)
        field = self.field if self.jumps is None else one_sided_field(self.field, s.t, stop_time)
        solver_state = method.stepper.init(field, s.t, s.y)
        if size is None or at_discontinuity is not False:
            slope = method.solver.slope(solver_state)
            chosen = first_size(method, field, s.t, stop_time, s.y, slope)
            size = chosen if size is None else jnp.where(at_discontinuity, chosen, size)
        h, controller_state = method.controller.init(lax.stop_gradient(size))
        s = s._replace(
            solver_state=solver_state,
            h=h,
            controller_state=controller_state,
            event_state=s.event_state._replace(stop_time=stop_time),
        )
        return start_neighbour(method, field, s, t1)

    def signs(
        self, t: Array, y: Array, direction: Array, h: Array, largest_zero: Array | None = None
    ) -> Array:
        """The signs of the conditions just after `(t, y)`; of a zero, the sign of its derivative.

        `direction` is 1 forwards in time and -1 backwards, `h` the size of a step there.
        `largest_zero` has the values up to which each condition counts as zero; without it, only an
        exact zero does.
        """
        slope, one = self.field(t, y), jnp.ones_like(t)
        pairs = [jax.jvp(c, (t, y), (one, slope)) for c in self.conditions(h)]
        values, rates = map(jnp.concatenate, zip(*pairs, strict=True))
        small = 0.0 if largest_zero is None else largest_zero
        signs = jnp.where(jnp.abs(values) <= small, direction * jnp.sign(rates), jnp.sign(values))
        return lax.stop_gradient(signs.astype(self.packing.number_dtype))

    def largest_zero(self, event: EventOccurrence, is_event: Array, h: Array, size: Array) -> Array:
        """The values up to which each condition counts as zero just after an event.

        These are roundings of its `size` in the step that ended there. The condition of the event
        itself is zero at the root, however many roundings the dense output left of it.
        """
        at_root = jnp.abs(self.values_at(event.t, event.y, h))
        rounding = jnp.finfo(at_root.dtype).eps * size
        is_root = is_event & (at_root <= _NO_ROOT * rounding)
        zero = jnp.maximum(ROUNDINGS * rounding, jnp.where(is_root, 2 * at_root, 0))
        return lax.stop_gradient(zero)

    def brackets(
        self, step: StepRecord, signs: Array, theta: Array, size: Array, met: Array
    ) -> RootBrackets:
        """Bracket the zero crossings of the conditions after the fraction `theta` of the step.

        `size`: a known lower bound of the conditions' size in the step. `met`: those that occurred
        in it before `theta`.
        """
        step, theta, size = lax.stop_gradient((step, theta, size))
        return bracket_roots(
            lambda x: self.values(step, x), self.counted_signs, signs, theta, size, met
        )

    def first_event(
        self,
        step: StepRecord,
        signs: Array,
        brackets: RootBrackets,
        met: Array,
        occurrences: Any,
    ) -> tuple[Crossing, EventOccurrence, Any]:
        """Find the first bracketed event; also returns how often each has occurred by then.

        `signs`, `met` and `occurrences`: those at the start of the search.
        """
        truncates_step = self.of_each(lambda event: event.may_truncate)
        frozen = lax.stop_gradient(step)

        def values_at_own_theta(theta: Array) -> Array:
            return lax.optimization_barrier(self.own_values(frozen, theta))

        values = lambda theta: self.values(frozen, theta)  # noqa: E731
        crossing = first_crossing(values, values_at_own_theta, truncates_step, signs, brackets, met)
        event = self.event_at(crossing.theta, crossing.index, step)
        occurrences, effect = self.effect_of(crossing.index, occurrences)
        return crossing, event._replace(effect=effect), occurrences

    def effect_of(self, index: Array, occurrences: Any) -> tuple[Any, Array]:
        """The effect of event `index`, and how often each has occurred then and not before."""
        is_event = jnp.arange(self.num_events, dtype=jnp.int32) == index
        number: Any = 1
        if not isinstance(occurrences, tuple):
            occurrences = number = occurrences + is_event
        last = jnp.asarray(self.of_each(lambda event: event.terminal))
        cuts = _pick(is_event, self.of_each(lambda event: event.apply is not None))
        effect = jnp.where(
            jnp.any(is_event & (last == number)), ENDS, jnp.where(cuts, CUTS, RECORDED)
        )
        return occurrences, effect.astype(jnp.int32)

    def event_at(self, theta: Array, index: Array, step: StepRecord) -> EventOccurrence:
        """Make the event at a known root `theta` of condition `index`, differentiable as a root.

        Its effect is left out.
        """
        is_event = jnp.arange(self.num_events, dtype=jnp.int32) == index
        logical = _pick(is_event, self.of_each(lambda event: event.logical))

        def condition(theta: Array) -> Array:
            return jnp.sum(jnp.where(is_event, self.values(step, theta), 0))

        theta = lax.stop_gradient(theta)
        value, far = lax.stop_gradient(condition(theta)), _NO_ROOT * jnp.finfo(theta.dtype).eps

        def divide_by_rate(linear: Callable[[Array], Array], b: Array) -> Array:
            rate = linear(jnp.ones_like(b))
            # An event where the condition only touches zero, or where a state map took it across
            # zero, has a constant theta.
            constant = logical | (rate == 0) | (jnp.abs(value) > far * jnp.abs(rate))
            return jnp.where(constant, 0, b / jnp.where(constant, 1, rate))

        theta, _ = root_of(condition, theta, lambda: (theta, None), divide_by_rate)
        t, y = state_in_step(step, self.interpolate, theta)
        return EventOccurrence(t, y, index, jnp.zeros_like(index))

    def apply_event(self, event: EventOccurrence) -> Array:
        """Apply the event's state map to the state before it."""
        after, first = event.y, 0
        for compiled in self.events:
            entry = event.index - first
            if compiled.apply is not None:
                inside = jnp.clip(entry, 0, compiled.count - 1)
                inputs = compiled.apply, event.t, event.y, self.args, self.packing, inside
                is_own = entry == inside
                after = jnp.where(is_own, packed_apply(*inputs), after)
            first += compiled.count
        return after

    def apply_jumps(
        self, t: Array, y: Array, start: Array, at_discontinuity: Array
    ) -> tuple[Array, Array]:
        """Time and state after all jumps at `t`, if it is `at_discontinuity`.

        `start`: that of the step which ends there. It is not differentiable backwards.
        """
        if self.jumps is None or self.jumps.apply is None:
            return t, y
        number = jnp.where(at_discontinuity, self.jumps.count(t), 0)
        return self.jumps.first(number, (t, y), one_sided_field(self.field, start, t))

    def restart_after_event(
        self,
        s: IntegratorState,
        step: StepRecord,
        event: EventOccurrence,
        size: Array,
        at_discontinuity: Array,
        t1: Array,
    ) -> IntegratorState:
        """Apply the event or jump that ended the step, and restart the integrator after it.

        Other events keep their signs, so that a condition that the state map moved across zero in a
        direction that counts occurs next. `size` is the size of the conditions in the step.
        """
        y = self.apply_event(event)
        t, y = self.apply_jumps(event.t, y, step.t, at_discontinuity)
        event_state, status = s.event_state, s.status
        if self.events:
            is_event = jnp.arange(self.num_events, dtype=jnp.int32) == event.index
            zero = self.largest_zero(event, is_event, step.h, size)
            signs = self.signs(t, y, jnp.sign(step.h), jnp.abs(step.h), zero)
            # With its former sign, the crossing back of what moved the other way could be missed.
            counted = jnp.asarray(self.counted_signs, signs.dtype)
            back = (signs * event_state.signs < 0) & (counted == -signs)
            signs = jnp.where(is_event | back, signs, event_state.signs)
            no_advance = jnp.abs(t - step.t) <= 4 * jnp.finfo(t.dtype).eps * jnp.abs(step.t)
            stalled = jnp.where(event.truncates_step & no_advance, event_state.stalled + 1, 0)
            event_state = event_state._replace(signs=signs, stalled=stalled)
            accumulated = stalled > _MAX_STALLED + self.num_events
            status = jnp.where(accumulated, jnp.int32(Status.EVENTS_ACCUMULATE), status)
            status = jnp.where(event.effect == ENDS, jnp.int32(Status.TERMINATED), status)
        next_size = self.size_after_event(s.h, step, t)
        choose_size = at_discontinuity if self.jumps is not None else False
        first = first_evaluations(self.method)
        if next_size is not None:
            without_choice = self.method.solver.evaluations.init
            first = jnp.where(choose_size, first, without_choice)
        s = s._replace(
            t=t, t_low=jnp.zeros_like(s.t_low), y=y, event_state=event_state, status=status,
            extra_evaluations=s.extra_evaluations + first + bool(self.events),
        )  # fmt: skip
        return self.reinitialise(s, t1, next_size, choose_size)

    def size_after_event(self, proposed: Array, step: StepRecord, t: Array) -> Array | None:
        """The size of the step after an event at `t`; None to choose it as that of a first step.

        It is the proposed size, limited to a multiple of the distance from the step's start to the
        event: otherwise the steps of a ball that bounces ever faster would pass ever more bounces.
        Multistep methods restart at order one, for which the proposed size is too large.
        """
        if not (self.events and self.method.solver.stateless):
            return None
        distance = jnp.abs(t - step.t)
        limit = jnp.maximum(_MAX_GROWTH * distance, _MIN_FRACTION * jnp.abs(step.h))
        return jnp.minimum(proposed, limit)

    def event_status(self, s: IntegratorState) -> Array:
        """The status after a step: a failure for NaN conditions or too many events."""
        event_state, status = s.event_state, s.status
        successful = (status == Status.SUCCESS) | (status == Status.TERMINATED)
        not_finite = successful & jnp.any(jnp.isnan(event_state.signs))
        if self.stops_looking:
            not_finite = not_finite & (event_state.count < self.max_events)
        too_many = successful & (event_state.count > self.max_events)
        status = jnp.where(too_many, jnp.int32(Status.TOO_MANY_EVENTS), status)
        return jnp.where(not_finite, jnp.int32(Status.EVENT_NOT_FINITE), status)

    def conditions(self, h: Array) -> list[Callable[[Array, Array], Array]]:
        """The conditions on packed states, vectors of their entries, beside a step of size `h`."""
        return conditions_of(self.events, self.args, self.packing, jnp.abs(h))

    def values(self, step: StepRecord, theta: Array) -> Array:
        """Evaluate all conditions at the fraction `theta` of a step."""
        # Without a barrier, XLA recomputes each of them at every use.
        t, y = lax.optimization_barrier(state_in_step(step, self.interpolate, theta))
        return lax.optimization_barrier(self.values_at(t, y, step.h))

    def values_at(self, t: Array, y: Array, h: Array) -> Array:
        """Evaluate all conditions at `(t, y)`, beside a step of size `h`."""
        return jnp.concatenate([condition(t, y) for condition in self.conditions(h)])

    def own_values(self, step: StepRecord, theta: Array) -> Array:
        """Evaluate each condition at its own entry of `theta`, a vector of fractions of a step."""
        parts, first = [], 0
        for event, condition in zip(self.events, self.conditions(step.h), strict=True):

            def at(theta: Array, condition: Callable = condition) -> Array:
                return condition(*state_in_step(step, self.interpolate, theta))

            own, first = theta[first : first + event.count], first + event.count
            # Of a vector each entry at its own fraction.
            parts.append(at(own[0]) if event.count == 1 else jnp.diagonal(jax.vmap(at)(own)))
        return jnp.concatenate(parts)

    @property
    def interpolate(self) -> Callable[..., Array]:
        """The solver's dense output."""
        return self.method.solver.interpolate


def state_in_step(step: StepRecord, interpolate: Callable, theta: Array) -> tuple[Array, Array]:
    """Time and state at the fraction `theta` of a step; at 1, bit for bit those of its end."""
    t, y = step.t + theta * step.h, interpolate(theta, step.y, step.h, step.dense)
    end = theta == 1
    return with_derivative_of(jnp.where(end, step.t1, t), t), with_derivative_of(
        jnp.where(end, step.y1, y), y
    )


def _pick(selected: Array, flags: list[bool]) -> Array:
    """The flag at the selected place; False if none is selected."""
    return jnp.any(selected & jnp.asarray(flags))
