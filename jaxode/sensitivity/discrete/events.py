"""Pull-back over the events and jumps that ended steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.events.detection import ENDS, RECORDED
from ...integrate.events.discontinuities import ends_on
from ...integrate.events.handling import EventLog
from ...integrate.events.state_jumps import Clock
from ...integrate.forward import Result
from ...integrate.ivp import IVP
from ...integrate.step import select
from ...integrate.xla_loops import cond_as_loop
from .cotangents import BackwardState, ReplayedStep, StepClock, StepCotangents, StepParts
from .event_vjp import (
    PostEventState,
    end_of_step,
    located_event,
    num_jumps,
    restarted,
    state_after_event,
    state_after_jump,
    state_after_jumps,
)
from .layout import StepLayout, tree_add, tree_zeros


class EventTotals(NamedTuple):
    """Sums over the events of a step: cotangents of the layout's `diff`, and of the step."""

    diff: PyTree
    step: StepCotangents


class StepEnd(NamedTuple):
    """How steps ended: on a jump, cut by an event, and both; `row`: the last event, if any.

    `stop`: the time at which they had to end.
    """

    cut: Array
    landed: Array
    stop: Array
    row: EventLog | None


class EventVJP(eqx.Module):
    """Pulls cotangents back over events and jumps; `log` holds the events, if there are any."""

    log: EventLog | None
    cotangents: Result

    @property
    def num_events(self) -> Any:
        """The number of events in the log, of one trajectory or of each; `()` without events."""
        return () if self.log is None else jnp.minimum(self.log.count, self.log.ts.shape[-1])

    def pull_back(
        self,
        layout: StepLayout,
        back: BackwardState,
        step: ReplayedStep,
        ct_after: PostEventState,
        ct_step: StepCotangents,
    ) -> tuple[BackwardState, PostEventState, StepCotangents]:
        """The cotangents of the step's end and of the step, from those of what came after it.

        `ct_after`: of what the next step began with. It is returned as it is where no event or
        jump ended the step, and as zeros where one did. `ct_step`: of what was saved of the step.
        """
        end = self.step_end(layout, back.events_left, step)
        (ct_y, ct_y1, ct_dense), clock = ct_step
        ct_cut = jnp.zeros_like(ct_y1)
        if layout.config.save == "steps":
            # The state saved at a step's end is the one on one side of what ended it.
            after = end.landed if layout.config.saves_after_jumps else jnp.zeros_like(end.cut)
            ct_after = ct_after._replace(y=ct_after.y + jnp.where(after, ct_y1, 0))
            ct_cut = jnp.where(end.cut & ~after, ct_y1, 0)
            ct_y1 = jnp.where(end.cut | after, 0, ct_y1)
        totals = EventTotals(back.diff, StepCotangents((ct_y, ct_y1, ct_dense), clock))
        ended = end.cut | end.landed
        goes_on, ct_t = ended & ~step.is_dead_end, jnp.zeros_like(step.t)
        if layout.with_times:
            # Nothing came after a dead end, but its time may have been saved.
            dead = ended & step.is_dead_end
            ct_t = jnp.where(dead, ct_after.t, 0)
            ct_after = ct_after._replace(t=jnp.where(dead, 0, ct_after.t))
        start = ct_after, (ct_t, jnp.zeros_like(step.y1)), totals

        def over_restart(state: tuple) -> tuple:
            return self.over_restart(layout, step, end, goes_on, *state)

        ct_after, (ct_t, ct_end), totals = cond_as_loop(jnp.any(goes_on), over_restart, start)
        landed = end.landed & ~end.cut
        if layout.ensemble.has_jumps:
            totals = self.onto_jump(layout, step, landed, (ct_t, ct_end), totals)
        events_left = back.events_left
        if self.log is not None:
            ct_event = jnp.where(end.cut, ct_t, 0), jnp.where(end.cut, ct_end, 0) + ct_cut
            events_left, totals = self.over_events(layout, events_left, step, ct_event, totals)
        return back._replace(diff=totals.diff, events_left=events_left), ct_after, totals.step

    def step_end(self, layout: StepLayout, events_left: Any, step: ReplayedStep) -> StepEnd:
        """How the step of each trajectory ended."""
        t = layout.next_discontinuity(layout.diff, step.t)
        none = jnp.zeros_like(step.last)
        if self.log is None:
            return StepEnd(none, self.stretched(layout, step.t, step.h)[0], t, None)
        row = self.row(layout, jnp.maximum(events_left - 1, 0))
        cut = (row.steps == step.index) & (row.effect != RECORDED)
        cut = layout.active_and((events_left > 0) & cut)
        if not layout.ensemble.has_jumps:
            return StepEnd(cut, none, t, row)
        landed = jnp.where(cut, row.ts == t, ends_on(step.t, step.h, t))
        landed = layout.active_and(landed & (t != layout.saved_time(-1)))
        return StepEnd(cut, landed, t, row)

    def begins_again(self, layout: StepLayout, step: ReplayedStep) -> Array | None:
        """Whether an event ended the step before at the very time at which both steps begin.

        None where nothing asks for it.
        """
        if self.log is None or not layout.config.saves_after_jumps:
            return None
        log = self.log._replace(ys=(), count=())
        if layout.tile is not None:
            log = jax.tree.map(lambda x: x[layout.number].T, log)  # rows first, lanes last
        cut = (log.effect != RECORDED) & log.late
        return jnp.any(cut & (log.steps == step.index - 1) & (log.ts == step.t), axis=0)

    def over_restart(
        self,
        layout: StepLayout,
        step: ReplayedStep,
        end: StepEnd,
        goes_on: Array,
        ct_after: PostEventState,
        ct_end: Clock,
        totals: EventTotals,
    ) -> tuple[PostEventState, Clock, EventTotals]:
        """Cotangents of time and state at the steps' ends, from those of the next steps' starts.

        Of the steps that `goes_on` marks, which an event or a jump ended; in between are the state
        maps and the restart of the solver.
        """
        through, rest = _split(goes_on, ct_after)
        filled, (parts, (t_step, h), end) = layout.fill(goes_on, (step.parts, step.clock, end))
        t, y = filled.each(end_of_step, filled.diff, parts, (t_step, h), end.row, end.cut)
        mapped, number = y, jnp.where(end.landed, filled.each(num_jumps, filled.diff, t), 0)
        if end.row is not None:
            applied = filled.each(state_after_event, filled.diff, t, y, end.row.index)
            mapped = jnp.where(end.cut, applied, y)
        jumped = filled.each(state_after_jumps, filled.diff, t, mapped, t_step, number)

        def restart(diff: PyTree, t: Array, y: Array) -> PostEventState:
            def of_trajectory(problem: IVP, config: Any, t: Array, y: Array) -> PostEventState:
                return restarted(problem, config, t, y, layout.with_times)

            return filled.each(of_trajectory, diff, t, y)

        _, pull = jax.vjp(restart, filled.diff, *jumped)
        ct_diff, *ct = pull(through)
        totals = totals._replace(diff=tree_add(totals.diff, ct_diff))
        state = (ct[0], ct[1]), totals
        if layout.problem.jump_map is not None:
            state = _over_jumps(filled, (t, mapped), t_step, number, state)
        if end.row is not None:
            state = _over_event_map(filled, end.row.index, end.cut & goes_on, (t, y), state)
        ct, totals = state
        return (
            rest,
            (ct_end[0] + jnp.where(goes_on, ct[0], 0), jnp.where(goes_on, ct[1], 0)),
            totals,
        )

    def onto_jump(
        self, layout: StepLayout, step: ReplayedStep, landed: Array, ct: Clock, totals: EventTotals
    ) -> EventTotals:
        """The totals, with the cotangents of time and state at the ends of steps that `landed`."""
        (ct_y, ct_y1, ct_dense), clock = totals.step
        ct_t, ct_end = (jnp.where(landed, x, 0) for x in ct)
        diff = tree_add(totals.diff, self.of_discontinuity(layout, ct_t, step.t))
        return EventTotals(diff, StepCotangents((ct_y, ct_y1 + ct_end, ct_dense), clock))

    def over_events(
        self,
        layout: StepLayout,
        events_left: Array,
        step: ReplayedStep,
        ct_cut: Clock,
        totals: EventTotals,
    ) -> tuple[Array, EventTotals]:
        """The totals before the events of a step, the last event first.

        `ct_cut`: cotangents of time and state of the events that cut steps, which are the last.
        """
        log = self.log
        assert log is not None

        def in_step(events_left: Array) -> Array:
            steps = layout.row(log.steps, jnp.maximum(events_left - 1, 0))
            return layout.active_and((events_left > 0) & (steps == step.index))

        def over_event(state: tuple) -> tuple:
            mask, events_left, (ct_t, ct_y), totals = state
            place = jnp.maximum(events_left - 1, 0)
            logged_t, logged_y = self.logged(layout, mask, place)
            filled, (row, *args) = layout.fill(
                mask, (self.row(layout, place), step.parts, step.clock)
            )

            def event(diff: PyTree, parts: StepParts, clock: StepClock) -> Clock:
                return filled.each(located_event, diff, parts, clock, row)

            _, pull = jax.vjp(event, filled.diff, *args)
            diff, *ct_step = pull(
                (logged_t + jnp.where(mask, ct_t, 0), logged_y + jnp.where(mask, ct_y, 0))
            )
            totals = tree_add(totals, EventTotals(diff, StepCotangents(*ct_step)))
            rest = jnp.where(mask, 0, ct_t), jnp.where(mask, 0, ct_y)
            events_left = jnp.where(mask, events_left - 1, events_left)
            return in_step(events_left), events_left, rest, totals

        start = in_step(events_left), events_left, ct_cut, totals
        _, events_left, _, totals = lax.while_loop(lambda s: jnp.any(s[0]), over_event, start)
        return events_left, totals

    def row(self, layout: StepLayout, place: Array) -> EventLog:
        """The row of the log number `place`, of each trajectory; without the states."""
        assert self.log is not None
        rows = self.log._replace(ys=(), count=())
        return jax.tree.map(lambda x: layout.row(x, place), rows)

    def logged(self, layout: StepLayout, mask: Array, place: Array) -> tuple[Array, Array]:
        """Cotangents of time and state in the row of the log number `place`."""
        ct, log = self.cotangents.log, self.log
        assert log is not None

        def of_array(ct: Array | None, array: Array) -> Array:
            like = array if ct is None else ct
            row = layout.row(like, place)
            return jnp.zeros_like(row) if ct is None else jnp.where(mask, row, 0)

        return of_array(ct and ct.ts, log.ts), of_array(ct and ct.ys, log.ys)

    # Times.

    def stretched(self, layout: StepLayout, t: Array, h: Array) -> tuple[Array, Array]:
        """True if a step from `t` was stretched to land on a jump, and whether on the last time."""
        stop = layout.next_discontinuity(layout.diff, t)
        landed = layout.active_and(ends_on(t, h, stop))
        last = layout.saved_time(-1)
        return landed & (stop != last), landed & (stop == last)

    def reaches_end(self, layout: StepLayout) -> Array | bool:
        """True if the solve came to its last time, and was not ended by an event."""
        if self.log is None:
            return True
        effect = self.log.effect if layout.tile is None else self.log.effect[layout.number]
        return ~jnp.any(effect == ENDS, axis=-1)

    def of_discontinuity(self, layout: StepLayout, ct: Array, t: Array) -> PyTree:
        """Cotangents of `diff`, from that of the jump on which a step from `t` ended."""
        _, pull = jax.vjp(lambda diff: layout.next_discontinuity(diff, t), layout.diff)
        return pull(ct)[0]


