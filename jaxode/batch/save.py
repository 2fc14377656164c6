"""Recorders of trajectories in lanes: values at save times, every step, dense output.

The buffers have a row per trajectory. They start as missing values, which remain in rows that are
not reached.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..integrate.save import (
    SaveCursor,
    StepRecord,
    blank_dense,
    blank_steps,
    missing_value,
    reach_of,
    save_time,
)
from ..integrate.xla_loops import chunk_size, host_controls_loops, masked_while, num_elements
from .queue import LaneTile

WriteState = tuple[Array, SaveCursor, PyTree]


class LaneSaveAtTimes(eqx.Module):
    """The recorder of values at the times of each trajectory; buffers `(trajectories, times, ...)`.

    `ts` has shape `(times,)`, or `(trajectories, times)` where each trajectory has its own.
    """

    ts: Array
    tile: LaneTile

    def open(self, firsts: PyTree) -> PyTree:
        """Write the values at the first time, and at every time that equals it."""
        same = self.ts == self.ts[..., :1]
        same = same if same.ndim == 2 else same[None]

        def fill(first: Array) -> Array:
            mask = same.reshape(same.shape + (1,) * (first.ndim - 1))
            return jnp.where(mask, first[:, None], missing_value(first.dtype))

        return jax.tree.map(fill, firsts)

    def cursor(self, number: Array, direction: Array) -> SaveCursor:
        """Return a trajectory's cursor after its first time."""
        ts = self.ts if self.ts.ndim == 1 else self.ts[number]
        # All times of an empty span are written at its start.
        count = jnp.where(jnp.any(ts != ts[0]), 1, ts.shape[0]).astype(jnp.int32)
        return SaveCursor(count, self.time(number, count, direction), jnp.asarray(True))

    def time(self, number: Array, count: Array, direction: Array) -> Array:
        """Return the save time of index `count`; past the last, one that no step reaches."""

        def look_up(index: Array) -> Array:
            return self.ts[index] if self.ts.ndim == 1 else self.ts[number, index]

        return save_time(look_up, count, self.ts.shape[-1], direction)

    def write(
        self,
        read: Callable[[SaveCursor], PyTree],
        cursor: SaveCursor,
        numbers: Array,
        steps: StepRecord,
        buffers: PyTree,
    ) -> tuple[SaveCursor, PyTree]:
        """Write the values at every time that the accepted steps have reached.

        `read(cursor)` returns the values of all lanes at their cursors' times.
        """
        end = reach_of(steps)

        def due(cursor: SaveCursor) -> Array:
            return steps.accept & cursor.is_due(steps.direction, end)

        def write_next(state: WriteState) -> WriteState:
            mask, cursor, buffers = state
            buffers = self.tile.put(buffers, mask, (numbers, cursor.count), read(cursor))
            advanced = jax.vmap(self.advance, in_axes=(0, 0, -1))(numbers, cursor, steps)
            cursor = jax.tree.map(lambda a, b: jnp.where(mask, a, b), advanced, cursor)
            return due(cursor), cursor, buffers

        def write_many(state: WriteState) -> WriteState:
            _, cursor, buffers = state
            index = cursor.count + jnp.arange(many, dtype=jnp.int32)[:, None]

            def time_of(index: Array) -> Array:
                return self.time(numbers, index, steps.direction)

            def read_at(count: Array, t: Array) -> PyTree:
                return read(SaveCursor(count, t, cursor.ordered))

            passed, at, after = cursor.advance_many(index, time_of, steps)
            values = jax.vmap(read_at)(index, at)
            buffers = self.tile.put_many(buffers, passed, (numbers, index), values)
            return due(after), after, buffers

        start = due(cursor), cursor, buffers
        if not host_controls_loops():
            return lax.while_loop(lambda s: jnp.any(s[0]), write_next, start)[1:]
        count, rows = jax.tree.leaves(buffers)[0].shape[0], self.ts.shape[-1]
        many = chunk_size(rows - 1, num_elements(buffers, count * rows) * self.tile.width)
        return masked_while(lambda s: jnp.any(s[0]), write_many, start, many == rows - 1)[1:]

    def advance(self, number: Array, cursor: SaveCursor, step: StepRecord) -> SaveCursor:
        """Return a trajectory's cursor moved to its next time."""
        return cursor.advance(self.time(number, cursor.count + 1, step.direction), step)


class LaneSaveSteps(eqx.Module):
    """The recorder of time and state at the end of every accepted step, the start included."""

    max_steps: int = eqx.field(static=True)
    tile: LaneTile

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array]:
        """Return buffers of `max_steps + 1` rows per trajectory; `t0` is `(trajectories,)`."""
        return blank_steps(self.max_steps, t0, y0)

    def write(self, buffers: Any, numbers: Array, steps: StepRecord) -> Any:
        """Write the ends of the accepted steps."""
        place = numbers, steps.index + 1
        return self.tile.put(buffers, steps.accept, place, (steps.t1, steps.y1))


class LaneSaveDense(eqx.Module):
    """The recorder of every accepted step for dense output: `(t, h, y, slopes)`, then zeros."""

    max_steps: int = eqx.field(static=True)
    slopes: int = eqx.field(static=True)
    tile: LaneTile

    def open(self, t0: Array, y0: Array) -> tuple[Array, Array, Array, Array]:
        """Return buffers of `max_steps` rows per trajectory."""
        return blank_dense(self.max_steps, self.slopes, t0, y0)

    def write(self, buffers: Any, numbers: Array, steps: StepRecord) -> Any:
        """Write the accepted steps."""
        stack = self.tile.map(lambda dense: jnp.stack(dense))
        values = steps.t, steps.h, steps.y, stack(steps.dense)
        return self.tile.put(buffers, steps.accept, (numbers, steps.index), values)
