"""Segments of the forward solve, recomputed from checkpoints in the backward pass.

The forward pass stores the integrator's state before every so many accepted steps. The backward
pass recomputes the steps of one such segment at a time, with their dense output. The checkpoints
and the steps of one segment together grow with the square root of `max_steps`.
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
from ...integrate.save import StepRecord, put_row, step_fraction
from ...integrate.step import IntegratorState, Method, attempt_step, initialise
from ...problem.status import Status

# Rows of a segment beyond its length: rounding may make recomputed steps more than the solve's.
_SPARE = 4


class SavedStates(NamedTuple):
    """The part of an integrator's state that its next steps depend on."""

    t: Array
    t_low: Array
    y: Array
    solver_state: Any
    h: Array
    controller_state: Any

    @classmethod
    def of(cls, s: IntegratorState) -> "SavedStates":
        """Return that part of the state `s`."""
        return cls(s.t, s.t_low, s.y, s.solver_state, s.h, s.controller_state)


class SegmentSteps(NamedTuple):
    """The recomputed steps of a segment, a row each, as dense output reads them."""

    t: Array
    h: Array
    y: Array
    dense: Any


class Segment(NamedTuple):
    """A segment of a forward solve, which is recomputed up to the state `integrator`.

    `first`: the number of accepted steps before it. `t0`, `t1`: its times. `num_steps`: how many
    of its steps are recomputed.
    """

    first: Array
    t0: Array
    t1: Array
    num_steps: Array
    integrator: IntegratorState


