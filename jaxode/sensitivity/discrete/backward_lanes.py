"""The backward pass of the discrete adjoint over a batch: one vjp per iteration for all lanes.

The arrays that all trajectories share have one cotangent, which is summed over the lanes inside
each vjp. The cotangents of a trajectory's own arrays are carried in its lane, and written when its
first step has been pulled back.
"""

from functools import partial
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
from ...integrate.forward import Result
from ...integrate.ivp import packed_field, step_reader
from ...integrate.step import select
from ...integrate.xla_loops import fused
from ..batch_cotangents import (
    assemble_cotangent,
    example_of,
    per_row,
    reached_by_each,
    replace_in_problem,
    replace_unwanted,
)
from ..cse import cse
from ..reached import SolveOutcome
from .cotangents import ReplayedStep
from .events import EventVJP
from .lane_exchange import BackwardLane, BatchBackwardState, LaneExchange
from .layout import StepLayout, differentiated, tree_add
from .reversible_steps import roundtrip_ok
from .saved_values import (
    SavedValuesVJP,
    add_first_state_cotangent,
    first_value_cotangent,
    last_state_cotangent,
)
from .step_pullback import StepPullback


class BatchDiscreteBackward(eqx.Module):
    """The backward pass over the trace of a batch.

    `as_run` is the ensemble as it was solved. `exchange` has another trajectory in the place of
    each that is not wanted: it failed, and no value that it reached has a cotangent.
    """

    as_run: Ensemble
    exchange: LaneExchange
    pullback: StepPullback
    cotangents: Result
    num_accepted: Array

    @classmethod
    def of(
        cls,
        perturbed: PyTree,
        ensemble: Ensemble,
        tile: LaneTile,
        cotangents: Result,
        trace: BatchTrace,
        outcome: SolveOutcome,
    ) -> "BatchDiscreteBackward":
        """The pass for these cotangents."""
        log = outcome.log
        # The times of events depend on all the rest.
        flags = [
            part
            for p in (perturbed.per_trajectory[0], perturbed.shared[0])
            for part in (p.ts, p.jumps)
        ]
        with_times = any(map(bool, flags)) or log is not None
        events = EventVJP(log, cotangents) if ensemble.has_events else None
        if trace.ends:
            solver_state = jax.tree.map(lambda x: jnp.zeros_like(x[0]), trace.ends[1])
        else:
            solver_state = jax.tree.map(
                lambda x: jnp.zeros(x.shape[1:-1], x.dtype), trace.rows.solver_state
            )
        save, y0 = ensemble.config.save, ensemble.per_trajectory[0].y0
        reached = reached_by_each(ensemble, outcome, cotangents)
        replaced = replace_unwanted(ensemble, reached, outcome.num_accepted)
        end = jax.vmap(partial(last_state_cotangent, save))(y0, cotangents.y1, cotangents.ys)
        exchange = LaneExchange(
            *differentiated(perturbed, replaced),
            replaced,
            tile,
            reached,
            jnp.where(per_row(reached.failed, end), 0, end),
            solver_state,
            with_times,
            trace.ends,
            () if events is None else events.num_events,
        )
        as_run = ensemble.for_derivatives(perturbed)
        pullback = StepPullback(SavedValuesVJP(cotangents), events)
        return cls(as_run, exchange, pullback, cotangents, outcome.num_accepted)

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble, without the trajectories that failed."""
        return self.exchange.ensemble

    def run(self, trace: BatchTrace, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble."""
        return self.finish(self.iterations(trace), perturbed)

    def iterations(self, trace: BatchTrace) -> BatchBackwardState:
        """Pull the cotangents back over all iterations of the trace, the last first."""
        # Segments are written again with the trajectories that failed: they took their iterations.
        checkpointer = BatchCheckpointer.from_trace(trace, self.as_run, self.exchange.tile)

        def pull_back_segment(
            state: tuple[Array, Any, BatchBackwardState],
        ) -> tuple[Array, Any, BatchBackwardState]:
            segment, kept, back = state
            now, count = checkpointer.replay_segment(with_kept(trace, kept), segment)

            def pull_back_row(
                state: tuple[Array, BatchBackwardState],
            ) -> tuple[Array, BatchBackwardState]:
                n = state[0] - 1
                return n, self.iteration(state[1], jax.tree.map(lambda b: b[n], now.rows))

            back = lax.while_loop(lambda s: s[0] > 0, cse(pull_back_row), (count, back))[1]
            return segment - 1, kept_of(now), back

        def kept_of(trace: BatchTrace) -> Any:
            # Snapshots change only where they are thinned.
            kept = trace.rows, None, None
            return kept if trace.schedule is None else (kept[0], trace.snapshots, trace.schedule)

        def with_kept(trace: BatchTrace, kept: Any) -> BatchTrace:
            rows, snapshots, schedule = kept
            if schedule is None:
                return trace._replace(rows=rows)
            return trace._replace(rows=rows, snapshots=snapshots, schedule=schedule)

        def pull_back_trace(back: BatchBackwardState) -> BatchBackwardState:
            blank = self.exchange.blank()._replace(results=back.results)
            start = trace.segments - 1, kept_of(trace), blank
            return lax.while_loop(lambda s: s[0] >= 0, pull_back_segment, start)[2]

        return fused(pull_back_trace, self.exchange.blank())

    def iteration(self, back: BatchBackwardState, row: IterationRow) -> BatchBackwardState:
        """Pull the cotangents of the lanes back over their steps of one iteration."""
        back = self.exchange.exchange(back, row.numbers)
        present = row.numbers == back.numbers
        # A lane that holds another trajectory than its row keeps its cotangents.
        active = present & (row.h != 0)
        lanes, end = back.lanes, None
        if lanes.after:
            end = lanes.after[0]
            row, lanes = self.step_back(row, lanes, active)
            end = jnp.where(present, end, row.y)
        assert lanes.reached is not None
        layout = self.layout(row, lanes.rows, active)
        index = None if isinstance(row.index, tuple) else row.index
        # What followed the last saved value of a solve that failed need not be finite.
        counts = lanes.reached.counts(row.t, index, layout.direction)
        active = active & counts
        row, rows = self.with_placeholders(row, lanes.rows, present & counts)
        if end is not None:
            end = jnp.where(counts, end, row.y)
        layout = self.layout(row, rows, active)
        last = active & lanes.before_last
        failed = lanes.reached.failed
        step = ReplayedStep(row.y, row.solver_state, row.t, row.h, row.index, last, failed=failed)
        lanes = lanes._replace(before_last=lanes.before_last & ~active)
        pulled_back = self.pullback(layout, back.gather(), step, end)
        return back._replace(lanes=lanes).scatter(pulled_back)

    def layout(self, row: IterationRow, rows: PyTree, active: Array) -> StepLayout:
        """The layout of the lanes in one iteration."""
        exchange = self.exchange
        number = jnp.minimum(row.numbers, self.ensemble.count - 1)
        ts = self.ensemble.per_trajectory[0].ts
        looks_ahead = self.ensemble.config.method.solver.looks_ahead
        if ts is not None and (self.ensemble.has_events or looks_ahead):
            ends = jnp.stack([ts[number, 0], ts[number, -1]])
            rows = eqx.tree_at(lambda rows: rows[0].ts, rows, ends, is_leaf=lambda x: x is None)
        return StepLayout(
            self.ensemble,
            exchange.tile,
            exchange.shared,
            exchange.per_trajectory,
            exchange.with_times,
            rows,
            number,
            active,
        )

    def step_back(
        self, row: IterationRow, lanes: BackwardLane, active: Array
    ) -> tuple[IterationRow, BackwardLane]:
        """The row with the states before its steps, by the solver's steps back; the lanes there."""
        y1, solver_state1 = lanes.after
        solver = method_in_lanes(self.ensemble, lanes.rows).stepper
        field = BatchRun(self.ensemble, self.exchange.tile).field(lanes.rows)
        before = solver.step_back(field, row.t, y1, row.h, solver_state1)
        before = select(active, before, lanes.after)
        return row._replace(y=before[0], solver_state=before[1]), lanes._replace(after=before)

    def with_placeholders(
        self, row: IterationRow, rows: PyTree, present: Array
    ) -> tuple[IterationRow, PyTree]:
        """The row, with the start of a solve that is finite in the lanes that are not `present`.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        example = example_of(self.exchange.reached, self.num_accepted)
        own = jax.tree.map(lambda x: x[example], self.ensemble.per_trajectory)
        problem, config = self.ensemble.problem_of(own)
        t, y = problem.ts[0], problem.y0
        solver_state = config.method.stepper.init(packed_field(problem, config), t, y)
        t, y, solver_state, rows = jax.tree.map(
            lambda a, b: jnp.where(present, a, b[..., None]),
            (row.t, row.y, row.solver_state, rows),
            (t, y, solver_state, replace_in_problem(own, y0=None, ts=None)),
        )
        # A short step instead of none, in any unit of time: implicit solvers divide by it.
        span = problem.ts[-1] - problem.ts[0]
        short = jnp.finfo(row.h.dtype).eps * jnp.where(span == 0, 1, span)
        h = jnp.where(present & (row.h != 0), row.h, short)
        return row._replace(t=t, y=y, solver_state=solver_state, h=h), rows

    def finish(self, back: BatchBackwardState, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble, from those at the first times."""
        lanes, ct, reached = self.exchange.results(back), self.cotangents, self.exchange.reached
        ended = lanes.back
        own, save = self.ensemble.per_trajectory, self.ensemble.config.save
        t0 = jax.vmap(lambda rows: self.ensemble.ts(rows)[0])(own)

        def first_values(shared: PyTree, diff: PyTree, y: Array, t: Array) -> Any:
            def of_trajectory(diff: PyTree, rows: PyTree, y: Array, t: Array) -> Any:
                problem, config = eqx.combine(diff, rows, shared, self.ensemble.shared)
                return step_reader(problem, config).fn(t, y) if save == "ts" else ()

            return jax.vmap(of_trajectory)(diff, own, y, t)

        start = self.exchange.shared, self.exchange.per_trajectory, own[0].y0, t0
        value, pull = jax.vjp(first_values, *start)
        of_first_value = jax.vmap(partial(first_value_cotangent, save))
        ct_value = of_first_value(ct.ys, value, jnp.where(reached.wanted, ended.saves_left, 0))
        of_start = pull(ct_value)
        more = self.first_solver_states(start, ~lanes.before_last, ended.solver_state)
        shared, diff, y0, ct_t0 = tree_add(of_start, more)
        shared, diff = tree_add((back.shared, ended.diff), (shared, diff))
        add_first_state = jax.vmap(partial(add_first_state_cotangent, save))
        y0 = add_first_state(y0 + ended.y, ct.ys, ct.dense, self.num_accepted)
        ts = None
        if self.exchange.with_times:
            ts = back.times.at[:, 0].add(ended.t + ct_t0).at[:, -1].add(ended.t1)
            if save == "steps" and ct.ts is not None:
                ts = ts.at[:, 0].add(ct.ts[:, 0])
        if lanes.after:

            def returned(rows: PyTree, recovered: PyTree, end: PyTree) -> Array:
                problem, config = self.ensemble.problem_of(rows)
                t, y, method = problem.ts[0], problem.y0, config.method
                start = y, method.stepper.init(packed_field(problem, config), t, y)
                return roundtrip_ok(method, recovered, start, end)

            found = jax.vmap(returned)(own, lanes.after, self.exchange.end_states)
            poisoned = reached.poisoned | (reached.asked & ~found)
            reached = reached._replace(poisoned=poisoned)
        ct = assemble_cotangent(self.ensemble, diff, shared, y0, ts, reached)
        return eqx.filter(ct, perturbed)

    def first_solver_states(
        self, start: tuple[PyTree, PyTree, Array, Array], stepped: Array, ct: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array]:
        """Cotangents of the `start`, from those of the solver states that were made there.

        `start`: shared and own arrays, states and times. `stepped`: of which a step was pulled
        back; the field need not be finite at the start of the others.
        """
        shared, *of_each = start
        first = jnp.argmax(stepped)

        def fill(x: Array) -> Array:
            return jnp.where(per_row(stepped, x), x, x[first])

        def masked(x: Array) -> Array:
            return jnp.where(per_row(stepped, x), x, 0)

        rows, *filled = jax.tree.map(fill, (self.ensemble.per_trajectory, *of_each))

        def initialise(shared: PyTree, diff: PyTree, y: Array, t: Array) -> Any:
            def of_trajectory(diff: PyTree, rows: PyTree, y: Array, t: Array) -> Any:
                problem, config = eqx.combine(diff, rows, shared, self.ensemble.shared)
                return config.method.stepper.init(packed_field(problem, config), t, y)

            return jax.vmap(of_trajectory)(diff, rows, y, t)

        _, pull = jax.vjp(initialise, shared, *filled)
        ct_shared, *ct_each = pull(ct)
        some = jnp.any(stepped)
        return jax.tree.map(lambda x: jnp.where(some, x, 0), ct_shared), *jax.tree.map(
            masked, ct_each
        )
