"""The neighbouring trajectory of a differentiated solve: it controls steps where the state rests.

Error control sees the state alone. Where the state does not move, or is smaller than the absolute
tolerance, any step passes, and the derivative of the computed solution is worthless. While that is
so, each step is first taken from a state nearby, with parameters nearby; by how much the two steps
differ, and their error estimates, tells the error of a derivative, which is then controlled too.
Only the step size depends on it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ..solvers.base import Solver
from ..solvers.step_size import Tolerance, mean_square

# A step hides an error of derivatives where that of a component is larger than so many relative
# tolerances, though the step was accepted, or smaller than a share of its rounding error.
_HIDDEN, _ROUNDING_SHARE = 30.0, 0.5
_UNCONTROLLED = 1e-3  # the scaled error of a step whose size does not depend on it
_UNRESOLVED = 10.0  # the size in absolute tolerances below which a component is at rest
_MOST_STEPS_LEFT = 1e9
# Larger arrays of parameters stay as they are.
_LARGEST_PARAMETER = 4096
# The distance to the neighbour is controlled relative to its component, to a share of its norm, and
# to a share of the largest norm so far.
_SHARE_OF_NORM, _SHARE_OF_LARGEST = 0.1, 1e-3
_MAX_GROWTH = 100.0  # of the distance, before the neighbour is moved closer again


class Neighbour(NamedTuple):
    """The neighbouring trajectory, of one trajectory or, as vectors, of all lanes.

    - `active`: steps are controlled by it. `suspect`: the last step hid an error of derivatives.
    - `y`, `solver_state`: the start of its next step. `started`: whether `solver_state` is its own.
    - `y1`, `error`, `solver_state1`: its step over the coming attempt, if that was `taken`.
    - `largest`: the largest distance so far, in units of `_unit`.
    - `factor`: the next step's size over this one's, of multistep solvers, which propose it.
    """

    active: Array
    suspect: Array
    started: Array
    taken: Array
    y: Array
    y1: Array
    error: Array
    solver_state: Any
    solver_state1: Any
    largest: Array
    factor: Any = ()

    @property
    def due(self) -> Array:
        """Whether the neighbour steps before the trajectory does."""
        return self.active & ~self.taken


def initial_neighbour(
    tolerance: Tolerance,
    y: Array,
    slope: Array | None,
    h: Array,
    span: Array,
    solver_state: Any,
    solver: Solver,
) -> Neighbour:
    """Return the neighbour of a trajectory at its start, active if a component may be at rest.

    That of a multistep solver begins with the history of the trajectory itself.
    """
    slope = jnp.zeros_like(y) if slope is None else slope
    size, speed = jnp.abs(y), jnp.abs(slope)
    size_later = size + jnp.abs(span).astype(size.dtype) * speed
    hides = size_later <= _least_size(tolerance)
    hides = hides | (h.astype(size.dtype) * speed <= _rounding(y))
    rests = (size_later <= _UNRESOLVED * tolerance.atol) | (speed == 0)
    one_step = solver.one_step
    at_rest = _at_rest(hides, rests, h.ndim, one_step)
    no = jnp.zeros(h.shape, bool)
    near = _nearby(tolerance, y)
    largest = jnp.full(h.shape, _distance(y.dtype), _real(y))
    return Neighbour(
        active=at_rest,
        suspect=at_rest,
        started=no if one_step else ~no,
        taken=no,
        y=near,
        y1=near,
        error=jnp.zeros_like(y),
        solver_state=solver.shift_state(solver_state, near - y),
        solver_state1=solver_state,
        largest=largest,
        factor=() if one_step else jnp.ones_like(h),
    )


def turn_size(neighbour: Neighbour, h: Array) -> Array:
    """Return the step size of an iteration: tiny where the neighbour's solver state starts."""
    tiny = h * jnp.asarray(jnp.finfo(h.dtype).eps ** 0.75, h.dtype)
    return jnp.where(neighbour.due & ~neighbour.started, tiny, h)


def turn_tolerance(neighbour: Neighbour, tolerance: Tolerance, y: Array) -> Tolerance:
    """Return the tolerance of the solver in an iteration: that of the distance for a neighbour.

    So a solver that chooses orders, or between two methods, does so for the distance.
    """
    due, unit = neighbour.due, _unit(tolerance, y, y)
    distance = jnp.abs(neighbour.y - y)
    scale = _scale(neighbour, tolerance, unit, distance, distance, y)
    rtol = jnp.where(due, 0, tolerance.rtol)
    return dataclasses.replace(
        tolerance, rtol=rtol, atol=jnp.where(due, scale, jnp.broadcast_to(tolerance.atol, y.shape))
    )


