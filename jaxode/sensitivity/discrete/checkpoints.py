"""Checkpoints of the discrete adjoint: the accepted steps that the forward solve records."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ...integrate.save import StepRecord, put_row


class CheckpointSchedule(NamedTuple):
    """Which step each row of a thinned trace holds (-1: none yet), and their distance."""

    steps: Array
    stride: Array


class CheckpointTrace(NamedTuple):
    """The accepted steps as the discrete adjoint replays them.

    Every `(t, h)` is kept that the controller cannot tell. `y` and `solver_state` have a row per step, or,
    thinned, the rows that `thinning` tells of; of a `TimeRecorder` they are those at the end.
    `residuals`: what the backward pass reads of the stages, if it is kept.
    """

    t: Any
    h: Any
    y: Any
    solver_state: Any
    thinning: CheckpointSchedule | None
    residuals: tuple[Array, ...] = ()


class TimeRecorder(eqx.Module):
    """Records a `CheckpointTrace` of times alone, for a solver that finds the states by steps back.

    Its `y` and `solver_state` are those at the end of the solve. `known` times are not recorded.
    """

    max_steps: int = eqx.field(static=True)
    known: bool = eqx.field(static=True)

    def open(self, t0: Array, y0: Array, carry: Any) -> CheckpointTrace:
        """Buffers of zeros, or none."""
        times = () if self.known else jnp.zeros((self.max_steps,), t0.dtype)
        return CheckpointTrace(times, times, (), (), None)

    def write(self, trace: CheckpointTrace, step: StepRecord) -> CheckpointTrace:
        """Write down when the step began, and its size."""
        if self.known:
            return trace
        t, h = put_row(trace.t, step.t, step.index), put_row(trace.h, step.h, step.index)
        return trace._replace(t=t, h=h)

    def close(self, trace: CheckpointTrace, y1: Array, carry: Any) -> CheckpointTrace:
        """Keep the end."""
        return trace._replace(y=y1, solver_state=carry)


class CheckpointRecorder(eqx.Module):
    """Records a `CheckpointTrace` with `rows` states for at most `max_steps` steps.

    With fewer rows than steps the states are thinned as the solve goes: when three quarters of the
    rows are taken, the distance between kept steps doubles and every other row becomes free again.
    """

    max_steps: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    keep_carry: bool = eqx.field(static=True)
    residuals: tuple[jax.ShapeDtypeStruct, ...] = eqx.field(static=True, default=())

    def open(self, t0: Array, y0: Array, carry: Any) -> CheckpointTrace:
        """Buffers of zeros."""
        times = jnp.zeros((self.max_steps,), t0.dtype)
        carry = carry if self.keep_carry else ()
        y, carry = jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape), x.dtype), (y0, carry))
        if self.rows >= self.max_steps:
            kept = tuple(jnp.zeros((self.rows, *x.shape), x.dtype) for x in self.residuals)
            return CheckpointTrace(times, times, y, carry, None, kept)
        thinning = CheckpointSchedule(
            jnp.full((self.rows,), -1, jnp.int32), jnp.ones((), jnp.int32)
        )
        return CheckpointTrace(times, times, y, carry, thinning)

    def write(self, trace: CheckpointTrace, step: StepRecord) -> CheckpointTrace:
        """Write down the start of the step."""
        t, h = put_row(trace.t, step.t, step.index), put_row(trace.h, step.h, step.index)
        carry = step.solver_state if self.keep_carry else ()
        if trace.thinning is None:
            y, carry, kept = jax.tree.map(
                lambda b, v: put_row(b, v, step.index),
                (trace.y, trace.solver_state, trace.residuals),
                (step.y, carry, step.residuals),
            )
            return CheckpointTrace(t, h, y, carry, None, kept)
        row, keep, thinning = _find_row(trace.thinning, step.index)
        y, carry = jax.tree.map(
            lambda b, v: put_row(b, jnp.where(keep, v, b[row]), row),
            (trace.y, trace.solver_state),
            (step.y, carry),
        )
        return CheckpointTrace(t, h, y, carry, thinning)

    def close(self, trace: CheckpointTrace, y1: Array, carry: Any) -> CheckpointTrace:
        """The trace as it is."""
        return trace


def _find_row(
    thinning: CheckpointSchedule, index: Array
) -> tuple[Array, Array, CheckpointSchedule]:
    """The row for step `index`, whether the step is kept, and the thinning after it."""
    steps, stride = thinning
    again = steps == index  # its first attempt was rejected
    due = (index % stride == 0) & ~jnp.any(again)
    # The rest is for those who run the steps again between the kept ones.
    full = jnp.sum((steps >= 0) & (steps % stride == 0)) >= steps.size - steps.size // 4
    stride = jnp.where(due & full, 2 * stride, stride)
    free = (steps < 0) | (steps % stride != 0)
    row = jnp.where(jnp.any(again), jnp.argmax(again), jnp.argmax(free)).astype(jnp.int32)
    keep = index % stride == 0
    steps = steps.at[row].set(jnp.where(keep, index, steps[row]))
    return row, keep, CheckpointSchedule(steps, stride)
