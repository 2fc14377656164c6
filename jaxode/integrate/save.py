"""What the loop writes down as it goes: values at times, every step, dense output, the trace.

Each recorder opens its buffers, and writes to them after every attempted step. A step that was
rejected writes to the slot of the step after it, which overwrites it: so no write is conditional.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from .xla_loops import chunk_size, host_controls_loops, masked_while, num_elements


class StepRecord(NamedTuple):
    """An attempted step, from `(t, y)` to `(t1, y1)` over the signed `h`.

    `direction` is 1 forwards in time and -1 backwards. `index` counts the accepted steps before
    it. `dense` is what the solver's `interpolate` reads, `residuals` what the backward pass
    will, where it is kept. `before` is the trajectory before it.
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


def in_order(step: StepRecord, t: Array, following: Array) -> Array:
    """Whether a time that is read lies behind the step's start, and the next not before it."""
    direction = step.direction
    return (direction * (t - step.t) >= 0) & (direction * (following - t) >= 0)


def reached_of(step: StepRecord, times: Array, following: Array) -> tuple[Array, Array, Array]:
    """Of the coming `times`, their axis first: which the step has reached, and where to read.

    And whether these were in order; `following` are the times after each. What is not reached is
    read at the step's start, where no interpolant overflows.
    """
    end = jnp.where(step.accept, step.direction * step.t1, -jnp.inf)
    due = jnp.cumsum(~(step.direction * times <= end), axis=0) == 0
    fine = jnp.all(in_order(step, times, following) | ~due, axis=0)
    return due, jnp.where(due, times, step.t), fine


class StepReader(NamedTuple):
    """How a value is read off a step: the solver's interpolant, and a function of the state."""

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
        """The value at `t` inside a step; at the last time it is that of `y1` to the bit.

        `final`: whether `t` is the last entry of the times, where it may be a repeat of that.
        """
        inner = self.interpolate((t - step_t) / h, y, h, dense)
        return self.fn(t, state_at(last, final, y1, inner))


def state_at(last: Array, final: Array | None, y1: Array, inner: Array) -> Array:
    """`y1` where `last`, else `inner`; it moves with the last time only where it is `final`."""
    y = jnp.where(last, y1, inner)
    return y if final is None else with_derivative_of(y, jnp.where(final, y1, inner))


@jax.custom_jvp
def with_derivative_of(value: Array, moving: Array) -> Array:
    """`value`, with the derivative of `moving`."""
    return value


