"""What lanes write down as they go: values at times, every step, dense output.

The buffers have a row per trajectory. They begin as missing values, so a row that is not reached
stays so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.save import StepRecord, in_order, missing_value, reached_of
from ..integrate.xla_loops import chunk_size, host_controls_loops, masked_while, size_of
from .queue import LaneTile


class LaneSavePoint(NamedTuple):
    """How far a trajectory's times are written: how many, the next one, whether in order."""

    count: Array
    t: Array
    ordered: Array


class LaneSaveAtTimes(eqx.Module):
    """Values at the times of each trajectory; buffers `(trajectories, times, ...)`.

    `ts` has shape `(times,)`, or `(trajectories, times)` where each has its own.
    """

    ts: Array
    tile: LaneTile

    def open(self, firsts: PyTree) -> PyTree:
        """The value at the first time, in its row and that of every time equal to it."""
        here = self.ts == self.ts[..., :1]
        here = here if here.ndim == 2 else here[None]

        def fill(first: Array) -> Array:
            mask = here.reshape(here.shape + (1,) * (first.ndim - 1))
            return jnp.where(mask, first[:, None], missing_value(first.dtype))

        return jax.tree.map(fill, firsts)

    def cursor(self, number: Array, direction: Array) -> LaneSavePoint:
        """A trajectory's reader after its first time."""
        ts = self.ts if self.ts.ndim == 1 else self.ts[number]
        # Of a span that is empty all times were written at its start.
        count = jnp.where(jnp.any(ts != ts[0]), 1, ts.shape[0]).astype(jnp.int32)
        return LaneSavePoint(count, self.time(number, count, direction), jnp.asarray(True))

    def time(self, number: Array, count: Array, direction: Array) -> Array:
        """The time after `count` written ones; after all of them, one that is never reached."""
        last = self.ts.shape[-1] - 1
        place = jnp.minimum(count, last)
        time = self.ts[place] if self.ts.ndim == 1 else self.ts[number, place]
        return jnp.where(count > last, direction * jnp.inf, time)

    def write(
        self,
        read: Callable[[LaneSavePoint], PyTree],
        reader: LaneSavePoint,
        numbers: Array,
        steps: StepRecord,
        buffers: PyTree,
    ) -> tuple[LaneSavePoint, PyTree]:
        """Write every time that the accepted steps have reached.

        `read(reader)` gives the values of all lanes at their readers' times.
        """

        def reached(reader: LaneSavePoint) -> Array:
            direction = steps.direction
            return steps.accept & (direction * reader.t <= direction * steps.t1)

        def put(state: tuple[Array, LaneSavePoint, PyTree]) -> tuple[Array, LaneSavePoint, PyTree]:
            mask, reader, buffers = state
            buffers = self.tile.put(buffers, mask, (numbers, reader.count), read(reader))
            moved = jax.vmap(self.after, in_axes=(0, 0, -1))(numbers, reader, steps)
            reader = jax.tree.map(lambda a, b: jnp.where(mask, a, b), moved, reader)
            return reached(reader), reader, buffers

        def put_many(
            state: tuple[Array, LaneSavePoint, PyTree],
        ) -> tuple[Array, LaneSavePoint, PyTree]:
            _, reader, buffers = state
            index = reader.count + jnp.arange(many)[:, None]
            due, at, moved = self._passed(reader, index, numbers, steps)
            values = jax.vmap(lambda count, t: read(LaneSavePoint(count, t, reader.ordered)))(
                index, at
            )
            buffers = self.tile.put_many(buffers, due, (numbers, index), values)
            return reached(moved), moved, buffers

        start = reached(reader), reader, buffers
        if not host_controls_loops():
            return lax.while_loop(lambda s: jnp.any(s[0]), put, start)[1:]
        count, rows = jax.tree.leaves(buffers)[0].shape[0], self.ts.shape[-1]
        many = chunk_size(rows - 1, size_of(buffers, count * rows) * self.tile.width)
        return masked_while(lambda s: jnp.any(s[0]), put_many, start, many == rows - 1)[1:]

    def _passed(
        self, reader: LaneSavePoint, index: Array, numbers: Array, steps: StepRecord
    ) -> tuple[Array, Array, LaneSavePoint]:
        """Which of the next times the steps have reached, where to read, the readers after them."""
        times, following = (self.time(numbers, i, steps.direction) for i in (index, index + 1))
        due, at, fine = reached_of(steps, times, following)
        count = reader.count + jnp.sum(due, axis=0, dtype=reader.count.dtype)
        t = self.time(numbers, count, steps.direction)
        return due, at, LaneSavePoint(count, t, reader.ordered & fine)

    def after(self, number: Array, reader: LaneSavePoint, step: StepRecord) -> LaneSavePoint:
        """A trajectory's reader with one time more behind it."""
        following = self.time(number, reader.count + 1, step.direction)
        ordered = reader.ordered & in_order(step, reader.t, following)
        return LaneSavePoint(reader.count + 1, following, ordered)


class LaneSaveSteps(eqx.Module):
    """Time and state at the end of every accepted step; buffers of `max_steps + 1` rows each."""

    max_steps: int = eqx.field(static=True)
    tile: LaneTile

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array]:
        """The start, `t0` of shape `(trajectories,)`, and missing values."""
        rows = (t0.shape[0], self.max_steps + 1)
        ts = jnp.full(rows, jnp.nan, t0.dtype).at[:, 0].set(t0)
        return ts, jnp.full((*rows, *y0.shape[1:]), missing_value(y0.dtype)).at[:, 0].set(y0)

    def write(self, buffers: Any, numbers: Array, steps: StepRecord) -> Any:
        """Write the ends of the accepted steps."""
        place = numbers, steps.index + 1
        return self.tile.put(buffers, steps.accept, place, (steps.t1, steps.y1))


class LaneSaveDense(eqx.Module):
    """Every accepted step as `(t, h, y, slopes)`; buffers of `max_steps` rows each."""

    max_steps: int = eqx.field(static=True)
    slopes: int = eqx.field(static=True)
    tile: LaneTile

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array, Array, Array]:
        """Zeros, but for the start in the first row."""
        rows = (t0.shape[0], self.max_steps)
        times = jnp.zeros(rows, t0.dtype)
        states = jnp.zeros((*rows, *y0.shape[1:]), y0.dtype).at[:, 0].set(y0)
        slopes = jnp.zeros((*rows, self.slopes, *y0.shape[1:]), y0.dtype)
        return times.at[:, 0].set(t0), times, states, slopes

    def write(self, buffers: Any, numbers: Array, steps: StepRecord) -> Any:
        """Write the accepted steps."""
        stack = self.tile.map(lambda dense: jnp.stack(dense))
        values = steps.t, steps.h, steps.y, stack(steps.dense)
        return self.tile.put(buffers, steps.accept, (numbers, steps.index), values)
