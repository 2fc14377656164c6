"""How the backward pass of one trajectory finds the state before each step: three sources.

The state is stored, computed again from the last checkpoint before the step, or found by the
solver's step back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...integrate.events.detection import RECORDED
from ...integrate.events.discontinuities import ends_on
from ...integrate.save import put_row
from ...integrate.xla_loops import cond_as_loop
from ...solvers.base import StepResult
from .checkpoints import CheckpointTrace
from .cotangents import StepClock
from .event_vjp import (
    end_of_step,
    num_jumps,
    restarted,
    state_after_event,
    state_after_jumps,
)
from .events import EventVJP
from .layout import StepLayout

State = tuple[Array, Any]  # a state, and the solver state there


class StepBackState(NamedTuple):
    """The state and solver state that the steps back have led to."""

    y: Array
    solver_state: Any


class Checkpoints(NamedTuple):
    """Stored states, and the step that each is the start of; -1 where there is none."""

    steps: Array
    states: State


class StateSource(eqx.Module):
    """The states before the steps of a trace; `steps_back` where they are found by steps back."""

    layout: StepLayout
    trace: CheckpointTrace
    events: EventVJP | None
    steps_back: bool = eqx.field(static=True)

    def open(self) -> tuple[Callable[[Array, StepClock, Any], tuple[Array, Any, Any]], Any]:
        """The function that finds the state before a step, and its first memory.

        A function from step, clock and memory to state, solver state and memory.
        """
        trace = self.trace
        if trace.schedule is not None:
            return self.recomputed, Checkpoints(trace.schedule.steps, (trace.y, trace.solver_state))
        if self.steps_back:
            return self.stepped_back, StepBackState(trace.y, trace.solver_state)
        return self.stored, ()

    def stored(self, n: Array, clock: StepClock, memory: Any) -> tuple[Array, Any, Any]:
        """The state before step `n`, which was stored."""
        y, solver_state = jax.tree.map(lambda b: b[n], (self.trace.y, self.trace.solver_state))
        return y, solver_state, memory

    def stepped_back(
        self, n: Array, clock: StepClock, after: StepBackState
    ) -> tuple[Array, Any, StepBackState]:
        """The state before step `n`, by the solver's step back from the state after it."""
        solver, (t, h) = self.layout.stepper, clock
        y, solver_state = solver.step_back(self.layout.field(t), t, after.y, h, after.solver_state)
        return y, solver_state, StepBackState(y, solver_state)

    def recomputed(
        self, n: Array, clock: StepClock, checkpoints: Checkpoints
    ) -> tuple[Array, Any, Checkpoints]:
        """The state before step `n`, computed again from the last checkpoint before it.

        The rows of later steps are free: states on the way are stored there, evenly spaced.
        """
        trace, solver = self.trace, self.layout.stepper.for_forward_mode()
        row = jnp.argmax(jnp.where(checkpoints.steps <= n, checkpoints.steps, -1))
        begin = checkpoints.steps[row]
        y, solver_state = jax.tree.map(lambda b: b[row], checkpoints.states)
        stores_solver_state = bool(jax.tree.leaves(solver_state))
        if not stores_solver_state:
            solver_state = solver.init(self.layout.field(trace.t[begin]), trace.t[begin], y)
        free = jnp.sum((checkpoints.steps > n) | (checkpoints.steps < 0), dtype=jnp.int32)
        stride = (n - begin) // (free + 1) + 1

        def step_again(carry: tuple[Array, Array, Any, Checkpoints]) -> tuple:
            i, y, solver_state, (steps, states) = carry
            y, solver_state = self.repeat(i, y, solver_state)
            i = i + 1
            due, row = (i - begin) % stride == 0, jnp.argmax((steps > n) | (steps < 0))
            states = jax.tree.map(
                lambda b, v: put_row(b, jnp.where(due, v, b[row]), row),
                states,
                (y, solver_state if stores_solver_state else ()),
            )
            steps = steps.at[row].set(jnp.where(due, i, steps[row]))
            return i, y, solver_state, Checkpoints(steps, states)

        carry = begin, y, solver_state, checkpoints
        _, y, solver_state, checkpoints = lax.while_loop(lambda c: c[0] < n, step_again, carry)
        return y, solver_state if stores_solver_state else (), checkpoints

    def repeat(self, n: Array, y: Array, solver_state: Any) -> State:
        """The state after step `n`, and after the event or jump that ended it."""
        t, h, solver = self.trace.t[n], self.trace.h[n], self.layout.stepper.for_forward_mode()
        needs_dense = True if self.layout.problem.events else None
        stepped = solver.step(self.layout.field(t), t, y, h, solver_state, needs_dense)
        if self.events is None:
            return stepped.y1, stepped.solver_state
        return self.after_event(self.events, n, (t, h), y, stepped)

    def after_event(
        self, events: EventVJP, n: Array, clock: StepClock, y: Array, stepped: StepResult
    ) -> State:
        """The state with which the step after step `n` began."""
        layout, (t, h) = self.layout, clock
        cut, row, stop = jnp.asarray(False), None, layout.next_discontinuity(layout.diff, t)
        if events.log is not None:
            known = jnp.arange(events.log.ts.shape[0], dtype=jnp.int32) < events.num_events
            cuts = (events.log.effect != RECORDED) & (events.log.steps == n) & known
            cut, row = jnp.any(cuts), events.row(layout, jnp.argmax(cuts))
        landed = jnp.asarray(False)
        if layout.ensemble.has_jumps:
            landed = (
                ends_on(t, h, stop)
                if row is None
                else jnp.where(cut, row.ts == stop, ends_on(t, h, stop))
            )
            landed = landed & (stop != layout.saved_time(-1))

        def after_end(_: State) -> State:
            problem, config, parts = layout.problem, layout.config, (y, stepped.y1, stepped.dense)
            time, state = end_of_step(problem, config, parts, clock, row, cut)
            if row is not None:
                applied = state_after_event(problem, config, time, state, row.index)
                state = jnp.where(cut, applied, state)
            number = jnp.where(landed, num_jumps(problem, config, time), 0)
            after = restarted(
                problem, config, *state_after_jumps(problem, config, time, state, t, number), True
            )
            return after.y, after.solver_state

        return cond_as_loop(cut | landed, after_end, (stepped.y1, stepped.solver_state))
