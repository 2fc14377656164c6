"""A fixed number of checkpoints for a run of unknown length: they are thinned as it goes on.

When three quarters of the rows are taken, the distance between recorded steps doubles, and every
other row is free again.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class CheckpointSchedule(NamedTuple):
    """The step whose start each row of a thinned trace holds (-1: none yet), and their distance."""

    steps: Array
    stride: Array


def empty_schedule(rows: int) -> CheckpointSchedule:
    """Return the schedule of so many rows before the first step."""
    return CheckpointSchedule(jnp.full((rows,), -1, jnp.int32), jnp.ones((), jnp.int32))


def find_row(schedule: CheckpointSchedule, index: Array) -> tuple[Array, Array, CheckpointSchedule]:
    """Find the row for step `index`, whether the step is recorded, and the schedule after it."""
    steps, stride = schedule
    retried = steps == index  # its first attempt was rejected
    due = (index % stride == 0) & ~jnp.any(retried)
    # The other quarter is for the states that the backward pass computes between the recorded ones.
    full = jnp.sum((steps >= 0) & (steps % stride == 0)) >= steps.size - steps.size // 4
    stride = jnp.where(due & full, 2 * stride, stride)
    free = (steps < 0) | (steps % stride != 0)
    row = jnp.where(jnp.any(retried), jnp.argmax(retried), jnp.argmax(free)).astype(jnp.int32)
    recorded = index % stride == 0
    steps = steps.at[row].set(jnp.where(recorded, index, steps[row]))
    return row, recorded, CheckpointSchedule(steps, stride)
