"""The events and jumps of a batch on the way back over a turn's steps."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.checkpoints import IterationRow
from ...integrate.events.discontinuities import ends_on
from ...integrate.events.handling import EventLog
from ...integrate.forward import Result
from ...integrate.ivp import IVP, next_discontinuity_of
from ...integrate.step import select
from ...integrate.xla_loops import cond_as_loop
from .backward_lanes import LaneExchange
from .event_vjp import Clock, Parts, PostEventState, cutting, of_event, of_jump, rows_of


class BatchEventCotangents(NamedTuple):
    """Cotangents: of what is shared, of each lane's own, and of its step."""

    shared: PyTree
    per_trajectory: PyTree
    parts: Parts
    clock: Any


def counts_of(log: EventLog | None) -> Any:
    """How many rows of the log each trajectory has written."""
    return () if log is None else jnp.minimum(log.count, log.ts.shape[1])


class BatchEventVJP(eqx.Module):
    """The jumps of a batch, and the log of its events, if there are any."""

    lanes: LaneExchange
    log: EventLog | None
    cotangents: Result

    @property
    def problem(self) -> IVP:
        """The problem, for the events in it."""
        return self.lanes.ensemble.shared[0]

    def drawn(self, number: Array) -> Array | bool:
        """Whether the last steps of these trajectories were drawn out to the last time."""
        if self.log is None:
            return True
        return ~jnp.any(self.problem.terminal_events[self.log.index[number]], axis=-1)

    def with_times(self, rows: PyTree, number: Array) -> PyTree:
        """The lanes' own parts of the problem, with first and last times where they have such."""
        ts = self.lanes.ensemble.per_trajectory[0].ts
        if ts is None:
            return rows
        ends = jnp.stack([ts[number, 0], ts[number, -1]])
        return eqx.tree_at(lambda rows: rows[0].ts, rows, ends, is_leaf=lambda x: x is None)

    def stops(self, shared: PyTree, own: PyTree, rows: PyTree, t: Array) -> Array:
        """The times that the lanes' steps from `t` had to end on."""

        def one(own: PyTree, rows: PyTree, t: Array) -> Array:
            ensemble, rows = self.lanes.with_moving(shared, own, rows)
            return next_discontinuity_of(ensemble.problem_of(rows)[0], t)

        return jax.vmap(one, in_axes=-1)(own, rows, t)

    def aimed(self, row: IterationRow, rows: PyTree, active: Array) -> tuple[Array, Array]:
        """Which lanes' steps were drawn out to a jump, and which to the last time."""
        number, ts = self.number(row), self.lanes.ensemble.all_times
        last = ts[-1] if ts.ndim == 1 else ts[number, -1]
        stop = self.stops(self.lanes.shared, self.lanes.own_of(rows), rows, row.t)
        aimed = active & ends_on(row.t, row.h, stop)
        return aimed & (stop != last), aimed & (stop == last)

    def cut(self, saves_left: Any, row: IterationRow, active: Array) -> Array:
        """Which lanes' steps an event has cut: the last one of each, of which `saves_left` are left."""
        if self.log is None:
            return jnp.zeros_like(active)
        here = rows_of(self.log, self.number(row), jnp.maximum(saves_left - 1, 0))
        mine = active & (saves_left > 0) & (here.steps == row.index)
        return mine & cutting(self.problem, here.index)

    def number(self, row: IterationRow) -> Array:
        """The trajectories in the lanes, a known one where there is none."""
        return jnp.minimum(row.numbers, self.lanes.ensemble.count - 1)

    def pulled(
        self,
        saves_left: Any,
        row: IterationRow,
        rows: PyTree,
        which: tuple[Array, Array],
        ct: PostEventState,
        ct_end: Array,
        parts: Parts,
    ) -> tuple[Any, PostEventState, BatchEventCotangents]:
        """Cotangents back over what ended the steps, and their events, of which `saves_left` are left.

        From `ct`, of what the next steps began with; it is handed on where nothing ended a step.
        `which` lanes are active, and which of them landed on a jump. `ct_end`: of the states where
        events cut steps.
        """
        (active, landed), clock = which, (row.t, row.h)
        own = self.lanes.own_of(rows)
        zeros = jax.tree.map(
            jnp.zeros_like, BatchEventCotangents(self.lanes.shared, own, parts, clock)
        )
        if not self.lanes.with_times:
            zeros = zeros._replace(clock=None)
        found = ct, zeros
        if self.lanes.ensemble.has_jumps:
            found = self.over_jumps(landed, found, rows, parts[1], row.t)
        if self.log is None:
            return saves_left, found[0], found[1]
        return self.over_events(saves_left, row, rows, active, found, ct_end, parts, clock)

    def over_jumps(
        self,
        at_discontinuity: Array,
        found: tuple[PostEventState, BatchEventCotangents],
        rows: PyTree,
        y1: Array,
        t: Array,
    ) -> tuple[PostEventState, BatchEventCotangents]:
        """The same over the jumps of those that `at_discontinuity`."""
        rows, y1, t = _in_place(at_discontinuity, (rows, y1, t))

        def behind(shared: PyTree, own: PyTree, y1: Array) -> PostEventState:
            def one(own: PyTree, rows: PyTree, y1: Array, t: Array) -> PostEventState:
                ensemble, rows = self.lanes.with_moving(shared, own, rows)
                return of_jump(*ensemble.problem_of(rows), y1, t, self.lanes.with_times)

            return jax.vmap(one, in_axes=-1, out_axes=-1)(own, rows, y1, t)

        def landing(
            state: tuple[PostEventState, BatchEventCotangents],
        ) -> tuple[PostEventState, BatchEventCotangents]:
            ct, totals = state
            through, left = _parted(at_discontinuity, ct)
            _, pull = jax.vjp(behind, self.lanes.shared, self.lanes.own_of(rows), y1)
            shared, own, ct_y1 = pull(through)
            y, _, dense = totals.parts
            return left, BatchEventCotangents(shared, own, (y, ct_y1, dense), totals.clock)

        return cond_as_loop(jnp.any(at_discontinuity), landing, found)

    def over_events(
        self,
        saves_left: Array,
        row: IterationRow,
        rows: PyTree,
        active: Array,
        found: tuple[PostEventState, BatchEventCotangents],
        ct_end: Array,
        parts: Parts,
        clock: Clock,
    ) -> tuple[Array, PostEventState, BatchEventCotangents]:
        """The same over the events, the last first."""
        log, number = self.log, self.number(row)
        assert log is not None

        def here(saves_left: Array) -> Array:
            steps = log.steps[number, jnp.maximum(saves_left - 1, 0)]
            return active & (saves_left > 0) & (steps == row.index)

        def one(state: tuple) -> tuple:
            mask, saves_left, ct, totals = state
            place = jnp.maximum(saves_left - 1, 0)
            at = rows_of(log, number, place)
            cut = mask & cutting(self.problem, at.index)
            through, left = _parted(cut, ct)
            pull = self.event(*_in_place(mask, (rows, at, parts, clock)))
            ct_t, ct_y = self.written(mask, number, place)
            more = BatchEventCotangents(*pull(((ct_t, ct_y + jnp.where(cut, ct_end, 0)), through)))
            totals = jax.tree.map(jnp.add, totals, more)
            saves_left = jnp.where(mask, saves_left - 1, saves_left)
            return here(saves_left), saves_left, left, totals

        state = here(saves_left), saves_left, *found
        return lax.while_loop(lambda s: jnp.any(s[0]), one, state)[1:]

    def event(self, rows: PyTree, at: EventLog, parts: Parts, clock: Clock) -> Any:
        """How the cotangents of events, and of what followed them, are pulled back."""

        def behind(shared: PyTree, own: PyTree, parts: Parts, clock: Clock) -> Any:
            def one(own: PyTree, rows: PyTree, at: EventLog, parts: Parts, clock: Clock) -> Any:
                ensemble, rows = self.lanes.with_moving(shared, own, rows)
                return of_event(*ensemble.problem_of(rows), parts, clock, at)

            return jax.vmap(one, in_axes=-1, out_axes=-1)(own, rows, at, parts, clock)

        shared, own = self.lanes.shared, self.lanes.own_of(rows)
        return jax.vjp(behind, shared, own, parts, clock)[1]

    def written(self, mask: Array, number: Array, place: Array) -> tuple[Array, Array]:
        """Cotangents of times and states in the log."""
        ct, log = self.cotangents.log, self.log
        assert log is not None

        def of(part: Any, like: Array) -> Array:
            rows = jnp.zeros_like(like[number, place]) if part is None else part[number, place]
            return jnp.where(mask, jnp.moveaxis(rows, 0, -1), 0)

        return of(ct and ct.ts, log.ts), of(ct and ct.ys, log.ys)

    def of_stops(self, ct: Array, rows: PyTree, t: Array) -> tuple[PyTree, PyTree]:
        """Cotangents of what is shared and own, from those of the jumps on which steps ended."""
        shared, own = self.lanes.shared, self.lanes.own_of(rows)
        _, pull = jax.vjp(lambda shared, own: self.stops(shared, own, rows, t), shared, own)
        return pull(ct)


def _parted(mask: Array, ct: PostEventState) -> tuple[PostEventState, PostEventState]:
    """The cotangents where `mask` holds, and the others; zeros elsewhere."""
    zeros = jax.tree.map(jnp.zeros_like, ct)
    return select(mask, ct, zeros), select(mask, zeros, ct)


def _in_place(mask: Array, tree: PyTree) -> PyTree:
    """The same, with a lane of the `mask` in the place of all others.

    Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
    """
    first = jnp.argmax(mask)

    def fill(x: Array) -> Array:
        other = lax.dynamic_index_in_dim(x, first, x.ndim - 1)
        return jnp.where(mask, x, other)

    return jax.tree.map(fill, tree)
