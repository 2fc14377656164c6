"""Pull-back over the events and jumps that ended steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.events.discontinuities import ends_on
from ...integrate.events.handling import EventLog
from ...integrate.forward import Result
from ...integrate.ivp import IVP
from ...integrate.step import select
from ...integrate.xla_loops import cond_as_loop
from .cotangents import BackwardState, ReplayedStep, StepClock, StepCotangents, StepParts
from .event_vjp import (
    PostEventState,
    event_and_state_after,
    state_after_jump,
    truncates,
)
from .layout import StepLayout, tree_add, tree_zeros


class EventTotals(NamedTuple):
    """Sums over the events of a step: cotangents of the layout's `diff`, and of the step."""

    diff: PyTree
    step: StepCotangents


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
        cut = self.cuts(layout, back.events_left, step)
        totals = EventTotals(tree_zeros(layout.diff), StepCotangents.zeros(layout, step))
        if layout.ensemble.has_jumps:
            landed = self.stretched(layout, step.t, step.h)[0] & ~cut
            ct_after, totals = self.over_jumps(layout, step, landed, (ct_after, totals))
        events_left = back.events_left
        if self.log is not None:
            # The state saved at a step's end is the one at which an event cut it.
            (ct_y, ct_y1, ct_dense), clock = ct_step
            cut = cut & (layout.config.save == "steps")
            ct_event, ct_y1 = jnp.where(cut, ct_y1, 0), jnp.where(cut, 0, ct_y1)
            ct_step = StepCotangents((ct_y, ct_y1, ct_dense), clock)
            events_left, ct_after, totals = self.over_events(
                layout, back.events_left, step, ct_event, (ct_after, totals)
            )
        diff, ct_step = tree_add(EventTotals(back.diff, ct_step), totals)
        return back._replace(diff=diff, events_left=events_left), ct_after, ct_step

    def over_jumps(
        self,
        layout: StepLayout,
        step: ReplayedStep,
        landed: Array,
        state: tuple[PostEventState, EventTotals],
    ) -> tuple[PostEventState, EventTotals]:
        """Cotangents before the jumps of those that `landed` on one, from those after them."""
        filled, (y1, t) = layout.fill(landed, (step.y1, step.t))

        def after_jump(diff: PyTree, y1: Array) -> PostEventState:
            def of_trajectory(problem: IVP, config: Any, y1: Array, t: Array) -> PostEventState:
                return state_after_jump(problem, config, y1, t, layout.with_times)

            return filled.each(of_trajectory, diff, y1, t)

        def over_jump(
            state: tuple[PostEventState, EventTotals],
        ) -> tuple[PostEventState, EventTotals]:
            ct_after, totals = state
            through, rest = _split(landed, ct_after)
            _, pull = jax.vjp(after_jump, filled.diff, y1)
            ct_diff, ct_y1 = pull(through)
            (y, _, dense), clock = totals.step
            return rest, EventTotals(ct_diff, StepCotangents((y, ct_y1, dense), clock))

        return cond_as_loop(jnp.any(landed), over_jump, state)

    def over_events(
        self,
        layout: StepLayout,
        events_left: Array,
        step: ReplayedStep,
        ct_end: Array,
        state: tuple[PostEventState, EventTotals],
    ) -> tuple[Array, PostEventState, EventTotals]:
        """Cotangents before the events of a step, from those after them, the last event first.

        `ct_end`: of the state at which an event cut the step.
        """
        log = self.log
        assert log is not None

        def in_step(events_left: Array) -> Array:
            steps = layout.row(log.steps, jnp.maximum(events_left - 1, 0))
            return layout.active_and((events_left > 0) & (steps == step.index))

        def over_event(state: tuple) -> tuple:
            mask, events_left, ct_after, totals = state
            place = jnp.maximum(events_left - 1, 0)
            event = self.row(layout, place)
            cut = mask & truncates(layout.problem, event.index)
            through, rest = _split(cut, ct_after)
            filled, (event, *args) = layout.fill(mask, (event, step.parts, step.clock))

            def event_and_after(diff: PyTree, parts: StepParts, clock: StepClock) -> Any:
                return filled.each(event_and_state_after, diff, parts, clock, event)

            _, pull = jax.vjp(event_and_after, filled.diff, *args)
            ct_t, ct_y = self.logged(layout, mask, place)
            diff, *ct_step = pull(((ct_t, ct_y + jnp.where(cut, ct_end, 0)), through))
            totals = tree_add(totals, EventTotals(diff, StepCotangents(*ct_step)))
            events_left = jnp.where(mask, events_left - 1, events_left)
            return in_step(events_left), events_left, rest, totals

        start = in_step(events_left), events_left, *state
        return lax.while_loop(lambda s: jnp.any(s[0]), over_event, start)[1:]

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

    def cuts(self, layout: StepLayout, events_left: Any, step: ReplayedStep) -> Array:
        """True if an event cut the step: the last one of those that are left."""
        if self.log is None:
            return jnp.zeros_like(step.last)
        event = self.row(layout, jnp.maximum(events_left - 1, 0))
        cut = (event.steps == step.index) & truncates(layout.problem, event.index)
        return layout.active_and((events_left > 0) & cut)

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
        index = self.log.index if layout.tile is None else self.log.index[layout.number]
        return ~jnp.any(layout.problem.terminal_events[index], axis=-1)

    def of_discontinuity(self, layout: StepLayout, ct: Array, t: Array) -> PyTree:
        """Cotangents of `diff`, from that of the jump on which a step from `t` ended."""
        _, pull = jax.vjp(lambda diff: layout.next_discontinuity(diff, t), layout.diff)
        return pull(ct)[0]


def _split(mask: Array, ct: PostEventState) -> tuple[PostEventState, PostEventState]:
    """The cotangents where `mask` holds, and the others; zeros elsewhere."""
    zeros = tree_zeros(ct)
    return select(mask, ct, zeros), select(mask, zeros, ct)
