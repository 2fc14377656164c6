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
    replace_failed,
    replace_in_problem,
    shared_cotangent_invalid,
)
from ..cse import cse
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

    `as_run` is the ensemble with the trajectories that failed; `exchange` has one that succeeded in
    the place of each.
    """

    as_run: Ensemble
    exchange: LaneExchange
    pullback: StepPullback
    cotangents: Result

    @classmethod
    def of(
        cls,
        perturbed: PyTree,
        ensemble: Ensemble,
        tile: LaneTile,
        cotangents: Result,
        residuals: Any,
    ) -> "BatchDiscreteBackward":
        """The pass for these cotangents; `residuals`: trace, which solves succeeded, event log."""
        trace, succeeded, log = residuals
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
        replaced = replace_failed(ensemble, succeeded)
        exchange = LaneExchange(
            *differentiated(perturbed, replaced),
            replaced,
            tile,
            succeeded,
            jax.vmap(partial(last_state_cotangent, save))(y0, cotangents.y1, cotangents.ys),
            solver_state,
            with_times,
            trace.ends,
            () if events is None else events.num_events,
        )
        return cls(ensemble, exchange, StepPullback(SavedValuesVJP(cotangents), events), cotangents)

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble, without the trajectories that failed."""
        return self.exchange.ensemble

    def run(self, trace: BatchTrace, num_accepted: Array, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble."""
        return self.finish(self.iterations(trace), num_accepted, perturbed)

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
        row, rows = self.with_placeholders(row, lanes.rows, present)
        layout = self.layout(row, rows, active)
        last = active & lanes.before_last
        step = ReplayedStep(row.y, row.solver_state, row.t, row.h, row.index, last)
        lanes = lanes._replace(before_last=lanes.before_last & ~active)
        pulled_back = self.pullback(layout, back.gather(), step, end)
        return back._replace(lanes=lanes).scatter(pulled_back)

    def layout(self, row: IterationRow, rows: PyTree, active: Array) -> StepLayout:
        """The layout of the lanes in one iteration."""
        exchange = self.exchange
        number = jnp.minimum(row.numbers, self.ensemble.count - 1)
        ts = self.ensemble.per_trajectory[0].ts
        if ts is not None and self.ensemble.has_events:
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
        """The row, with the start of a solve that succeeded in the lanes that are not `present`.

        Their cotangents are zero, but zero times NaN is NaN, in every sum over lanes.
        """
        own = jax.tree.map(
            lambda x: x[jnp.argmax(self.exchange.succeeded)], self.ensemble.per_trajectory
        )
        problem, config = self.ensemble.problem_of(own)
        t, y = problem.ts[0], problem.y0
        solver_state = config.method.stepper.init(packed_field(problem, config), t, y)
        t, y, solver_state, rows = jax.tree.map(
            lambda a, b: jnp.where(present, a, b[..., None]),
            (row.t, row.y, row.solver_state, rows),
            (t, y, solver_state, replace_in_problem(own, y0=None, ts=None)),
        )
        # A short step instead of none: implicit solvers divide by it.
        h = jnp.where(present & (row.h != 0), row.h, jnp.finfo(row.h.dtype).eps ** 2)
        return row._replace(t=t, y=y, solver_state=solver_state, h=h), rows

    def finish(self, back: BatchBackwardState, num_accepted: Array, perturbed: PyTree) -> PyTree:
        """The cotangent of the ensemble, from those at the first times."""
        lanes, ct, succeeded = self.exchange.results(back), self.cotangents, self.exchange.succeeded
        ended = lanes.back
        own, save = self.ensemble.per_trajectory, self.ensemble.config.save
        t0 = jax.vmap(lambda rows: self.ensemble.ts(rows)[0])(own)

        def first_steps(shared: PyTree, diff: PyTree, y: Array, t: Array) -> Any:
            def of_trajectory(diff: PyTree, rows: PyTree, y: Array, t: Array) -> Any:
                problem, config = eqx.combine(diff, rows, shared, self.ensemble.shared)
                solver_state = config.method.stepper.init(packed_field(problem, config), t, y)
                value = step_reader(problem, config).fn(t, y) if save == "ts" else ()
                return solver_state, value

            return jax.vmap(of_trajectory)(diff, own, y, t)

        (_, value), pull = jax.vjp(
            first_steps, self.exchange.shared, self.exchange.per_trajectory, own[0].y0, t0
        )
        of_first_value = jax.vmap(partial(first_value_cotangent, save))
        ct_value = of_first_value(ct.ys, value, jnp.where(succeeded, ended.saves_left, 0))
        shared, diff, y0, ct_t0 = pull((ended.solver_state, ct_value))
        shared, diff = tree_add((back.shared, ended.diff), (shared, diff))
        add_first_state = jax.vmap(partial(add_first_state_cotangent, save))
        y0 = add_first_state(y0 + ended.y, ct.ys, ct.dense, num_accepted)
        ts = None
        if self.exchange.with_times:
            ts = back.times.at[:, 0].add(ended.t + ct_t0).at[:, -1].add(ended.t1)
            if save == "steps" and ct.ts is not None:
                ts = ts.at[:, 0].add(ct.ts[:, 0])
        if lanes.after:
            end_states = self.exchange.end_states[0]
            succeeded &= jax.vmap(roundtrip_ok)(lanes.after[0], own[0].y0, end_states)
        invalid = shared_cotangent_invalid(ct, succeeded)
        ct = assemble_cotangent(self.ensemble, diff, shared, y0, ts, succeeded, invalid)
        return eqx.filter(ct, perturbed)
