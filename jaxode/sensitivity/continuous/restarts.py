"""States of the forward solve from which the backward solve of an adjoint equation begins again.

Where solutions converge forwards in time, they diverge backwards, and with them the error of a
state that is integrated backwards. The forward pass keeps a few states, whatever the number of its
steps; at each the backward pass has the state again, so that errors grow between two of them alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ...batch.forward import Iteration
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.ivp import direction_of
from ...integrate.save import StepRecord, put_row
from ..batch_cotangents import replace_in_problem

# Steps between the first states that are kept: a restart costs about half a step.
_STRIDE = 1


class KeptStates(NamedTuple):
    """Times and states that the forward solve kept; the time of an empty row is NaN."""

    t: Array
    y: Array


class RestartSchedule(eqx.Module):
    """Which steps' starts a solve keeps: every `2**k`-th, and at most `rows` of them.

    When all rows are taken the distance doubles, and new states take the places of every other one.
    """

    rows: int = eqx.field(static=True)  # a power of two
    stride: int = eqx.field(static=True, default=_STRIDE)  # the first distance, a power of two

    @classmethod
    def of_at_most(cls, count: int) -> "RestartSchedule":
        """Return the schedule of the largest number of rows that is a power of two."""
        return cls(1 << count.bit_length() - 1)

    def row(self, index: Array) -> Array:
        """Return the row of the start of step `index`; `rows` if it is not kept."""
        bits, first = self.rows.bit_length() - 1, self.stride.bit_length() - 1
        length = 32 - lax.clz(index.astype(jnp.int32))
        doublings = jnp.maximum(length - bits - first, 0)
        shift = first + doublings
        place = lax.shift_right_logical(index.astype(jnp.int32), shift)
        # Twice the distance gives every other row to later steps: the row's bits rotate by one.
        turn = doublings % max(bits, 1)
        low = lax.shift_right_logical(place, bits - turn)
        row = (lax.shift_left(place, turn) | low) & (self.rows - 1)
        due = (lax.shift_left(place, shift) == index) & (index > 0)
        return jnp.where(due, row, self.rows)

    def empty(self, y: Any, time_dtype: Any, *count: int) -> KeptStates:
        """Return the rows before the first step, with one more for states that are not kept."""
        shape = (*count, self.rows + 1)
        times = jnp.full(shape, jnp.nan, time_dtype)
        return KeptStates(times, jnp.zeros((*shape, *y.shape), y.dtype))


class RestartRecorder(NamedTuple):
    """A recorder that keeps states of a single solve, whose state is like `y`."""

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


class Restarts(NamedTuple):
    """The times at which a backward solve stops: saved times and those of states that were kept.

    - `ensemble`: with these times, as each trajectory's own.
    - `ys`, `jumps`: states and jumps of the adjoint there, shape `(trajectories, times, ...)`.
    - `last`: the index of the last saved time that each trajectory reached.
    - `saved_before`: the index of the last saved time before each of them, None without kept ones.
    """

    ensemble: Ensemble
    ys: Array
    jumps: Array
    last: Array
    saved_before: Array | None


def with_kept_states(restarts: Restarts, kept: KeptStates) -> Restarts:
    """Add the states that the forward solve kept to those at the saved times, in order of time."""
    ensemble, times = restarts.ensemble, restarts.ensemble.all_times
    rows = restarts.ys, restarts.jumps, restarts.last, *kept
    ts, *merged = jax.vmap(_merge, in_axes=(None if times.ndim == 1 else 0, *[0] * 5))(times, *rows)
    own = replace_in_problem(ensemble.per_trajectory, ts=ts)
    shared = replace_in_problem(ensemble.shared, ts=None)
    return Restarts(Ensemble(own, shared), *merged)


def _merge(
    ts: Array, ys: Array, jumps: Array, last: Array, t: Array, y: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Merge saved times and kept ones of one trajectory; returns the fields of `Restarts`."""
    # Rows that are empty, and states at a saved time, come after all others, where none goes.
    unused = jnp.isnan(t) | jnp.any(t[:, None] == ts, axis=1)
    distances = direction_of(ts) * (jnp.concatenate([ts, t]) - ts[0])
    is_unused = jnp.concatenate([jnp.zeros(ts.shape, bool), unused])
    order = jnp.argsort(jnp.where(is_unused, jnp.inf, distances), stable=True)
    all_times = jnp.concatenate([ts, jnp.where(unused, ts[-1], t)])
    jumps = jnp.concatenate([jumps, jnp.zeros((t.size, *jumps.shape[1:]), jumps.dtype)])
    place = jnp.argmax(order == last).astype(last.dtype)
    saved = jnp.where(order < ts.size, jnp.arange(order.size), 0)
    before = jnp.concatenate([jnp.zeros(1, saved.dtype), lax.cummax(saved)[:-1]])
    return (
        all_times[order], jnp.concatenate([ys, y])[order], jumps[order], place,
        before.astype(jnp.int32),
    )  # fmt: skip