@with_derivative_of.defjvp
def _moving(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    return with_derivative_of(*primals), tangents[1]


class SavePointState(NamedTuple):
    """How many times are written, the next one, whether they were in order, and the buffers."""

    count: Array
    t: Array
    ordered: Array
    buffers: PyTree


class SaveAtTimes(eqx.Module):
    """Values at each of `ts`, written as the steps pass them; buffers `(times, ...)` of NaN."""

    ts: Array
    reading: StepReader

    def open(self, y0: Array) -> SavePointState:
        """The first time written, and every other that equals it: a solve may take no step."""
        first = self.reading.fn(self.ts[0], y0)
        here = self.ts == self.ts[0]

        def fill(value: Array) -> Array:
            mask = here.reshape((-1,) + (1,) * value.ndim)
            return jnp.where(mask, value, missing_value(value.dtype))

        return SavePointState(
            jnp.int32(1), self.ts[1], jnp.asarray(True), jax.tree.map(fill, first)
        )

    def inside(self, state: SavePointState, t1: Array, direction: Array) -> Array:
        """Whether the next time to write lies before `t1`."""
        return direction * (state.t - t1) < 0

    def write(self, state: SavePointState, step: StepRecord) -> SavePointState:
        """Write every time that the step has reached."""
        direction, rows = step.direction, self.ts.shape[0] - 1
        reached = jnp.where(step.accept, direction * step.t1, -jnp.inf)

        def more(state: SavePointState) -> Array:
            return direction * state.t <= reached

        def put(state: SavePointState) -> SavePointState:
            count, t, ordered, buffers = state
            last, final = t == self.ts[-1], count == rows
            value = self.reading(t, last, step.t, step.h, step.y, step.y1, step.dense, final)
            buffers = jax.tree.map(lambda b, v: put_row(b, v, count), buffers, value)
            following = self._time(count + 1, direction)
            ordered = ordered & in_order(step, t, following)
            return SavePointState(count + 1, following, ordered, buffers)

        if not host_controls_loops():
            return lax.while_loop(more, put, state)
        many = chunk_size(rows, num_elements(state.buffers, rows + 1))
        return masked_while(more, lambda s: self._write_many(s, step, many), state, many == rows)

    def _write_many(self, state: SavePointState, step: StepRecord, many: int) -> SavePointState:
        """Write those of the next `many` times that the step has reached, in one go."""
        (count, _, ordered, buffers), direction = state, step.direction
        index, last = count + jnp.arange(many), self.ts.shape[0] - 1
        times, after = self._time(index, direction), self._time(index + 1, direction)
        due, at, fine = reached_of(step, times, after)

        def value(t: Array, last: Array, final: Array) -> PyTree:
            return self.reading(t, last, step.t, step.h, step.y, step.y1, step.dense, final)

        values = jax.vmap(value)(at, times == self.ts[-1], index == last)
        place = jnp.where(due, index, last + 1)
        buffers = jax.tree.map(lambda b, v: b.at[place].set(v, mode="drop"), buffers, values)
        count = count + jnp.sum(due, dtype=count.dtype)
        return SavePointState(count, self._time(count, direction), ordered & fine, buffers)

    def _time(self, count: Array, direction: Array) -> Array:
        """The time after `count` written ones; after all of them, one that is never reached."""
        last = self.ts.shape[0] - 1
        place = jnp.minimum(count, last)
        one = count.ndim == 0
        time = lax.dynamic_index_in_dim(self.ts, place, keepdims=False) if one else self.ts[place]
        return jnp.where(count > last, direction * jnp.inf, time)


class SaveSteps(eqx.Module):
    """The time and state at the end of every accepted step, the start included."""

    max_steps: int = eqx.field(static=True)

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array]:
        """Buffers of `max_steps + 1` rows, the first written, the others NaN."""
        rows = self.max_steps + 1
        ts = jnp.full((rows,), jnp.nan, t0.dtype).at[0].set(t0)
        return ts, jnp.full((rows, *y0.shape), missing_value(y0.dtype)).at[0].set(y0)

    def write(self, state: tuple[Array, Array], step: StepRecord) -> tuple[Array, Array]:
        """Write the end of the step."""
        ts, ys = state
        return put_row(ts, step.t1, step.index + 1), put_row(ys, step.y1, step.index + 1)

    def close(self, state: tuple[Array, Array], count: Array) -> tuple[Array, Array]:
        """Forget the row that a rejected last step may have left."""
        ts, ys = state
        known = jnp.arange(self.max_steps + 1) <= count
        mask = known.reshape((-1,) + (1,) * (ys.ndim - 1))
        return jnp.where(known, ts, jnp.nan), jnp.where(mask, ys, missing_value(ys.dtype))


class SaveDense(eqx.Module):
    """Every accepted step with what dense output reads: `(t, h, y, dense)`, rows of zeros after.

    `slopes` is the number of slopes that the solver keeps of a step.
    """

    max_steps: int = eqx.field(static=True)
    slopes: int = eqx.field(static=True)

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array, Array, Array]:
        """Buffers of `max_steps` rows."""
        times = jnp.zeros((self.max_steps,), t0.dtype)
        states = jnp.zeros((self.max_steps, *y0.shape), y0.dtype).at[0].set(y0)
        slopes = jnp.zeros((self.max_steps, self.slopes, *y0.shape), y0.dtype)
        return times.at[0].set(t0), times, states, slopes

    def close(
        self, state: tuple[Array, Array, Array, Array], count: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Forget the row that a rejected last step may have left: its `h` is zero again."""
        t, h, y, dense = state
        return t, jnp.where(jnp.arange(self.max_steps) < count, h, 0), y, dense

    def write(
        self, state: tuple[Array, Array, Array, Array], step: StepRecord
    ) -> tuple[Array, Array, Array, Array]:
        """Write the step."""
        parts = (step.t, step.h, step.y, jnp.stack(step.dense))
        return jax.tree.map(lambda b, v: put_row(b, v, step.index), state, parts)


def put_row(buffer: Array, value: Array, index: Array) -> Array:
    """`buffer` with `value` as its row `index`."""
    start = (index,) + (jnp.zeros((), index.dtype),) * value.ndim
    return lax.dynamic_update_slice(buffer, value[None].astype(buffer.dtype), start)


def missing_value(dtype: Any) -> Array:
    """What stands where nothing was written: NaN, or zero in a dtype that has none."""
    return jnp.asarray(jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)
