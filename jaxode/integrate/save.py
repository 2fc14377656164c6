"""Recorders of a solve: values at save times, every step, dense output; and the save-point cursor.

A recorder opens its buffers, and writes to them after every attempted step. A rejected step writes
to the row of the step after it, which overwrites it: so no write is conditional.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ..problem.state import common_dtype
from .xla_loops import chunk_size, host_controls_loops, leading, masked_while, num_elements


class StepRecord(NamedTuple):
    """An attempted step, from `(t, y)` to `(t1, y1)` over the signed `h`.

    `direction` is 1 forwards in time and -1 backwards. `index` counts the accepted steps before
    it. `dense` is the input of the solver's `interpolate`, `residuals` that of the backward pass,
    where they are stored. `before` is the integrator state before the step. `excludes_end`: times
    equal to `t1` are read in the step after it.
    """

    t: Array
    h: Array
    t1: Array
    direction: Array
    y: Array
    y1: Array
    dense: Any
    solver_state: Any
    index: Array
    accept: Array
    residuals: tuple[Array, ...] = ()
    before: Any = None
    excludes_end: Any = None


class SaveCursor(NamedTuple):
    """The position in a trajectory's save times, of one trajectory or, as vectors, of all lanes.

    `count`: the number of times passed. `t`: the next time. `ordered`: whether the times so far
    were in order.
    """

    count: Array
    t: Array
    ordered: Array

    def is_due(self, direction: Array, reach: Array) -> Array:
        """Tell whether a step has passed the next time; `reach` is `direction` times its end."""
        return direction * self.t <= reach

    def is_before(self, t1: Array, direction: Array) -> Array:
        """Tell whether the next time lies before `t1`."""
        return direction * (self.t - t1) < 0

    def is_last(self, t1: Array) -> Array:
        """Tell whether the next time is the trajectory's last time `t1`, or a repeat of it."""
        return self.t == t1

    def is_final(self, num_times: int) -> Array:
        """Tell whether the next time is the last entry of the save times."""
        return self.count == num_times - 1

    def is_incomplete(self, num_times: int) -> Array:
        """Tell whether there are times that were not passed."""
        return self.count < num_times

    def advance(self, following: Array, step: StepRecord) -> "SaveCursor":
        """Return the cursor moved to the time `following` by a step that has passed `t`."""
        ordered = self.ordered & in_order(step, self.t, following)
        return SaveCursor(self.count + 1, following, ordered)

    def advance_many(
        self, index: Array, time_of: Callable[[Array], Array], step: StepRecord
    ) -> tuple[Array, Array, "SaveCursor"]:
        """Move the cursor past all times of the chunk `index` that the step has passed.

        `time_of(count)` is the save time of an index. The chunk is the first axis of `index`.
        Returns which times are due, the times at which to read, and the cursor. Times that are not
        due are read at the step's start, where no interpolant overflows.
        """
        times, following = time_of(index), time_of(index + 1)
        due, passed = leading(step.direction * times <= reach_of(step))
        ordered = jnp.all(in_order(step, times, following) | ~due, axis=0)
        count = self.count + passed.astype(self.count.dtype)
        cursor = SaveCursor(count, time_of(count), self.ordered & ordered)
        return due, jnp.where(due, times, step.t), cursor


def reach_of(step: StepRecord) -> Array:
    """Return `direction * t1` of an accepted step, minus infinity of a rejected one.

    It is the number below that where the step excludes its end.
    """
    reach = step.direction * step.t1
    if step.excludes_end is not None:
        reach = jnp.where(step.excludes_end, jnp.nextafter(reach, -jnp.inf), reach)
    return jnp.where(step.accept, reach, -jnp.inf)


def in_order(step: StepRecord, t: Array, following: Array) -> Array:
    """Tell whether `t` lies not before the step's start, and `following` not before `t`."""
    direction = step.direction
    return (direction * (t - step.t) >= 0) & (direction * (following - t) >= 0)


def save_time(
    times: Callable[[Array], Array], count: Array, num_times: int, direction: Array
) -> Array:
    """Return the save time of index `count`; past the last, one that no step reaches.

    `times(index)` looks a valid index up.
    """
    last = num_times - 1
    time = times(jnp.minimum(count, last))
    return jnp.where(count > last, direction * jnp.inf, time)


