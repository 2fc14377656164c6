"""The forward solve, read backwards: trajectories kept at some steps, and made again from there.

The forward pass keeps where each trajectory was every so many accepted steps, and the backward pass
makes the steps of one such segment at a time again, with their dense output. What is kept and one
segment together grow with the root of the most steps there can be.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...batch.forward import Iteration
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.ivp import packed_field
from ...integrate.save import StepRecord, put_row
from ...integrate.step import IntegratorState, Method, attempt_step, initialise
from ...problem.status import Status

# Rows of a segment beyond its steps: made again, they may be cut otherwise by rounding.
_SPARE = 4


class SavedStates(NamedTuple):
    """A trajectory before one of its steps, as far as the steps after it depend on that."""

    t: Array
    t_low: Array
    y: Array
    solver_state: Any
    h: Array
    memory: Any

    @classmethod
    def of(cls, moving: IntegratorState) -> "SavedStates":
        """What is kept of a trajectory."""
        return cls(moving.t, moving.t_low, moving.y, moving.solver_state, moving.h, moving.memory)


class Rows(NamedTuple):
    """The steps of a segment, made again: what dense output reads of each."""

    t: Array
    h: Array
    y: Array
    dense: Any


class Segment(NamedTuple):
    """A segment of a trajectory, from its step `first` on, which is made again up to `moving`.

    `t0`, `t1`: its span. `filled`: how many steps of it there are.
    """

    first: Array
    t0: Array
    t1: Array
    filled: Array
    moving: IntegratorState


class Segments(eqx.Module):
    """How trajectories are kept, and their segments made again. `length`: steps of a segment."""

    length: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    @classmethod
    def of(cls, max_steps: int, dense: int) -> "Segments":
        """With segments such that these and what is kept take about as much memory."""
        length = 8
        while length * length * (1 + dense) < max_steps:
            length *= 2
        return cls(min(length, max_steps), max_steps)

    @property
    def rows(self) -> int:
        """The most segments."""
        return -(-self.max_steps // self.length)

    def blank(self, like: IntegratorState, *count: int) -> SavedStates:
        """Zeros for what is kept, of one trajectory or of `count`; a last row takes what is not."""
        return jax.tree.map(
            lambda x: jnp.zeros((*count, self.rows + 1, *x.shape), x.dtype), SavedStates.of(like)
        )

    def write(self, kept: SavedStates, step: StepRecord) -> SavedStates:
        """Keep the start of a step, if it is a segment's first."""
        row = jnp.where(step.index % self.length == 0, step.index // self.length, self.rows)
        return jax.tree.map(lambda b, v: put_row(b, v, row), kept, SavedStates.of(step.before))

    def write_lanes(
        self, tile: LaneTile, count: int
    ) -> Callable[[SavedStates, Iteration], SavedStates]:
        """The same for the lanes of a turn, of `count` trajectories."""

        def write(kept: SavedStates, turn: Iteration) -> SavedStates:
            index = turn.steps.index
            due = (index % self.length == 0) & (turn.numbers < count)
            row = jnp.minimum(index // self.length, self.rows)
            return tile.put(kept, due, (turn.numbers, row), SavedStates.of(turn.lanes.integrator))

        return write

    def buffers(self, like: IntegratorState, dense: int, *width: int) -> Rows:
        """Rows for the steps of a segment, of one trajectory or of each of `width` lanes."""
        shape, y = (*width, self.length + _SPARE), like.y
        parts = [(y.shape, y.dtype)] * (1 + dense)
        states = [jnp.zeros((*shape, *s), d) for s, d in parts]
        times = jnp.zeros(shape, like.t.dtype)
        return Rows(times, times, states[0], tuple(states[1:]))

    def begin(
        self, kept: SavedStates, like: IntegratorState, end: Array, t1: Array, *number: Array
    ) -> Segment:
        """The last segment of the steps before `end`, none of its steps made yet.

        It ends at `t1`. `like` has zeros for the counts of a trajectory.
        """
        row = jnp.maximum(end - 1, 0) // self.length
        at: SavedStates = jax.tree.map(lambda x: x[(*number, row)], kept)
        first = row * self.length
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        moving = zeros._replace(**at._asdict(), num_accepted=first)
        return Segment(first, at.t, t1, jnp.zeros_like(first), moving)

    def full(self, segment: Segment, direction: Array) -> Array:
        """Whether all steps of a segment are made; `direction` is that of the solve."""
        return direction * (segment.t1 - segment.moving.t) <= 0

    def broken(self, segment: Segment, direction: Array) -> Array:
        """Whether they cannot be."""
        lost = (segment.moving.status != Status.SUCCESS) | (segment.filled >= self.length + _SPARE)
        return lost & ~self.full(segment, direction)

    def advance(
        self,
        method: Method,
        field: Callable[..., Array],
        segment: Segment,
        direction: Array,
        going: Array,
        put: Callable[[Rows, Array, Array, Rows], Rows],
        buffers: Rows,
    ) -> tuple[Segment, Rows]:
        """A step of the solve where a segment is not full, if it is anywhere."""

        def go() -> tuple[IntegratorState, Rows, Array]:
            after, step = attempt_step(
                method, field, segment.moving, direction, segment.t1, lambda _: True
            )
            return after, Rows(step.t, step.h, step.y, step.dense), step.accept

        def stay() -> tuple[IntegratorState, Rows, Array]:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(go))

        after, row, accept = lax.cond(jnp.any(going), go, stay)
        buffers = put(buffers, going, segment.filled, row)
        moving = jax.tree.map(lambda a, b: jnp.where(going, a, b), after, segment.moving)
        filled = segment.filled + (going & accept)
        return segment._replace(moving=moving, filled=filled), buffers


def read_state(
    rows: Rows, filled: Array, direction: Array, t: Array, interpolate: Callable[..., Array]
) -> Array:
    """The state at `t` in the steps of a segment, of one trajectory."""
    known = jnp.arange(rows.t.shape[0]) < filled
    passed = known & (direction * (t - rows.t) >= 0)
    place = jnp.maximum(jnp.sum(passed, dtype=jnp.int32) - 1, 0)

    def take(x: Array) -> Array:
        return lax.dynamic_index_in_dim(x, place, keepdims=False)

    start, h, y, dense = jax.tree.map(take, rows)
    return interpolate((t - start) / jnp.where(h == 0, 1, h), y, h, dense)


class Keeping(NamedTuple):
    """The recorder of a single solve, as `forward.run` has it; `like` is its trajectory."""

    segments: Segments
    like: IntegratorState

    def open(self, t0: Array, y0: Array, carry: Any) -> SavedStates:
        """Nothing kept."""
        return self.segments.blank(self.like)

    def write(self, kept: SavedStates, step: StepRecord) -> SavedStates:
        """Keep the start of a step, if it is a segment's first."""
        return self.segments.write(kept, step)

    def close(self, kept: SavedStates, y1: Array, carry: Any) -> SavedStates:
        """What is kept, as it is."""
        return kept


def forward_shapes(ensemble: Ensemble) -> IntegratorState:
    """The shapes of a trajectory of the solve."""

    def start(own: PyTree) -> IntegratorState:
        problem, plan = ensemble.one(jax.tree.map(lambda x: x[0], own))
        field, ts = packed_field(problem, plan), problem.ts
        return initialise(plan.method, field, problem.y0, ts[0], ts[-1])

    return jax.eval_shape(start, ensemble.per_trajectory)
