"""The backward pass of the discrete adjoint over one trajectory: a vjp per step, the last first."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.forward import Result
from ...integrate.ivp import step_reader
from ...problem.status import Status
from ..batch_cotangents import nan_unless
from ..cse import cse
from .checkpoints import CheckpointTrace
from .cotangents import BackwardState, ReplayedStep
from .events import EventVJP
from .layout import StepLayout, tree_add, tree_zeros
from .reversible_steps import roundtrip_ok, step_clock
from .saved_values import (
    SavedValuesVJP,
    add_first_state_cotangent,
    first_value_cotangent,
    last_state_cotangent,
)
from .state_sources import StateSource, StepBackState
from .step_pullback import StepPullback


class DiscreteBackward(eqx.Module):
    """The backward pass over the trace of one trajectory."""

    layout: StepLayout
    source: StateSource
    pullback: StepPullback
    cotangents: Result

    @classmethod
    def of(
        cls,
        layout: StepLayout,
        trace: CheckpointTrace,
        cotangents: Result,
        log: Any,
        steps_back: bool,
    ) -> "DiscreteBackward":
        """The pass for these cotangents.

        `log`: of the events, None without. `steps_back`: whether states are found by steps back.
        """
        events = EventVJP(log, cotangents) if layout.problem.has_events else None
        source = StateSource(layout, trace, events, steps_back)
        pullback = StepPullback(SavedValuesVJP(cotangents), events)
        return cls(layout, source, pullback, cotangents)

    def run(self, status: Array, num_accepted: Array) -> PyTree:
        """The cotangent of the problem."""
        return self.finish(self.steps(self.start(status), num_accepted), num_accepted)

    def start(self, status: Array) -> BackwardState:
        """The state at the last time; its cotangents are NaN if the time was not reached."""
        layout, ct, y0 = self.layout, self.cotangents, self.layout.problem.y0
        y = last_state_cotangent(layout.config.save, y0, ct.y1, ct.ys)
        solver_state = jax.eval_shape(
            lambda: layout.stepper.init(layout.field(self.t0), self.t0, y0)
        )
        ts, times = layout.problem.ts, layout.with_times
        return BackwardState(
            y=nan_unless(status == Status.SUCCESS, y),
            solver_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), solver_state),
            diff=tree_zeros(layout.diff),
            t=jnp.zeros_like(self.t0) if times else None,
            t1=jnp.zeros_like(self.t0) if times else None,
            times=jnp.zeros_like(ts) if times else None,
            saves_left=jnp.int32(layout.num_times),
            events_left=() if self.pullback.events is None else self.pullback.events.num_events,
        )

    def steps(self, back: BackwardState, num_accepted: Array) -> BackwardState:
        """The state at the first time, from the one at the last: pulled back over every step."""
        layout, trace = self.layout, self.source.trace
        state_before, memory = self.source.open()

        def pull_back_step(
            carry: tuple[Array, Any, BackwardState],
        ) -> tuple[Array, Any, BackwardState]:
            n, memory, back = carry[0] - 1, *carry[1:]
            t, h = step_clock(trace, layout.config, layout.problem.ts, n, num_accepted)
            end = memory.y if isinstance(memory, StepBackState) else None
            y, solver_state, memory = state_before(n, (t, h), memory)
            if not jax.tree.leaves(solver_state):
                solver_state = layout.stepper.init(layout.field(t), t, y)
            step = ReplayedStep(y, solver_state, t, h, n, n == num_accepted - 1)
            residuals = jax.tree.map(lambda b: b[n], trace.residuals)
            return n, memory, self.pullback(layout, back, step, end, residuals)

        start = num_accepted, memory, back
        _, memory, back = lax.while_loop(lambda s: s[0] > 0, cse(pull_back_step), start)
        if not isinstance(memory, StepBackState):
            return back
        start_found = roundtrip_ok(memory.y, layout.problem.y0, trace.y)
        cotangents = back.y, back.diff, back.times
        y, diff, times = jax.tree.map(lambda x: nan_unless(start_found, x), cotangents)
        return back._replace(y=y, diff=diff, times=times)

    def finish(self, back: BackwardState, num_accepted: Array) -> PyTree:
        """The cotangent of the problem, from those at its first time."""
        layout, ct, y0 = self.layout, self.cotangents, self.layout.problem.y0
        save = layout.config.save

        def first_step(diff: PyTree, y: Array, t: Array) -> Any:
            value = layout.each(step_reader, diff).fn(t, y) if save == "ts" else ()
            return layout.stepper.init(layout.field(t, diff), t, y), value

        (_, value), pull = jax.vjp(first_step, layout.diff, y0, self.t0)
        ct_value = first_value_cotangent(save, ct.ys, value, back.saves_left)
        diff, y0, t0 = pull((back.solver_state, ct_value))
        y0 = add_first_state_cotangent(save, y0 + back.y, ct.ys, ct.dense, num_accepted)
        ts = None
        if back.times is not None:
            ts = back.times.at[0].add(t0 + back.t).at[-1].add(back.t1)
            if save == "steps" and ct.ts is not None:
                ts = ts.at[0].add(ct.ts[0])
        (problem, _), _ = tree_add(back.diff, diff)
        return dataclasses.replace(problem, y0=y0, ts=ts)

    @property
    def t0(self) -> Array:
        """The first time."""
        return self.layout.problem.ts[0]