def after_turn(
    neighbour: Neighbour, y1: Array, error: Array, solver_state: Any, factor: Array | None
) -> Neighbour:
    """Return the neighbour after its step, in the lanes in which it was due."""
    step, start = neighbour.due & neighbour.started, neighbour.due & ~neighbour.started

    def pick(mask: Array, new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)

    return neighbour._replace(
        started=neighbour.started | start,
        taken=neighbour.taken | step,
        y1=pick(step, y1, neighbour.y1),
        error=pick(step, error, neighbour.error),
        solver_state=pick(start, solver_state, neighbour.solver_state),
        solver_state1=pick(step, solver_state, neighbour.solver_state1),
        factor=() if factor is None else pick(step, factor, neighbour.factor),
    )


def hidden_error_squared(
    neighbour: Neighbour, tolerance: Tolerance, y: Array, y1: Array, error: Array
) -> Array:
    """Return the squared scaled error of the distance to the neighbour over a step; 0 if unknown.

    `y`, `y1`, `error`: of the step of the trajectory itself.
    """
    unit = _unit(tolerance, y, y1)
    start, end = jnp.abs(neighbour.y - y), jnp.abs(neighbour.y1 - y1)
    scale = _scale(neighbour, tolerance, unit, start, end, jnp.maximum(jnp.abs(y), jnp.abs(y1)))
    square = mean_square((neighbour.error - error) / scale, tolerance.norm_axes(y))
    return jnp.where(neighbour.taken & jnp.isfinite(square), square, 0)


def watch(
    neighbour: Neighbour,
    tolerance: Tolerance,
    step: tuple[Array, Array, Array],
    error_squared: Array,
    steps_left: Array,
    one_step: bool,
) -> tuple[Array, Array]:
    """Tell whether an accepted step hides an error of derivatives, and the next is controlled.

    `step`: its `y`, `y1` and error, with `error_squared`, that of the state alone. `steps_left`:
    the number of steps of this size to the end.
    """
    y, y1, error = step
    size, small = jnp.maximum(jnp.abs(y), jnp.abs(y1)), jnp.abs(error)
    free = error_squared <= _UNCONTROLLED**2
    steps_left = jnp.minimum(steps_left, _MOST_STEPS_LEFT).astype(size.dtype)
    stays = size + steps_left * jnp.abs(y1 - y) <= _least_size(tolerance)
    hides = (small >= _HIDDEN * _rtol(tolerance) * size) | (small <= _rounding(size))
    rests = (size <= _UNRESOLVED * tolerance.atol) | (y1 == y)
    suspect = _at_rest(hides | (free & stays), rests, free.ndim, one_step)
    before = neighbour.suspect
    return suspect, suspect & (before | free) | neighbour.active & (before | suspect)


def after_step(
    neighbour: Neighbour,
    tolerance: Tolerance,
    y: Array,
    y1: Array,
    solver_state1: Any,
    solver: Solver,
) -> Neighbour:
    """Return the neighbour after an accepted step of the trajectory: it goes on or begins anew."""
    unit = _unit(tolerance, y, y1)
    distance = neighbour.y1 - y1
    norm, near = _norm(tolerance, distance / unit), _distance(y.dtype)
    shrink = jnp.where(norm > _MAX_GROWTH * near, near / jnp.where(norm > 0, norm, 1), 1)
    moves = neighbour.taken & jnp.isfinite(norm) & (norm > 0)
    near_y1 = _nearby(tolerance, y1)

    def moved(own: Array, mine: Array) -> Array:
        return own + shrink.astype(_real(y1)) * (mine - own)

    largest = jnp.where(moves, jnp.maximum(neighbour.largest, norm) * shrink, near)
    solver_state = jax.tree.map(
        lambda a, b: jnp.where(moves, a, b),
        solver.move_state(moved, solver_state1, neighbour.solver_state1),
        solver.shift_state(solver_state1, near_y1 - y1),
    )
    return neighbour._replace(
        started=moves if solver.one_step else jnp.ones_like(moves),
        y=jnp.where(moves, y1 + shrink * distance, near_y1),
        solver_state=solver_state,
        largest=largest.astype(neighbour.largest.dtype),
    )


def leads(neighbour: Neighbour, error_squared: Array) -> Array:
    """Tell whether the neighbour chooses order and step size: where the error itself does not."""
    return neighbour.taken & (error_squared <= _UNCONTROLLED**2)


def led_state(leads: Array, neighbour: Neighbour, solver: Solver, solver_state1: Any) -> Any:
    """Return the solver state of the trajectory itself, with the order as the neighbour has it."""
    led = solver.move_state(lambda _, own: own, neighbour.solver_state1, solver_state1)
    return jax.tree.map(lambda a, b: jnp.where(leads, a, b), led, solver_state1)


