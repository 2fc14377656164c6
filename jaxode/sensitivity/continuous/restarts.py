"""States of the forward solve from which the backward solve of an adjoint equation begins again.

Where solutions converge forwards in time, they diverge backwards, and with them the error of a
state that is integrated backwards. The forward pass keeps a few states, whatever the number of its
steps; the backward pass begins again from them, so that errors grow between two of them alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...batch.forward import Iteration
from ...batch.queue import LaneTile
from ...integrate.ivp import direction_of
from ...integrate.save import StepRecord, put_row


class KeptStates(NamedTuple):
    """Times and states that the forward solve kept; the time of an empty row is infinite."""

    t: Array
    y: Array

    def in_order(self, ts: Array) -> "KeptStates":
        """Return the rows of all trajectories in order of time from the first of `ts` on.

        `ts`: shape `(times,)` or `(trajectories, times)`. Empty rows come last.
        """
        direction, start = direction_of(ts.T), ts.T[0]
        never = jnp.where(direction < 0, -jnp.inf, jnp.inf)[..., None]
        times = jnp.where(jnp.isinf(self.t), never, self.t)
        order = jnp.argsort(direction[..., None] * (times - start[..., None]), axis=1)
        in_rows = jax.vmap(lambda x, order: x[order])
        return KeptStates(in_rows(times, order), in_rows(self.y, order))

    def ahead(self, number: Array, t: Array, direction: Array) -> Array:
        """Return how many states of a trajectory in order are left at `t`, going backwards."""
        return jnp.sum(direction * (self.t[number] - t) > 0, dtype=jnp.int32)


class RestartSchedule(eqx.Module):
    """Which steps' starts a solve keeps: every `2**k`-th, and at most `rows` of them.

    When all rows are taken the distance doubles, and new states take the places of every other one.
    """

    rows: int = eqx.field(static=True)  # a power of two

    @classmethod
    def of_at_most(cls, count: int) -> "RestartSchedule":
        """Return the schedule of the largest number of rows that is a power of two."""
        return cls(1 << count.bit_length() - 1)

    def row(self, index: Array) -> Array:
        """Return the row of the start of step `index`; `rows` if it is not kept."""
        bits, index = self.rows.bit_length() - 1, index.astype(jnp.int32)
        doublings = jnp.maximum(32 - lax.clz(index) - bits, 0)
        place = lax.shift_right_logical(index, doublings)
        # Twice the distance gives every other row to later steps: the row's bits rotate by one.
        turn = doublings % max(bits, 1)
        low = lax.shift_right_logical(place, bits - turn)
        row = (lax.shift_left(place, turn) | low) & (self.rows - 1)
        due = (lax.shift_left(place, doublings) == index) & (index > 0)
        return jnp.where(due, row, self.rows)

    def empty(self, y: Any, time_dtype: Any, *count: int) -> KeptStates:
        """Return the rows before the first step, with one more for states that are not kept."""
        shape = (*count, self.rows + 1)
        times = jnp.full(shape, jnp.inf, time_dtype)
        return KeptStates(times, jnp.zeros((*shape, *y.shape), y.dtype))


class RestartRecorder(NamedTuple):
    """A recorder that keeps states of a single solve."""

    schedule: RestartSchedule

    def open(self, t0: Array, y0: Array, solver_state: Any) -> KeptStates:
        """Return empty rows."""
        return self.schedule.empty(y0, t0.dtype)

    def write(self, kept: KeptStates, step: StepRecord) -> KeptStates:
        """Keep the state before a step, if it is due."""
        row = self.schedule.row(step.index)
        return KeptStates(put_row(kept.t, step.t, row), put_row(kept.y, step.y, row))

    def close(self, kept: KeptStates, solver_state: Any) -> KeptStates:
        """Return the rows as they are."""
        return kept


def keep_in_lanes(
    schedule: RestartSchedule, tile: LaneTile, count: int
) -> Callable[[KeptStates, Iteration], KeptStates]:
    """Return the function that keeps states of an iteration's lanes, of `count` trajectories."""

    def write(kept: KeptStates, iteration: Iteration) -> KeptStates:
        steps = iteration.steps
        row, present = schedule.row(steps.index), iteration.numbers < count
        due = present & (row < schedule.rows)
        return tile.put(kept, due, (iteration.numbers, row), KeptStates(steps.t, steps.y))

    return write
