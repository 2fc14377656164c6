"""A batch's log replayed backwards, all lanes of a turn with one vjp.

What the trajectories share has one cotangent, which is summed over the lanes inside each vjp; what
each has for itself is carried in its lane, and written when the replay comes to its first step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.checkpoints import BatchCheckpointer, BatchTrace, IterationRow
from ...batch.forward import BatchRun
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble, method_in_lanes
from ...integrate.events.discontinuities import one_sided_field
from ...integrate.forward import Result
from ...integrate.ivp import packed_field, step_reader
from ...integrate.save import StepRecord
from ...integrate.step import select
from ...integrate.xla_loops import fused
from ..batch_cotangents import (
    assemble_cotangent,
    replace_failed,
    replace_in_problem,
    shared_cotangent_invalid,
)
from ..cse import cse
from .backward_lanes import BatchBackwardState, LaneCotangents, LaneExchange
from .event_vjp import Parts, PostEventState
from .events_batch import BatchEventCotangents, BatchEventVJP, counts_of
from .reversible_steps import roundtrip_ok
from .saved_values_batch import BatchSavedValues


class BatchDiscreteBackward(eqx.Module):
    """The backward pass; `as_run` is the ensemble with the failures that there were."""

    as_run: Ensemble
    saved: BatchSavedValues
    met: BatchEventVJP

    @classmethod
    def of(
        cls,
        perturbed: PyTree,
        ensemble: Ensemble,
        tile: LaneTile,
        cotangents: Result,
        residuals: Any,
    ) -> "BatchDiscreteBackward":
        """The pass for these cotangents; `residuals` are the log and what went well."""
        log, good, events = residuals
        # Where there are events, times depend on all the rest.
        moving = [
            part
            for p in (perturbed.per_trajectory[0], perturbed.shared[0])
            for part in (p.ts, p.jumps)
        ]
        with_times = any(map(bool, moving)) or events is not None
        own = eqx.filter(
            ensemble.per_trajectory,
            replace_in_problem(perturbed.per_trajectory, y0=False, ts=False),
        )
        shared = eqx.filter(ensemble.shared, replace_in_problem(perturbed.shared, ts=False))
        end = (
            jnp.zeros_like(ensemble.per_trajectory[0].y0)
            if cotangents.y1 is None
            else cotangents.y1
        )
        if ensemble.config.save == "ends" and cotangents.ys is not None:
            end = end + cotangents.ys[:, 1]
        if log.ends:
            carry = jax.tree.map(lambda x: jnp.zeros_like(x[0]), log.ends[1])
        else:
            carry = jax.tree.map(lambda x: jnp.zeros(x.shape[1:-1], x.dtype), log.rows.solver_state)
        calm = replace_failed(ensemble, good)
        counts = counts_of(events)
        lanes = LaneExchange(
            own, shared, calm, tile, good, end, carry, with_times, log.ends, counts
        )
        return cls(
            ensemble, BatchSavedValues(lanes, cotangents), BatchEventVJP(lanes, events, cotangents)
        )

    @property
    def lanes(self) -> LaneExchange:
        """How trajectories get into the lanes and out of them."""
        return self.saved.lanes

    def log(self, log: BatchTrace) -> BatchBackwardState:
        """Replay every turn, the last first."""
        # Written again with the failures that there were: they took their turns.
        logger = BatchCheckpointer.from_trace(log, self.as_run, self.lanes.tile)

        def segment(
            state: tuple[Array, IterationRow, BatchBackwardState],
        ) -> tuple[Array, IterationRow, BatchBackwardState]:
            number, rows, back = state
            rows, count = logger.replay_segment(log._replace(rows=rows), number)

            def one(state: tuple[Array, BatchBackwardState]) -> tuple[Array, BatchBackwardState]:
                n = state[0] - 1
                return n, self.turn(state[1], jax.tree.map(lambda b: b[n], rows))

            back = lax.while_loop(lambda s: s[0] > 0, cse(one), (count, back))[1]
            return number - 1, rows, back

        def whole(back: BatchBackwardState) -> BatchBackwardState:
            start = log.segments - 1, log.rows, self.lanes.blank()._replace(results=back.results)
            return lax.while_loop(lambda s: s[0] >= 0, segment, start)[2]

        return fused(whole, self.lanes.blank())

    def turn(self, back: BatchBackwardState, row: IterationRow) -> BatchBackwardState:
        """Pull the cotangents of one turn's lanes back over their steps."""
        back = self.lanes.exchange(back, row.numbers)
        lanes = back.lanes
        # A lane that holds another trajectory than its row is one whose cotangents stay.
        active = (row.numbers == back.numbers) & (row.h != 0)
        ends = lanes.place
        if ends:
            row, lanes = self.stepped_back(row, lanes, active)
            back = back._replace(lanes=lanes)
        present = row.numbers == back.numbers
        row, rows = self.sane(row, lanes.rows, present)
        rows = self.met.with_times(rows, self.met.number(row))
        inside = self.saved.inside(back, row, active)
        solver = method_in_lanes(self.lanes.ensemble, rows).stepper

        def advance(shared: PyTree, own: PyTree, y: Array, carry: Any, clock: Any) -> Any:
            t, h = (row.t, row.h) if clock is None else clock
            field = self.field(shared, own, rows, t)
            step = solver.step
            if ends:
                end = jnp.where(present, ends[0], row.y)
                step = functools.partial(solver.step_to, y1=end)
            stepped = step(field, t, y, h, carry, inside)
            return stepped.y1, stepped.dense, stepped.solver_state

        clock = (row.t, row.h) if self.lanes.with_times else None
        (y1, dense, _), pull = jax.vjp(
            advance, self.lanes.shared, self.lanes.own_of(rows), row.y, row.solver_state, clock
        )
        h = jnp.where(active, row.h, 1)  # what is read between the others is not used
        steps = StepRecord(
            row.t, h, row.t, h, row.y, y1, dense, row.solver_state, row.numbers, active
        )
        back, (ct_y, ct_y1, ct_dense, ct_clock) = self.saved.of_steps(
            back, row, rows, steps, active
        )
        behind, cts = self.behind(back.lanes, row, active), (ct_y, ct_y1, ct_dense, ct_clock)
        if self.lanes.ensemble.has_events:
            parts = row.y, y1, dense
            back, behind, cts = self.switched(back, row, rows, active, behind, cts, parts)
        ct_y, ct_y1, ct_dense, ct_clock = cts
        shared, own, y, carry, ct_step = pull((behind.y + ct_y1, ct_dense, behind.solver_state))
        lanes = back.lanes
        lanes = lanes._replace(
            y=jnp.where(active, y + ct_y, lanes.y),
            solver_state=select(active, carry, lanes.solver_state),
            per_trajectory=jax.tree.map(jnp.add, lanes.per_trajectory, own),
        )
        back = back._replace(lanes=lanes, shared=jax.tree.map(jnp.add, back.shared, shared))
        if not self.lanes.with_times:
            return back
        ct_clock = jax.tree.map(jnp.add, ct_clock, ct_step)
        return self.clocked(back, row, rows, active, behind.t, ct_clock)

    def behind(self, lanes: LaneCotangents, row: IterationRow, active: Array) -> PostEventState:
        """Cotangents of what the next steps of the active lanes began with."""
        t = lanes.t + self.saved.of_end(row, active) if self.lanes.with_times else None
        zeros = jax.tree.map(jnp.zeros_like, (lanes.y, lanes.solver_state))
        return PostEventState(t, *select(active, (lanes.y, lanes.solver_state), zeros))

    def switched(
        self,
        back: BatchBackwardState,
        row: IterationRow,
        rows: PyTree,
        active: Array,
        behind: PostEventState,
        cts: Any,
        parts: Parts,
    ) -> tuple[BatchBackwardState, PostEventState, Any]:
        """The same behind the events and jumps of the steps, with what came of them."""
        lanes, (ct_y, ct_y1, ct_dense, ct_clock) = back.lanes, cts
        cut = self.met.cut(lanes.events, row, active)
        landed = active & False
        if self.lanes.ensemble.has_jumps:
            landed = self.met.aimed(row, rows, active)[0] & ~cut
        # What was saved of a step's end is where an event cut it.
        cut = cut & (self.lanes.ensemble.config.save == "steps")
        ct_end, ct_y1 = jnp.where(cut, ct_y1, 0), jnp.where(cut, 0, ct_y1)
        which = active, landed
        unread, behind, more = self.met.pulled(
            lanes.events, row, rows, which, behind, ct_end, parts
        )
        now = BatchEventCotangents(
            back.shared, lanes.per_trajectory, (ct_y, ct_y1, ct_dense), ct_clock
        )
        shared, own, cts, ct_clock = jax.tree.map(jnp.add, now, more)
        lanes = lanes._replace(per_trajectory=own, events=unread)
        return back._replace(shared=shared, lanes=lanes), behind, (*cts, ct_clock)

    def clocked(
        self,
        back: BatchBackwardState,
        row: IterationRow,
        rows: PyTree,
        active: Array,
        ct_end: Array,
        ct_clock: tuple[Array, Array],
    ) -> BatchBackwardState:
        """The cotangents of times, from those of the steps' ends, starts and sizes."""
        lanes = back.lanes
        drawn = active & lanes.fresh & self.met.drawn(self.met.number(row))
        to_jump, to_last = active & False, drawn
        if self.lanes.ensemble.has_events:
            to_jump, to_last = self.met.aimed(row, rows, active)
        # A step starts as much later as the one before; the last is what the rest leaves it.
        ct_t, ct_h = ct_clock[0], jnp.where(to_jump | to_last, ct_clock[1], 0)
        at_end = jnp.where(drawn, ct_end, 0)
        lanes = lanes._replace(
            t=jnp.where(active, ct_t - ct_h + ct_end - at_end, lanes.t),
            t1=lanes.t1 + jnp.where(to_last, ct_h, 0) + at_end,
            fresh=lanes.fresh & ~active,
        )
        if not self.lanes.ensemble.has_jumps:
            return back._replace(lanes=lanes)
        shared, own = self.met.of_stops(jnp.where(to_jump, ct_h, 0), rows, row.t)
        shared, own = jax.tree.map(jnp.add, (back.shared, lanes.per_trajectory), (shared, own))
        return back._replace(shared=shared, lanes=lanes._replace(per_trajectory=own))

    def stepped_back(
        self, row: IterationRow, lanes: LaneCotangents, active: Array
    ) -> tuple[IterationRow, LaneCotangents]:
        """The row with the states that its steps began at, and the lanes there."""
        ensemble, (y1, carry1) = self.lanes.ensemble, lanes.place
        solver = method_in_lanes(ensemble, lanes.rows).stepper
        field = BatchRun(ensemble, self.lanes.tile).field(lanes.rows)
        place = solver.step_back(field, row.t, y1, row.h, carry1)
        place = select(active, place, lanes.place)
        return row._replace(y=place[0], solver_state=place[1]), lanes._replace(place=place)

    def sane(self, row: IterationRow, rows: PyTree, present: Array) -> tuple[IterationRow, PyTree]:
        """The row with a harmless trajectory's start in the lanes that are not `present`.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        (problem, plan), first = self.reference()
        carry = plan.method.stepper.init(packed_field(problem, plan), problem.ts[0], problem.y0)
        lane = jax.tree.map(
            lambda a, b: jnp.where(present, a, b[..., None]),
            (row.t, row.y, row.solver_state, rows),
            (problem.ts[0], problem.y0, carry, first),
        )
        t, y, carry, rows = lane
        # A short step instead of none: implicit solvers divide by it.
        h = jnp.where(present & (row.h != 0), row.h, jnp.finfo(row.h.dtype).eps ** 2)
        return row._replace(t=t, y=y, solver_state=carry, h=h), rows

    def reference(self) -> tuple[tuple[Any, Any], PyTree]:
        """A trajectory that went well, and its rows without state and times."""
        rows = jax.tree.map(
            lambda x: x[jnp.argmax(self.lanes.good)], self.lanes.ensemble.per_trajectory
        )
        return self.lanes.ensemble.problem_of(rows), (
            dataclasses.replace(rows[0], y0=None, ts=None),
            rows[1],
        )

    def finish(self, back: BatchBackwardState, num_accepted: Array, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble, from those at the first times."""
        ended = self.lanes.results(back)
        own = self.lanes.ensemble.per_trajectory
        t0 = jax.vmap(lambda rows: self.lanes.ensemble.ts(rows)[0])(own)

        def begin(shared: PyTree, moving: PyTree, y: Array, t: Array) -> Any:
            def one(moving: PyTree, rows: PyTree, y: Array, t: Array) -> Any:
                ensemble, rows = self.lanes.with_moving(shared, moving, rows)
                problem, plan = ensemble.problem_of(rows)
                carry = plan.method.stepper.init(packed_field(problem, plan), t, y)
                value = step_reader(problem, plan).fn(t, y) if plan.save == "ts" else ()
                return carry, value

            return jax.vmap(one)(moving, own, y, t)

        (_, value), pull = jax.vjp(
            begin, self.lanes.shared, self.lanes.per_trajectory, own[0].y0, t0
        )
        shared, moving, y0, ct_t0 = pull(
            (ended.solver_state, self.saved.at_first_time(value, ended.saves_left))
        )
        shared, moving = jax.tree.map(
            jnp.add, (back.shared, ended.per_trajectory), (shared, moving)
        )
        y0 = y0 + ended.y + self.saved.start(num_accepted)
        ts = self.saved.of_times(back, ended, ct_t0) if self.lanes.with_times else None
        good = self.lanes.good
        if ended.place:
            home = jax.vmap(roundtrip_ok)(ended.place[0], own[0].y0, self.lanes.places[0])
            good = good & home
        lost = shared_cotangent_invalid(self.saved.cotangents, good)
        ct = assemble_cotangent(self.lanes.ensemble, moving, shared, y0, ts, good, lost)
        return eqx.filter(ct, perturbed)

    def field(self, shared: PyTree, own: PyTree, rows: PyTree, t: Array) -> Callable[..., Array]:
        """The field on lanes, as steps from `t` see it."""
        ensemble, moved = self.lanes.with_moving(shared, own, rows)
        field = BatchRun(ensemble, self.lanes.tile).field(moved)
        if not self.lanes.ensemble.has_jumps:
            return field
        return one_sided_field(field, t, self.met.stops(shared, own, rows, t))