class StepReader(NamedTuple):
    """The function that reads a saved value off a step: interpolant, then user's function."""

    interpolate: Callable[..., Array]
    fn: Callable[[Array, Array], PyTree]

    def __call__(
        self,
        t: Array,
        last: Array,
        step_t: Array,
        h: Array,
        y: Array,
        y1: Array,
        dense: Any,
        final: Array | None = None,
    ) -> PyTree:
        """Return the value at `t` inside a step; at the `last` time it is exactly that of `y1`.

        `final`: whether `t` is the last entry of the save times, and not only equal to it.
        """
        inner = self.interpolate(step_fraction(t, step_t, h, y), y, h, dense)
        return self.fn(t, state_at(last, final, y1, inner))

    def at_cursor(self, cursor: SaveCursor, step: StepRecord, t1: Array, num_times: int) -> PyTree:
        """Return the value at the cursor's time inside a step of a trajectory that ends at `t1`."""
        last, final = cursor.is_last(t1), cursor.is_final(num_times)
        return self(cursor.t, last, step.t, step.h, step.y, step.y1, step.dense, final)


def step_fraction(t: Array, start: Array, h: Array, y: Array) -> Array:
    """Return the fraction of a step at which `t` lies, in the precision of the state.

    Interpolants are evaluated in it, where times may be in a higher one.
    """
    real = common_dtype((np.dtype(jnp.finfo(y.dtype).dtype), np.dtype(np.float32)))
    return (t - start).astype(real) / h.astype(real)


def state_at(last: Array, final: Array | None, y1: Array, inner: Array) -> Array:
    """Return `y1` where `last`, else `inner`; only where `final` its derivative is that of `y1`."""
    y = jnp.where(last, y1, inner)
    return y if final is None else with_derivative_of(y, jnp.where(final, y1, inner))


@jax.custom_jvp
def with_derivative_of(value: Array, other: Array) -> Array:
    """Return `value`, with the derivative of `other`."""
    return value


@with_derivative_of.defjvp
def _derivative_of_other(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    return with_derivative_of(*primals), tangents[1]


class SavePointState(NamedTuple):
    """The state of a recorder of values at save times: the cursor and the buffers."""

    cursor: SaveCursor
    buffers: PyTree


class SaveAtTimes(eqx.Module):
    """The recorder of values at each of `ts`; buffers `(times, ...)` start as missing values."""

    ts: Array
    reading: StepReader

    def open(self, y0: Array) -> SavePointState:
        """Write the first time and all that equal it, since a solve may take no step."""
        first = self.reading.fn(self.ts[0], y0)
        same = self.ts == self.ts[0]

        def fill(value: Array) -> Array:
            mask = same.reshape((-1,) + (1,) * value.ndim)
            return jnp.where(mask, value, missing_value(value.dtype))

        cursor = SaveCursor(jnp.int32(1), self.ts[1], jnp.asarray(True))
        return SavePointState(cursor, jax.tree.map(fill, first))

    def needs_dense(self, state: SavePointState, t1: Array, direction: Array) -> Array:
        """Tell whether the next save time lies inside the coming step, which ends at `t1`."""
        return state.cursor.is_before(t1, direction)

    def write(self, state: SavePointState, step: StepRecord) -> SavePointState:
        """Write the values at every time that the step has reached."""
        direction, num_times = step.direction, self.ts.shape[0]
        reach = reach_of(step)

        def due(state: SavePointState) -> Array:
            return state.cursor.is_due(direction, reach)

        def write_next(state: SavePointState) -> SavePointState:
            cursor, buffers = state
            value = self.reading.at_cursor(cursor, step, self.ts[-1], num_times)
            buffers = jax.tree.map(lambda b, v: put_row(b, v, cursor.count), buffers, value)
            following = self._time(cursor.count + 1, direction)
            return SavePointState(cursor.advance(following, step), buffers)

        if not host_controls_loops():
            return lax.while_loop(due, write_next, state)
        many = chunk_size(num_times - 1, num_elements(state.buffers, num_times))
        return masked_while(
            due, lambda s: self._write_many(s, step, many), state, many == num_times - 1
        )

    def _write_many(self, state: SavePointState, step: StepRecord, many: int) -> SavePointState:
        """Write those of the next `many` times that the step has reached, all at once."""
        (cursor, buffers), num_times = state, self.ts.shape[0]
        index = cursor.count + jnp.arange(many, dtype=jnp.int32)
        due, at, after = cursor.advance_many(index, lambda i: self._time(i, step.direction), step)

        def read(count: Array, t: Array) -> PyTree:
            here = SaveCursor(count, t, cursor.ordered)
            return self.reading.at_cursor(here, step, self.ts[-1], num_times)

        values = jax.vmap(read)(index, at)
        row = jnp.where(due, index, num_times)
        buffers = jax.tree.map(lambda b, v: b.at[row].set(v, mode="drop"), buffers, values)
        return SavePointState(after, buffers)

    def _time(self, count: Array, direction: Array) -> Array:
        """Return the save time of index `count`; past the last, one that no step reaches."""

        def look_up(index: Array) -> Array:
            if index.ndim:
                return self.ts[index]
            return lax.dynamic_index_in_dim(self.ts, index, keepdims=False)

        return save_time(look_up, count, self.ts.shape[0], direction)


class SaveSteps(eqx.Module):
    """The recorder of the time and state at the end of every accepted step, the start included."""

    max_steps: int = eqx.field(static=True)

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array]:
        """Return buffers of `max_steps + 1` rows: the start, then missing values."""
        return blank_steps(self.max_steps, t0, y0)

    def write(self, state: tuple[Array, Array], step: StepRecord) -> tuple[Array, Array]:
        """Write the end of the step."""
        ts, ys = state
        return put_row(ts, step.t1, step.index + 1), put_row(ys, step.y1, step.index + 1)

    def close(self, state: tuple[Array, Array], count: Array) -> tuple[Array, Array]:
        """Clear the row that a rejected last step may have written."""
        ts, ys = state
        written = jnp.arange(self.max_steps + 1, dtype=jnp.int32) <= count
        mask = written.reshape((-1,) + (1,) * (ys.ndim - 1))
        return jnp.where(written, ts, jnp.nan), jnp.where(mask, ys, missing_value(ys.dtype))


