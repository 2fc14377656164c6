"""The events and jumps of one solve on the way back over its steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.events.discontinuities import ends_on
from ...integrate.events.handling import EventLog
from ...integrate.forward import Result
from ...integrate.ivp import next_discontinuity_of
from ...integrate.xla_loops import cond_as_loop
from ...solvers.base import StepResult
from .event_vjp import Clock, Parts, PostEventState, cutting, of_event, of_jump, rows_of
from .step_vjp import StepVJP


class EventCotangents(NamedTuple):
    """Cotangents of a step, from what followed it: of the moving arrays, and its own."""

    moving: PyTree
    parts: Parts
    clock: Any


class EventVJP(eqx.Module):
    """The jumps of one solve, and the events as they were written down, if it had any."""

    part: StepVJP
    log: EventLog | None
    cotangents: Result

    @property
    def count(self) -> Any:
        """How many events there were."""
        return () if self.log is None else jnp.minimum(self.log.count, self.log.ts.shape[0])

    def event(self, moving: PyTree, parts: Parts, clock: Clock, row: EventLog) -> Any:
        """Time and state of the event, and what followed if it cut its step."""
        return of_event(self.part.with_moving(moving), self.part.config, parts, clock, row)

    def landing(self, moving: PyTree, y1: Array, t: Array) -> PostEventState:
        """What followed a step from `t` that ended on a jump."""
        problem = self.part.with_moving(moving)
        return of_jump(problem, self.part.config, y1, t, self.part.with_times)

    def truncates_step(self, n: Array) -> Array:
        """Which rows of the log hold an event that cut step `n`."""
        assert self.log is not None
        known = jnp.arange(self.log.ts.shape[0]) < self.count
        return cutting(self.part.problem, self.log.index) & (self.log.steps == n) & known

    def cut(self, n: Array) -> Array:
        """Whether an event cut step `n`."""
        return jnp.asarray(False) if self.log is None else jnp.any(self.truncates_step(n))

    def aimed(self, t: Array, h: Array) -> tuple[Array, Array]:
        """Whether a step was drawn out to a jump, or to the last time."""
        stop, last = next_discontinuity_of(self.part.problem, t), self.part.problem.ts[-1]
        aimed = ends_on(t, h, stop)
        return aimed & (stop != last), aimed & (stop == last)

    def at_discontinuity(self, n: Array, t: Array, h: Array) -> Array:
        """Whether step `n` ended on a jump."""
        return self.aimed(t, h)[0] & ~self.cut(n)

    def resumed(self, n: Array, t: Array, h: Array, y: Array, stepped: StepResult) -> Any:
        """The state and carry that step `n` was followed by."""
        moving, after = self.part.moving, (stepped.y1, stepped.solver_state)
        if self.log is not None:
            cuts = self.truncates_step(n)
            row = rows_of(self.log, jnp.argmax(cuts))

            def event(_: Any) -> Any:
                parts = y, stepped.y1, stepped.dense
                behind = self.event(moving, parts, (t, h), row)[1]
                return behind.y, behind.solver_state

            after = cond_as_loop(jnp.any(cuts), event, after)

        def landing(after: Any) -> Any:
            behind = self.landing(moving, after[0], t)
            return behind.y, behind.solver_state

        return cond_as_loop(self.at_discontinuity(n, t, h), landing, after)

    def pulled(
        self,
        saves_left: Any,
        n: Array,
        ct: PostEventState,
        ct_end: Array,
        parts: Parts,
        clock: Clock,
    ) -> tuple[Any, PostEventState, EventCotangents]:
        """Cotangents back over what ended step `n`, and its events, of which `saves_left` are left.

        From `ct`, of what the next step began with; it is handed on where nothing ended the step.
        `ct_end`: of the state where an event cut it.
        """
        moving, (t, h) = self.part.moving, clock
        zeros = jax.tree.map(jnp.zeros_like, EventCotangents(moving, parts, clock))
        if not self.part.with_times:
            zeros = zeros._replace(clock=None)

        def landing(
            state: tuple[PostEventState, EventCotangents],
        ) -> tuple[PostEventState, EventCotangents]:
            ct, totals = state
            _, pull = jax.vjp(lambda moving, y1: self.landing(moving, y1, t), moving, parts[1])
            more, ct_y1 = pull(ct)
            y, _, dense = totals.parts
            found = EventCotangents(more, (y, ct_y1, dense), totals.clock)
            return jax.tree.map(jnp.zeros_like, ct), found

        ct, totals = cond_as_loop(self.at_discontinuity(n, t, h), landing, (ct, zeros))
        if self.log is None:
            return saves_left, ct, totals
        return self.over_events(saves_left, n, (ct, totals), ct_end, parts, clock)

    def over_events(
        self,
        saves_left: Array,
        n: Array,
        found: tuple[PostEventState, EventCotangents],
        ct_end: Array,
        parts: Parts,
        clock: Clock,
    ) -> tuple[Array, PostEventState, EventCotangents]:
        """The same over the events, the last first."""
        log = self.log
        assert log is not None

        def here(state: tuple) -> Array:
            saves_left = state[0]
            return (saves_left > 0) & (log.steps[jnp.maximum(saves_left - 1, 0)] == n)

        def one(state: tuple) -> tuple:
            saves_left, ct, totals = state
            row = rows_of(log, saves_left - 1)
            _, pull = jax.vjp(
                lambda moving, parts, clock: self.event(moving, parts, clock, row),
                self.part.moving, parts, clock,
            )  # fmt: skip
            cut = cutting(self.part.problem, row.index)
            through = jax.tree.map(lambda x: jnp.where(cut, x, 0), ct)
            left = jax.tree.map(lambda x: jnp.where(cut, 0, x), ct)
            ct_t, ct_y = self.written(saves_left - 1)
            more = EventCotangents(*pull(((ct_t, ct_y + jnp.where(cut, ct_end, 0)), through)))
            return saves_left - 1, left, jax.tree.map(jnp.add, totals, more)

        return lax.while_loop(here, one, (saves_left, *found))

    def written(self, j: Array) -> tuple[Array, Array]:
        """Cotangents of time and state of event `j` in the log."""
        ct, log = self.cotangents.log, self.log
        assert log is not None
        if ct is None:
            return jnp.zeros_like(log.ts[0]), jnp.zeros_like(log.ys[0])
        ts = jnp.zeros_like(log.ts[0]) if ct.ts is None else ct.ts[j]
        return ts, jnp.zeros_like(log.ys[0]) if ct.ys is None else ct.ys[j]

    def of_stop(self, ct: Array, t: Array) -> PyTree:
        """The cotangent of the moving arrays, from that of the jump on which a step ended."""
        _, pull = jax.vjp(
            lambda m: next_discontinuity_of(self.part.with_moving(m), t), self.part.moving
        )
        return pull(ct)[0]