def led_factor(leads: Array, neighbour: Neighbour, hidden: Array, factor: Array) -> Array:
    """Return the factor of the next step's size, for that of the trajectory itself."""
    # The hidden error falls at least with the square of the step size.
    own = jnp.minimum(factor, 0.9 * jnp.maximum(hidden, 1e-12) ** -0.25)
    chosen = jnp.where(leads, neighbour.factor, own)
    return jnp.where(neighbour.taken, chosen, factor).astype(factor.dtype)


def nudged(tree: PyTree, nudge: PyTree, due: Array | bool) -> PyTree:
    """Return the parameters in `tree`, moved by `nudge` where the neighbour is due."""

    def move(x: Any, by: Any) -> Any:
        return x if by is None else x + jnp.where(due, by, 0)

    return jax.tree.map(move, tree, nudge, is_leaf=lambda x: x is None)


def nudge_of(tree: PyTree, perturbed: PyTree, axis: bool = False) -> PyTree:
    """Return by how much the neighbour's parameters differ; None where they do not.

    Each number of a differentiated array moves by another share of itself, or of one if it is zero.
    `axis`: whether arrays have a first axis of trajectories.
    """

    def nudge(x: Any, differentiated: Any) -> Any:
        if not differentiated or not hasattr(x, "dtype"):
            return None
        count = x.shape[0] if axis else 1
        if not jnp.issubdtype(x.dtype, jnp.inexact) or x.size > _LARGEST_PARAMETER * count:
            return None
        by = _distance(x.dtype) * _weights(x.shape, _real(x))
        return lax.stop_gradient(by * jnp.where(x == 0, 1, x))

    return jax.tree.map(nudge, tree, perturbed, is_leaf=lambda x: x is None)


def _scale(
    neighbour: Neighbour,
    tolerance: Tolerance,
    unit: Array,
    start: Array,
    end: Array,
    size: Array,
) -> Array:
    """The tolerance of the distance, which is `start` and `end` at those of a step."""
    norm = jnp.maximum(_norm(tolerance, start / unit), _norm(tolerance, end / unit))
    floor = _SHARE_OF_NORM * norm + _SHARE_OF_LARGEST * neighbour.largest
    rounding = 4 * jnp.finfo(unit.dtype).eps * jnp.abs(size)
    return _rtol(tolerance) * (jnp.maximum(start, end) + floor * unit) + rounding


def _distance(dtype: Any) -> float:
    """The relative distance to the neighbour: rounding and curvature matter equally little."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def _nearby(tolerance: Tolerance, y: Array) -> Array:
    weights = _weights(y.shape, _real(y))
    return y + (_distance(y.dtype) * weights * _unit(tolerance, y, y)).astype(y.dtype)


def _unit(tolerance: Tolerance, y: Array, y1: Array) -> Array:
    """The size of each component, at least that at which both tolerances are equal."""
    least = tolerance.atol / _rtol(tolerance)
    unit = jnp.maximum(jnp.maximum(jnp.abs(y), jnp.abs(y1)), least)
    return jnp.maximum(unit, jnp.finfo(unit.dtype).tiny)


def _rtol(tolerance: Tolerance) -> Array:
    return jnp.maximum(tolerance.rtol, 10 * jnp.finfo(tolerance.rtol.dtype).eps)


def _least_size(tolerance: Tolerance) -> Array:
    """The size of a component below which an accepted error can be a hidden one."""
    return tolerance.atol / (_HIDDEN * _rtol(tolerance))


def _norm(tolerance: Tolerance, x: Array) -> Array:
    return jnp.sqrt(mean_square(x, tolerance.norm_axes(x)))


def _rounding(size: Array) -> Array:
    return _ROUNDING_SHARE * jnp.finfo(size.dtype).eps * jnp.abs(size)


def _at_rest(hides: Array, rests: Array, lanes: int, one_step: bool) -> Array:
    """Tell whether all components hide errors of derivatives, or some that do not move at all.

    A multistep solver would choose its order for those that move, and step at order one for a
    distance that needs a higher one.
    """
    axes = tuple(range(hides.ndim - lanes))
    all_hide = jnp.all(hides, axis=axes)
    return all_hide | jnp.any(hides & rests, axis=axes) if one_step else all_hide


def _weights(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers from 1/2 to 3/2, a sequence that fills the interval evenly and repeats nothing."""
    golden = (np.sqrt(5) - 1) / 2
    count = int(np.prod(shape))
    return (0.5 + (golden * np.arange(1, count + 1)) % 1).reshape(shape).astype(dtype)


def _real(x: Array) -> Any:
    return jnp.finfo(x.dtype).dtype
