"""The events and jumps of one trajectory: what is found in a step, and how it goes on after it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...problem.closure import ClosedFunction
from ...problem.state import Packing
from ...problem.status import Status
from ..save import StepRecord, with_derivative_of
from ..step import Field, IntegratorState, Method, first_evaluations, first_size
from .discontinuities import next_discontinuity, one_sided_field
from .event import CompiledEvent, conditions_of, packed_apply
from .root_finding import ROUNDINGS, Crossing, RootBrackets, bracket_roots, first_crossing

# Events in a row at one time, besides one of each: more will not end.
_AT_ONCE = 20
# A step after an event is at most so many times what the step before it had gone, and at least such
# a share of its size.
_LONGER, _SHORTER = 2.0, 1e-3
# A condition that would be zero so many roundings of the step away from a place has no root there.
_NO_ROOT = 1e5


class EventState(NamedTuple):
    """What a trajectory remembers of its events and jumps.

    - `signs`: of the conditions just behind it. `count`: the events that it has met. `stalled`: how
      many of them in a row did not move it. `stop`: the next time that a step has to end on.
    """

    signs: Array
    count: Array
    stalled: Array
    stop: Array


class EventOccurrence(NamedTuple):
    """An event: when, the state before it, which one, and whether its step ends there."""

    t: Array
    y: Array
    which: Array
    cut: Array


class EventHandler(eqx.Module):
    """The events and jumps of one problem; `rows` is the room for events in the log."""

    events: tuple[CompiledEvent, ...]
    jumps: Array | None
    jump_map: ClosedFunction | None
    args: Any
    packing: Packing = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    method: Method
    field: Field

    def initialise(self, s: IntegratorState, t1: Array) -> IntegratorState:
        """A trajectory that begins, its steps aimed at the first jump."""
        # What is to end the solve where it is true, does so where it is true from the start.
        due = [e.sign if e.logical and e.terminal else 0 for e in self.events]
        signs = self.signs(s.t, s.y, jnp.sign(t1 - s.t))
        signs = jnp.where(jnp.asarray(due) == 0, signs, -jnp.asarray(due, s.t.dtype))
        zero = jnp.zeros((), jnp.int32)
        s = s._replace(event_state=EventState(signs, zero, zero, self.stop(s.t, t1)))
        if self.jumps is not None:
            s = self.reinitialise(s, t1)
        return s._replace(status=self.status(s))

    def stop(self, t: Array, t1: Array) -> Array:
        """The time that steps from `t` have to end on."""
        return t1 if self.jumps is None else next_discontinuity(self.jumps, t, t1, jnp.sign(t1 - t))

    def reinitialise(
        self,
        s: IntegratorState,
        t1: Array,
        kept: Array | None = None,
        at_discontinuity: Array | bool = True,
    ) -> IntegratorState:
        """The trajectory with nothing that it knew of the field.

        Its next step is chosen anew where it has `at_discontinuity` on a jump, else that which is `kept`.
        """
        method, stop = self.method, self.stop(s.t, t1)
        field = self.field if self.jumps is None else one_sided_field(self.field, s.t, stop)
        carry = method.stepper.init(field, s.t, s.y)
        if kept is None or at_discontinuity is not False:
            size = first_size(method, field, s.t, stop, s.y, method.solver.slope(carry))
            kept = size if kept is None else jnp.where(at_discontinuity, size, kept)
        h, memory = method.controller.init(lax.stop_gradient(kept))
        sights = s.event_state._replace(stop=stop)
        return s._replace(solver_state=carry, h=h, memory=memory, event_state=sights)

    def signs(self, t: Array, y: Array, direction: Array, size: Array | None = None) -> Array:
        """Those of the conditions just behind `(t, y)`: of their slopes where they are zero.

        `direction` is 1 forwards in time and -1 backwards. `size` is how large they were before;
        without it, zero is zero to the bit.
        """
        if not self.events:
            return jnp.zeros((0,), t.dtype)
        slope, one = self.field(t, y), jnp.ones_like(t)

        def sign(i: int, condition: Callable) -> Array:
            value, rate = jax.jvp(condition, (t, y), (one, slope))
            small = 0.0 if size is None else ROUNDINGS * jnp.finfo(t.dtype).eps * size[i]
            return jnp.where(jnp.abs(value) <= small, direction * jnp.sign(rate), jnp.sign(value))

        signs = [sign(i, c) for i, c in enumerate(self.conditions)]
        return lax.stop_gradient(jnp.stack(signs).astype(t.dtype))

    def brackets(self, step: StepRecord, signs: Array, theta: Array, size: Array) -> RootBrackets:
        """Where the conditions cross zero behind the fraction `theta` of the step.

        `size`: how large they are known to be in it.
        """
        step, theta, size = lax.stop_gradient((step, theta, size))
        counted = [event.sign for event in self.events]
        return bracket_roots(lambda x: self.values(step, x), counted, signs, theta, size)

    def first(
        self, step: StepRecord, signs: Array, crossings: RootBrackets
    ) -> tuple[Crossing, EventOccurrence]:
        """The first of them, as an event; `signs` are those where they were looked for."""
        cuts, frozen = [event.truncates_step for event in self.events], lax.stop_gradient(step)

        def each(theta: Array) -> Array:
            places = [state_in_step(frozen, self.interpolate, x) for x in theta]
            pairs = zip(self.conditions, places, strict=True)
            return lax.optimization_barrier(jnp.stack([c(*place) for c, place in pairs]))

        values = lambda theta: self.values(frozen, theta)  # noqa: E731
        crossing = first_crossing(values, each, cuts, signs, crossings)
        return crossing, self.found(crossing.theta, crossing.which, step)

    def found(self, theta: Array, which: Array, step: StepRecord) -> EventOccurrence:
        """The event at a known fraction of a step, with the derivatives of a root."""
        own = jnp.arange(len(self.events)) == which
        logical = _pick(own, [event.logical for event in self.events])

        def value(theta: Array) -> Array:
            return jnp.sum(jnp.where(own, self.values(step, theta), 0))

        theta = lax.stop_gradient(theta)
        now, far = lax.stop_gradient(value(theta)), _NO_ROOT * jnp.finfo(theta.dtype).eps

        def over(linear: Callable[[Array], Array], b: Array) -> Array:
            rate = linear(jnp.ones_like(b))
            # What only touches zero, or was taken across it by a jump, is met at a constant place.
            flat = logical | (rate == 0) | (jnp.abs(now) > far * jnp.abs(rate))
            return jnp.where(flat, 0, b / jnp.where(flat, 1, rate))

        theta = lax.custom_root(value, theta, lambda _, root: root, over)
        t, y = state_in_step(step, self.interpolate, theta)
        return EventOccurrence(
            t, y, which, _pick(own, [event.truncates_step for event in self.events])
        )

    def apply_event(self, found: EventOccurrence) -> Array:
        """The state after the jump."""
        after = found.y
        for i, event in enumerate(self.events):
            if event.apply is not None:
                new = packed_apply(event.apply, found.t, found.y, self.args, self.packing)
                after = jnp.where(found.which == i, new, after)
        return after

    def apply_jump(self, t: Array, y: Array, at_discontinuity: Array) -> Array:
        """The state after a jump in time, if it is one."""
        if self.jump_map is None:
            return y
        return jnp.where(
            at_discontinuity, packed_apply(self.jump_map, t, y, self.args, self.packing), y
        )

    def restart_after_event(
        self,
        s: IntegratorState,
        step: StepRecord,
        found: EventOccurrence,
        size: Array,
        at_discontinuity: Array,
        t1: Array,
    ) -> IntegratorState:
        """The trajectory behind an event or a jump that ended its step.

        The signs of other events stay: what the jump has moved across zero is met next. `size`: how
        large the conditions were in the step.
        """
        t, y = found.t, self.apply_jump(found.t, self.apply_event(found), at_discontinuity)
        sights, status = s.event_state, s.status
        if self.events:
            own = jnp.arange(len(self.events)) == found.which
            signs = jnp.where(own, self.signs(t, y, jnp.sign(step.h), size), sights.signs)
            still = jnp.abs(t - step.t) <= 4 * jnp.finfo(t.dtype).eps * jnp.abs(step.t)
            stalled = jnp.where(found.cut & still, sights.stalled + 1, 0)
            sights = sights._replace(signs=signs, stalled=stalled)
            many = stalled > _AT_ONCE + len(self.events)
            status = jnp.where(many, jnp.int32(Status.EVENTS_ACCUMULATE), status)
            over = _pick(own, [event.terminal for event in self.events])
            status = jnp.where(over, jnp.int32(Status.TERMINATED), status)
        kept, anew = self.kept(s.h, step, t), at_discontinuity if self.jumps is not None else False
        first = first_evaluations(self.method)
        if kept is not None:
            first = jnp.where(anew, first, self.method.solver.evaluations.init)
        s = s._replace(
            t=t, t_low=jnp.zeros_like(s.t_low), y=y, event_state=sights, status=status,
            extra_evaluations=s.extra_evaluations + first + bool(self.events),
        )  # fmt: skip
        return self.reinitialise(s, t1, kept, anew)

    def kept(self, proposed: Array, step: StepRecord, t: Array) -> Array | None:
        """The size of the step after an event at `t`; None to have it chosen anew.

        That which was proposed, but no more than some times what was gone since the step began: a
        ball that bounces ever faster would else fall ever deeper in each step. A history of steps
        begins at order one, for which that is too long.
        """
        if not (self.events and self.method.solver.stateless):
            return None
        gone = jnp.abs(t - step.t)
        return jnp.minimum(proposed, jnp.maximum(_LONGER * gone, _SHORTER * jnp.abs(step.h)))

    def status(self, s: IntegratorState) -> Array:
        """Its status, given what the conditions came to and how many events there were."""
        sights, status = s.event_state, s.status
        good = (status == Status.SUCCESS) | (status == Status.TERMINATED)
        full = good & (sights.count > self.rows)
        status = jnp.where(full, jnp.int32(Status.TOO_MANY_EVENTS), status)
        unknown = good & jnp.any(jnp.isnan(sights.signs))
        return jnp.where(unknown, jnp.int32(Status.EVENT_NOT_FINITE), status)

    @property
    def conditions(self) -> list[Callable[[Array, Array], Array]]:
        """Those of the events, on packed states."""
        return conditions_of(self.events, self.args, self.packing)

    def values(self, step: StepRecord, theta: Array) -> Array:
        """All conditions at the fraction `theta` of a step."""
        # Each is read in many places, and computed in each without a barrier.
        t, y = lax.optimization_barrier(state_in_step(step, self.interpolate, theta))
        return lax.optimization_barrier(jnp.stack([c(t, y) for c in self.conditions]))

    @property
    def interpolate(self) -> Callable[..., Array]:
        """The solver's dense output."""
        return self.method.solver.interpolate


def state_in_step(step: StepRecord, interpolate: Callable, theta: Array) -> tuple[Array, Array]:
    """Time and state at the fraction `theta` of a step; of all of it, to the bit."""
    t, y = step.t + theta * step.h, interpolate(theta, step.y, step.h, step.dense)
    end = theta == 1
    return with_derivative_of(jnp.where(end, step.t1, t), t), with_derivative_of(
        jnp.where(end, step.y1, y), y
    )


def _pick(own: Array, flags: list[bool]) -> Array:
    """The flag that `own` marks; False where it marks none."""
    return jnp.any(own & jnp.asarray(flags))