class SaveDense(eqx.Module):
    """The recorder of every accepted step for dense output: `(t, h, y, dense)`, then zeros.

    `slopes` is the number of slopes that the solver stores of a step.
    """

    max_steps: int = eqx.field(static=True)
    slopes: int = eqx.field(static=True)

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array, Array, Array]:
        """Return buffers of `max_steps` rows."""
        return blank_dense(self.max_steps, self.slopes, t0, y0)

    def close(
        self, state: tuple[Array, Array, Array, Array], count: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Clear the row that a rejected last step may have written: its `h` is zero again."""
        t, h, y, dense = state
        return t, jnp.where(jnp.arange(self.max_steps, dtype=jnp.int32) < count, h, 0), y, dense

    def write(
        self, state: tuple[Array, Array, Array, Array], step: StepRecord
    ) -> tuple[Array, Array, Array, Array]:
        """Write the step."""
        row = (step.t, step.h, step.y, jnp.stack(step.dense))
        return jax.tree.map(lambda b, v: put_row(b, v, step.index), state, row)


def blank_steps(max_steps: int, t0: Array, y0: Array) -> tuple[Array, Array]:
    """Return buffers of times and states, `(..., max_steps + 1)`: the start, then missing values.

    `t0` has shape `(...)`: none, or one axis of trajectories, which then comes first in `y0` too.
    """
    rows, first = (*t0.shape, max_steps + 1), (slice(None),) * t0.ndim + (0,)
    ts = jnp.full(rows, jnp.nan, t0.dtype).at[first].set(t0)
    shape = (*rows, *y0.shape[t0.ndim :])
    return ts, jnp.full(shape, missing_value(y0.dtype)).at[first].set(y0)


def blank_dense(
    max_steps: int, slopes: int, t0: Array, y0: Array
) -> tuple[Array, Array, Array, Array]:
    """Return buffers of times, step sizes, states and slopes: zeros, but for the start.

    `t0` has shape `(...)`: none, or one axis of trajectories, which then comes first in `y0` too.
    """
    rows, first = (*t0.shape, max_steps), (slice(None),) * t0.ndim + (0,)
    state = y0.shape[t0.ndim :]
    times = jnp.zeros(rows, t0.dtype)
    states = jnp.zeros((*rows, *state), y0.dtype).at[first].set(y0)
    stages = jnp.zeros((*rows, slopes, *state), y0.dtype)
    return times.at[first].set(t0), times, states, stages


def put_row(buffer: Array, value: Array, index: Array) -> Array:
    """Return `buffer` with `value` as its row `index`."""
    start = (index,) + (jnp.zeros((), index.dtype),) * value.ndim
    return lax.dynamic_update_slice(buffer, value[None].astype(buffer.dtype), start)


def missing_value(dtype: Any) -> Array:
    """Return the value of rows that were not written: NaN, or zero in a dtype without NaN."""
    return jnp.asarray(jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)
