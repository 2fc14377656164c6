"""Checkpoints of the discrete adjoint: the accepted steps that the forward solve records."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ...integrate.save import StepRecord, put_row
from ...integrate.schedule import CheckpointSchedule, empty_schedule, find_row


class CheckpointTrace(NamedTuple):
    """The accepted steps as the backward pass of the discrete adjoint reads them.

    - `t`, `h`: of every step; `()` where the controller prescribes them.
    - `y`, `solver_state`: the start of every step, or of those that `schedule` names; of a
      `TimeRecorder` the end of the solve.
    - `residuals`: of the stages of every step, where they are stored.
    """

    t: Any
    h: Any
    y: Any
    solver_state: Any
    schedule: CheckpointSchedule | None
    residuals: tuple[Array, ...] = ()


class TimeRecorder(eqx.Module):
    """Records a `CheckpointTrace` without states, for a solver that finds these by steps back.

    Its `y` and `solver_state` are those at the end of the solve. `known` times are not recorded.
    """

    max_steps: int = eqx.field(static=True)
    known: bool = eqx.field(static=True)

    def open(self, t0: Array, y0: Array, solver_state: Any) -> CheckpointTrace:
        """Buffers of zeros, or none."""
        times = () if self.known else jnp.zeros((self.max_steps,), t0.dtype)
        return CheckpointTrace(times, times, y0, (), None)

    def write(self, trace: CheckpointTrace, step: StepRecord) -> CheckpointTrace:
        """Record start time and size of the step."""
        if self.known:
            return trace
        t, h = put_row(trace.t, step.t, step.index), put_row(trace.h, step.h, step.index)
        return trace._replace(t=t, h=h)

    def end(self, trace: CheckpointTrace, y1: Array) -> CheckpointTrace:
        """Record the last state."""
        return trace._replace(y=y1)

    def close(self, trace: CheckpointTrace, solver_state: Any) -> CheckpointTrace:
        """Record the last solver state."""
        return trace._replace(solver_state=solver_state)


class CheckpointRecorder(eqx.Module):
    """Records a `CheckpointTrace` with `rows` states for at most `max_steps` steps.

    With fewer rows than steps the states are thinned as the solve goes: when three quarters of the
    rows are taken, the distance between recorded steps doubles, and every other row is free again.

    - `keep_carry`: whether solver states are recorded, or initialised again by the backward pass.
    - `residuals`: shapes of those of one step, where they are stored.
    """

    max_steps: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    keep_carry: bool = eqx.field(static=True)
    residuals: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True, default=())

    def open(self, t0: Array, y0: Array, solver_state: Any) -> CheckpointTrace:
        """Buffers of zeros."""

        def buffers(tree: Any) -> Any:
            return jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), tree)

        times = jnp.zeros((self.max_steps,), t0.dtype)
        y, solver_state = buffers((y0, solver_state if self.keep_carry else ()))
        if self.rows >= self.max_steps:
            return CheckpointTrace(times, times, y, solver_state, None, buffers(self.residuals))
        return CheckpointTrace(times, times, y, solver_state, empty_schedule(self.rows))

    def write(self, trace: CheckpointTrace, step: StepRecord) -> CheckpointTrace:
        """Record the start of the step."""
        t, h = put_row(trace.t, step.t, step.index), put_row(trace.h, step.h, step.index)
        start = step.y, step.solver_state if self.keep_carry else ()
        if trace.schedule is None:
            (y, solver_state), residuals = jax.tree.map(
                lambda b, v: put_row(b, v, step.index),
                ((trace.y, trace.solver_state), trace.residuals),
                (start, step.residuals),
            )
            return CheckpointTrace(t, h, y, solver_state, None, residuals)
        row, due, schedule = find_row(trace.schedule, step.index)
        y, solver_state = jax.tree.map(
            lambda b, v: put_row(b, jnp.where(due, v, b[row]), row),
            (trace.y, trace.solver_state),
            start,
        )
        return CheckpointTrace(t, h, y, solver_state, schedule)

    def close(self, trace: CheckpointTrace, solver_state: Any) -> CheckpointTrace:
        """Return the trace as it is."""
        return trace