def _split(mask: Array, ct: PostEventState) -> tuple[PostEventState, PostEventState]:
    """The cotangents where `mask` holds, and the others; zeros elsewhere."""
    zeros = tree_zeros(ct)
    return select(mask, ct, zeros), select(mask, zeros, ct)


def _over_jumps(
    layout: StepLayout,
    start: Clock,
    t_step: Array,
    number: Array,
    state: tuple[Clock, EventTotals],
) -> tuple[Clock, EventTotals]:
    """Cotangents of time and state before `number` jumps at one time, from those after them."""

    def over_last(carry: tuple) -> tuple:
        number, (ct, totals) = carry
        mask = number > 0
        filled, (before, t, n) = layout.fill(mask, (start, t_step, number - 1))
        clock = filled.each(state_after_jumps, filled.diff, *before, t, n)

        def after_jump(diff: PyTree, *clock: Array) -> Clock:
            return filled.each(state_after_jump, diff, *clock, t, before[0], n)

        _, pull = jax.vjp(after_jump, filled.diff, *clock)
        diff, *ct_before = pull(select(mask, ct, tree_zeros(ct)))
        totals = totals._replace(diff=tree_add(totals.diff, diff))
        return jnp.where(mask, n, number), (select(mask, tuple(ct_before), ct), totals)

    return lax.while_loop(lambda c: jnp.any(c[0] > 0), over_last, (number, state))[1]


def _over_event_map(
    layout: StepLayout, index: Array, mask: Array, clock: Clock, state: tuple[Clock, EventTotals]
) -> tuple[Clock, EventTotals]:
    """Cotangents of time and state before the state map of events, of those in `mask`."""

    def over_map(state: tuple[Clock, EventTotals]) -> tuple[Clock, EventTotals]:
        ct, totals = state
        filled, (clock_, index_) = layout.fill(mask, (clock, index))

        def after_event(diff: PyTree, t: Array, y: Array) -> Clock:
            return t, filled.each(state_after_event, diff, t, y, index_)

        _, pull = jax.vjp(after_event, filled.diff, *clock_)
        diff, *ct_before = pull(select(mask, ct, tree_zeros(ct)))
        totals = totals._replace(diff=tree_add(totals.diff, diff))
        return select(mask, tuple(ct_before), ct), totals

    return cond_as_loop(jnp.any(mask), over_map, state)
