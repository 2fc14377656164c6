"""The events and jumps of one solve on the way back over its steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.events.discontinuities import lands
from ...integrate.events.handling import Log
from ...integrate.forward import Result
from ...integrate.ivp import stop_of
from ...integrate.xla_loops import if_needed
from ...solvers.base import Stepped
from .event_vjp import Behind, Clock, Parts, cutting, of_event, of_jump, rows_of
from .step_vjp import Differentiated


class Pulled(NamedTuple):
    """Cotangents of a step, from what followed it: of the moving arrays, and its own."""

    moving: PyTree
    parts: Parts
    clock: Any


class Met(eqx.Module):
    """The jumps of one solve, and the events as they were written down, if it had any."""

    part: Differentiated
    log: Log | None
    cotangents: Result

    @property
    def count(self) -> Any:
        """How many events there were."""
        return () if self.log is None else jnp.minimum(self.log.count, self.log.ts.shape[0])

    def event(self, moving: PyTree, parts: Parts, clock: Clock, row: Log) -> Any:
        """Time and state of the event, and what followed if it cut its step."""
        return of_event(self.part.with_moving(moving), self.part.plan, parts, clock, row)

    def landing(self, moving: PyTree, y1: Array, t: Array) -> Behind:
        """What followed a step from `t` that ended on a jump."""
        problem = self.part.with_moving(moving)
        return of_jump(problem, self.part.plan, y1, t, self.part.with_times)

    def cuts(self, n: Array) -> Array:
        """Which rows of the log hold an event that cut step `n`."""
        assert self.log is not None
        known = jnp.arange(self.log.ts.shape[0]) < self.count
        return cutting(self.part.problem, self.log.index) & (self.log.steps == n) & known

    def cut(self, n: Array) -> Array:
        """Whether an event cut step `n`."""
        return jnp.asarray(False) if self.log is None else jnp.any(self.cuts(n))

    def aimed(self, t: Array, h: Array) -> tuple[Array, Array]:
        """Whether a step was drawn out to a jump, or to the last time."""
        stop, last = stop_of(self.part.problem, t), self.part.problem.ts[-1]
        aimed = lands(t, h, stop)
        return aimed & (stop != last), aimed & (stop == last)

    def landed(self, n: Array, t: Array, h: Array) -> Array:
        """Whether step `n` ended on a jump."""
        return self.aimed(t, h)[0] & ~self.cut(n)

    def resumed(self, n: Array, t: Array, h: Array, y: Array, stepped: Stepped) -> Any:
        """The state and carry that step `n` was followed by."""
        moving, after = self.part.moving, (stepped.y1, stepped.carry)
        if self.log is not None:
            cuts = self.cuts(n)
            row = rows_of(self.log, jnp.argmax(cuts))

            def event(_: Any) -> Any:
                parts = y, stepped.y1, stepped.dense
                behind = self.event(moving, parts, (t, h), row)[1]
                return behind.y, behind.carry

            after = if_needed(jnp.any(cuts), event, after)

        def landing(after: Any) -> Any:
            behind = self.landing(moving, after[0], t)
            return behind.y, behind.carry

        return if_needed(self.landed(n, t, h), landing, after)

    def pulled(
        self, unread: Any, n: Array, ct: Behind, ct_end: Array, parts: Parts, clock: Clock
    ) -> tuple[Any, Behind, Pulled]:
        """Cotangents back over what ended step `n`, and its events, of which `unread` are left.

        From `ct`, of what the next step began with; it is handed on where nothing ended the step.
        `ct_end`: of the state where an event cut it.
        """
        moving, (t, h) = self.part.moving, clock
        zeros = jax.tree.map(jnp.zeros_like, Pulled(moving, parts, clock))
        if not self.part.with_times:
            zeros = zeros._replace(clock=None)

        def landing(state: tuple[Behind, Pulled]) -> tuple[Behind, Pulled]:
            ct, totals = state
            _, pull = jax.vjp(lambda moving, y1: self.landing(moving, y1, t), moving, parts[1])
            more, ct_y1 = pull(ct)
            y, _, dense = totals.parts
            found = Pulled(more, (y, ct_y1, dense), totals.clock)
            return jax.tree.map(jnp.zeros_like, ct), found

        ct, totals = if_needed(self.landed(n, t, h), landing, (ct, zeros))
        if self.log is None:
            return unread, ct, totals
        return self.over_events(unread, n, (ct, totals), ct_end, parts, clock)

    def over_events(
        self,
        unread: Array,
        n: Array,
        found: tuple[Behind, Pulled],
        ct_end: Array,
        parts: Parts,
        clock: Clock,
    ) -> tuple[Array, Behind, Pulled]:
        """The same over the events, the last first."""
        log = self.log
        assert log is not None

        def here(state: tuple) -> Array:
            unread = state[0]
            return (unread > 0) & (log.steps[jnp.maximum(unread - 1, 0)] == n)

        def one(state: tuple) -> tuple:
            unread, ct, totals = state
            row = rows_of(log, unread - 1)
            _, pull = jax.vjp(
                lambda moving, parts, clock: self.event(moving, parts, clock, row),
                self.part.moving, parts, clock,
            )  # fmt: skip
            cut = cutting(self.part.problem, row.index)
            through = jax.tree.map(lambda x: jnp.where(cut, x, 0), ct)
            left = jax.tree.map(lambda x: jnp.where(cut, 0, x), ct)
            ct_t, ct_y = self.written(unread - 1)
            more = Pulled(*pull(((ct_t, ct_y + jnp.where(cut, ct_end, 0)), through)))
            return unread - 1, left, jax.tree.map(jnp.add, totals, more)

        return lax.while_loop(here, one, (unread, *found))

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
        _, pull = jax.vjp(lambda m: stop_of(self.part.with_moving(m), t), self.part.moving)
        return pull(ct)[0]
