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
from ..cse import cse
from ..reached import Reached, SolveOutcome, what_is_reached, with_poison
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
    """The backward pass over the trace of one trajectory, as far as that came."""

    layout: StepLayout
    source: StateSource
    pullback: StepPullback
    cotangents: Result
    outcome: SolveOutcome
    reached: Reached

    @classmethod
    def of(
        cls,
        layout: StepLayout,
        trace: CheckpointTrace,
        cotangents: Result,
        outcome: SolveOutcome,
        steps_back: bool,
    ) -> "DiscreteBackward":
        """The pass for these cotangents; `steps_back`: whether states are found by steps back."""
        problem, config = layout.problem, layout.config
        jumps = problem.jumps if config.saves_after_jumps else None
        reached = what_is_reached(config.save, problem.ts, outcome, cotangents, jumps)
        events = EventVJP(outcome.log, cotangents) if problem.has_events else None
        source = StateSource(layout, trace, events, steps_back)
        pullback = StepPullback(SavedValuesVJP(cotangents), events)
        return cls(layout, source, pullback, cotangents, outcome, reached)

    def run(self) -> PyTree:
        """The cotangent of the problem."""
        num_steps = self.num_steps
        back, found = self.steps(self.start(), num_steps)
        poisoned = self.reached.poisoned | (self.reached.asked & jnp.logical_not(found))
        return with_poison(self.finish(back, num_steps), self.reached._replace(poisoned=poisoned))

    def start(self) -> BackwardState:
        """The state at the last time, or where the solve failed."""
        layout, ct, y0 = self.layout, self.cotangents, self.layout.problem.y0
        y = last_state_cotangent(layout.config.save, y0, ct.y1, ct.ys)
        solver_state = jax.eval_shape(
            lambda: layout.stepper.init(layout.field(self.t0), self.t0, y0)
        )
        ts, times = layout.problem.ts, layout.with_times
        return BackwardState(
            y=jnp.where(self.reached.failed, 0, y),
            solver_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), solver_state),
            diff=tree_zeros(layout.diff),
            t=jnp.zeros_like(self.t0) if times else None,
            t1=jnp.zeros_like(self.t0) if times else None,
            times=jnp.zeros_like(ts) if times else None,
            saves_left=self.reached.num_saves,
            events_left=() if self.pullback.events is None else self.pullback.events.num_events,
        )

    @property
    def num_steps(self) -> Array:
        """How many steps are pulled back: all that led to something saved."""
        n, trace = self.outcome.num_accepted, self.source.trace
        if isinstance(self.source.open()[1], StepBackState):
            return jnp.where(self.reached.wanted, n, 0)
        index = jnp.arange(trace.t.shape[0], dtype=n.dtype)
        counts = self.reached.counts(trace.t, index, self.layout.direction) & (index < n)
        some = jnp.sum(counts, dtype=n.dtype)
        return jnp.where(self.reached.wanted, jnp.where(self.reached.failed, some, n), 0)

    def steps(self, back: BackwardState, num_steps: Array) -> tuple[BackwardState, Array | bool]:
        """The state at the first time, from the one at the last: pulled back over every step.

        Also whether the states that steps back have led to are those of the solve.
        """
        layout, trace = self.layout, self.source.trace
        num_accepted = self.outcome.num_accepted
        state_before, memory = self.source.open()
        failed, ends = self.reached.failed, jnp.where(self.reached.failed, -1, num_accepted)

        def pull_back_step(
            carry: tuple[Array, Any, BackwardState],
        ) -> tuple[Array, Any, BackwardState]:
            n, memory, back = carry[0] - 1, *carry[1:]
            t, h = step_clock(trace, layout.config, layout.problem.ts, n, ends)
            end = memory.y if isinstance(memory, StepBackState) else None
            y, solver_state, memory = state_before(n, (t, h), memory)
            if not jax.tree.leaves(solver_state):
                solver_state = layout.stepper.init(layout.field(t), t, y)
            step = ReplayedStep(y, solver_state, t, h, n, n == num_steps - 1, failed=failed)
            residuals = jax.tree.map(lambda b: b[n], trace.residuals)
            return n, memory, self.pullback(layout, back, step, end, residuals)

        start = num_steps, memory, back
        _, memory, back = lax.while_loop(lambda s: s[0] > 0, cse(pull_back_step), start)
        if not isinstance(memory, StepBackState):
            return back, True
        t0, y0 = layout.problem.ts[0], layout.problem.y0
        start = y0, layout.stepper.init(layout.field(t0), t0, y0)
        return back, roundtrip_ok(
            layout.config.method, memory, start, (trace.y, trace.solver_state)
        )

    def finish(self, back: BackwardState, num_steps: Array) -> PyTree:
        """The cotangent of the problem, from those at its first time."""
        layout, ct, y0 = self.layout, self.cotangents, self.layout.problem.y0
        save = layout.config.save

        def first_value(diff: PyTree, y: Array, t: Array) -> Any:
            return layout.each(step_reader, diff).fn(t, y) if save == "ts" else ()

        def solver_state(diff: PyTree, y: Array, t: Array) -> Any:
            return layout.stepper.init(layout.field(t, diff), t, y)

        start = layout.diff, y0, self.t0
        value, pull = jax.vjp(first_value, *start)
        of_value = pull(first_value_cotangent(save, ct.ys, value, back.saves_left))
        _, pull = jax.vjp(solver_state, *start)
        # Where no step is pulled back, the field need not be finite at the start.
        of_state = jax.tree.map(lambda x: jnp.where(num_steps > 0, x, 0), pull(back.solver_state))
        diff, y0, t0 = tree_add(of_value, of_state)
        y0 = add_first_state_cotangent(
            save, y0 + back.y, ct.ys, ct.dense, self.outcome.num_accepted
        )
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