class SegmentSchedule(eqx.Module):
    """The division of a solve of at most `max_steps` steps into segments of `length` steps."""

    length: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    @classmethod
    def of(cls, method: Method) -> "SegmentSchedule":
        """Choose the length so that checkpoints and one segment take about the same memory."""
        length, max_steps = 8, method.max_steps
        while length * length * (1 + method.solver.num_dense) < max_steps:
            length *= 2
        return cls(min(length, max_steps), max_steps)

    @property
    def num_segments(self) -> int:
        """The largest number of segments."""
        return -(-self.max_steps // self.length)

    def empty(self, like: IntegratorState, *count: int) -> SavedStates:
        """Return zeros for the checkpoints of one trajectory, or of `count` trajectories.

        A last row takes the states that are not stored.
        """
        rows = (*count, self.num_segments + 1)
        return jax.tree.map(lambda x: jnp.zeros((*rows, *x.shape), x.dtype), SavedStates.of(like))

    def write(self, saved: SavedStates, step: StepRecord) -> SavedStates:
        """Store the state before a step of one trajectory, if a segment begins with it."""
        row = jnp.where(step.index % self.length == 0, step.index // self.length, self.num_segments)
        return jax.tree.map(lambda b, v: put_row(b, v, row), saved, SavedStates.of(step.before))

    def write_in_lanes(
        self, tile: LaneTile, count: int
    ) -> Callable[[SavedStates, Iteration], SavedStates]:
        """Return the function that stores states of an iteration's lanes, of `count` trajectories.

        A lane's state is stored if a segment begins with its step.
        """

        def write(saved: SavedStates, iteration: Iteration) -> SavedStates:
            index = iteration.steps.index
            due = (index % self.length == 0) & (iteration.numbers < count)
            row = jnp.minimum(index // self.length, self.num_segments)
            states = SavedStates.of(iteration.lanes.integrator)
            return tile.put(saved, due, (iteration.numbers, row), states)

        return write

    def step_buffers(self, like: IntegratorState, num_dense: int, *width: int) -> SegmentSteps:
        """Return zeros for a segment's steps, of one trajectory or of each of `width` lanes."""
        shape, y = (*width, self.length + _SPARE), like.y
        parts = [(y.shape, y.dtype)] * (1 + num_dense)
        states = [jnp.zeros((*shape, *s), d) for s, d in parts]
        times = jnp.zeros(shape, like.t.dtype)
        return SegmentSteps(times, times, states[0], tuple(states[1:]))

    def begin(
        self, saved: SavedStates, like: IntegratorState, end: Array, t1: Array, *number: Array
    ) -> Segment:
        """Return the last segment of the first `end` accepted steps, with no step recomputed.

        It ends at `t1`. `number`: the trajectory's index if there are many. `like`: the shapes of
        an integrator's state.
        """
        row = jnp.maximum(end - 1, 0) // self.length
        start: SavedStates = jax.tree.map(lambda x: x[(*number, row)], saved)
        first = row * self.length
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        integrator = zeros._replace(**start._asdict(), num_accepted=first)
        return Segment(first, start.t, t1, jnp.zeros_like(first), integrator)

    def end_before(
        self, saved: SavedStates, num_accepted: Array, t1: Array, direction: Array, number: Array
    ) -> Array:
        """Return the number of accepted steps up to the end of the segment that leads to `t1`.

        `t1` is before the last of all `num_accepted` steps where the solve failed.
        """
        starts = saved.t[number]
        rows = jnp.arange(starts.shape[0], dtype=jnp.int32)
        begun = (direction * (t1 - starts) > 0) & (rows * self.length < num_accepted)
        return jnp.minimum(jnp.sum(begun) * self.length, num_accepted).astype(num_accepted.dtype)

    def complete(self, segment: Segment, direction: Array) -> Array:
        """Return whether all steps of a segment are recomputed, in the solve's `direction`."""
        return direction * (segment.t1 - segment.integrator.t) <= 0

    def failed(self, segment: Segment, direction: Array) -> Array:
        """Return whether the steps of a segment cannot be recomputed."""
        failed = segment.integrator.status != Status.SUCCESS
        failed = failed | (segment.num_steps >= self.length + _SPARE)
        return failed & ~self.complete(segment, direction)

    def advance(
        self,
        method: Method,
        field: Callable[..., Array],
        segment: Segment,
        direction: Array,
        active: Array,
        write_row: Callable[[SegmentSteps, Array, Array, SegmentSteps], SegmentSteps],
        buffers: SegmentSteps,
    ) -> tuple[Segment, SegmentSteps]:
        """Recompute a step of the segments that are `active`."""

        def attempt() -> tuple[IntegratorState, SegmentSteps, Array]:
            after, step = attempt_step(
                method, field, segment.integrator, direction, segment.t1, lambda _: True
            )
            return after, SegmentSteps(step.t, step.h, step.y, step.dense), step.accept

        def no_step() -> tuple[IntegratorState, SegmentSteps, Array]:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(attempt))

        after, row, accept = lax.cond(jnp.any(active), attempt, no_step)
        buffers = write_row(buffers, active, segment.num_steps, row)
        integrator = jax.tree.map(lambda a, b: jnp.where(active, a, b), after, segment.integrator)
        num_steps = segment.num_steps + (active & accept).astype(jnp.int32)
        return segment._replace(integrator=integrator, num_steps=num_steps), buffers


def interpolate_segment(
    steps: SegmentSteps,
    num_steps: Array,
    direction: Array,
    t: Array,
    interpolate: Callable[..., Array],
) -> Array:
    """Evaluate the dense output of one trajectory's segment at `t`."""
    present = jnp.arange(steps.t.shape[0], dtype=jnp.int32) < num_steps
    passed = present & (direction * (t - steps.t) >= 0)
    index = jnp.maximum(jnp.sum(passed, dtype=jnp.int32) - 1, 0)

    def take(x: Array) -> Array:
        return lax.dynamic_index_in_dim(x, index, keepdims=False)

    start, h, y, dense = jax.tree.map(take, steps)
    theta = step_fraction(t, start, jnp.where(h == 0, 1, h), y)
    return interpolate(theta, y, h, dense)


class SegmentRecorder(NamedTuple):
    """A recorder that stores the checkpoints of a single solve; `like` has its state's shapes."""

    segments: SegmentSchedule
    like: IntegratorState

    def open(self, t0: Array, y0: Array, carry: Any) -> SavedStates:
        """Return checkpoints of zeros."""
        return self.segments.empty(self.like)

    def write(self, saved: SavedStates, step: StepRecord) -> SavedStates:
        """Store the state before a step, if a segment begins with it."""
        return self.segments.write(saved, step)

    def close(self, saved: SavedStates, solver_state: Any) -> SavedStates:
        """Return the checkpoints."""
        return saved


def integrator_shapes(ensemble: Ensemble) -> IntegratorState:
    """Return the shapes of an integrator's state for one trajectory of the forward solve."""

    def initial_state(per_trajectory: PyTree) -> IntegratorState:
        problem, config = ensemble.problem_of(jax.tree.map(lambda x: x[0], per_trajectory))
        field, ts = packed_field(problem, config), problem.ts
        return initialise(config.method, field, problem.y0, ts[0], ts[-1])

    return jax.eval_shape(initial_state, ensemble.per_trajectory)
