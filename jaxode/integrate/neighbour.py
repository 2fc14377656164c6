"""The neighbouring trajectory of a differentiated solve: it controls steps where the state rests.

Error control sees the state alone. Where the state does not move, or is smaller than the absolute
tolerance, any step passes, and the derivative of the computed solution is worthless. While that is
so, each step is first taken from a state nearby, with parameters nearby; by how much the two steps
differ, and their error estimates, tells the error of a derivative, which is then controlled too.
Only the step size depends on it.

The neighbour takes turns with its trajectory in one loop over steps. An iteration only notes
whether the neighbour has to follow it; what follows (`follow_up`) stands outside of the inner loop,
so that a solve that moves pays for the notes alone.
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
_NOISE = 64.0  # how many such shares the error estimate of a straight line can reach
_REST = 1024.0  # how many a state at rest may move, as its slope is rounded
_UNCONTROLLED = 1e-3  # the scaled error of a step whose size does not depend on it
_UNRESOLVED = 10.0  # the size in absolute tolerances below which a component is at rest
_MOST_STEPS_LEFT = 1e9
# Larger arrays of parameters stay as they are.
_LARGEST_PARAMETER = 4096
# The distance to the neighbour is controlled relative to its component, to a share of its norm, and
# to a share of the largest norm so far.
_SHARE_OF_NORM, _SHARE_OF_LARGEST = 0.1, 1e-3
_MAX_GROWTH = 100.0  # of the distance, before the neighbour is moved closer again


class Own(NamedTuple):
    """What an iteration changes in the state of the integrator, kept during a neighbour's turn."""

    y: Array
    solver_state: Any
    h: Array
    controller_state: Any
    num_steps: Array
    extra_evaluations: Any
    linear_algebra_counts: Any
    status: Array


class Neighbour(NamedTuple):
    """The neighbouring trajectory, of one trajectory or, as vectors, of all lanes.

    - `active`: steps are controlled by it. `suspect`: the last step hid an error of derivatives.
    - `waits`: it has to follow before the next iteration. `begins`: it begins then.
    - `due`: the coming iteration is its turn; until then `own` keeps the state of the trajectory.
    - `y`, `solver_state`: the start of its next step. `started`: whether `solver_state` is its own.
    - `y1`, `error`, `solver_state1`: its step over the coming attempt, if that was `taken`.
    - `scale`: the tolerance of the distance to it over that step. `weight`: one over it, zero while
      none was taken.
    - `largest`: the largest distance so far, in units of `_unit`.
    - `accepted`, `last_error`, `last_factor`: of the last iteration; the error is NaN if it failed.
    - `factor`: the next step's size over this one's, of multistep solvers, which propose it.
    """

    active: Array
    suspect: Array
    waits: Array
    begins: Array
    due: Array
    started: Array
    taken: Array
    accepted: Array
    y: Array
    y1: Array
    error: Array
    last_error: Array
    scale: Array
    weight: Array
    solver_state: Any
    solver_state1: Any
    largest: Array
    own: Own
    factor: Any = ()
    last_factor: Any = ()


def initial_neighbour(
    tolerance: Tolerance,
    own: Own,
    slope: Array,
    span: Array,
    solver: Solver,
) -> Neighbour:
    """Return the neighbour of a trajectory at its start, which begins if a component may rest."""
    y, h, solver_state = lax.stop_gradient((own.y, own.h, own.solver_state))
    size, speed = jnp.abs(y), jnp.abs(slope)
    size_later = size + jnp.abs(span).astype(size.dtype) * speed
    hides = size_later <= _least_size(tolerance)
    hides = hides | (h.astype(size.dtype) * speed <= _rounding(y))
    rests = (size_later <= _UNRESOLVED * tolerance.atol) | (speed == 0)
    at_rest = _at_rest(hides, rests, h.ndim, solver.one_step)
    no, zero = jnp.zeros(h.shape, bool), jnp.zeros_like(y)
    factor = () if solver.one_step else jnp.ones_like(h)
    return Neighbour(
        active=at_rest,
        suspect=at_rest,
        waits=at_rest,
        begins=at_rest,
        due=no,
        started=no,
        taken=no,
        accepted=no,
        y=zero,
        y1=zero,
        error=zero,
        last_error=zero,
        scale=jnp.ones_like(size),
        weight=jnp.zeros_like(size),
        solver_state=solver_state,
        solver_state1=solver_state,
        largest=jnp.zeros(h.shape, _real(y)),
        own=own,
        factor=factor,
        last_factor=factor,
    )


def begin(
    neighbour: Neighbour, tolerance: Tolerance, y: Array, solver_state: Any, solver: Solver
) -> Neighbour:
    """Return the neighbour near a state; that of a multistep solver has its whole history."""
    near = _nearby(tolerance, y)
    return neighbour._replace(
        started=jnp.full_like(neighbour.started, not solver.one_step),
        taken=jnp.zeros_like(neighbour.taken),
        y=near,
        solver_state=solver.shift_state(solver_state, near - y),
        largest=jnp.full_like(neighbour.largest, _distance(y.dtype)),
    )


def note_iteration(
    neighbour: Neighbour,
    turn: Array,
    accepted: Array,
    error: Array,
    factor: Array | None,
    rest: tuple[Array, Array],
) -> Neighbour:
    """Return the neighbour with what it has to know of an iteration: its own turn, or another's.

    `rest`: `suspect` and `active` after an accepted step.
    """
    suspect = jnp.where(accepted, rest[0], neighbour.suspect)
    active = jnp.where(accepted, rest[1], neighbour.active)
    return neighbour._replace(
        active=active,
        suspect=suspect,
        waits=turn | active | neighbour.active,
        accepted=accepted,
        last_error=error.astype(neighbour.last_error.dtype),
        last_factor=() if isinstance(neighbour.factor, tuple) else factor,
    )


def turn_tolerance(neighbour: Neighbour, tolerance: Tolerance) -> Tolerance:
    """Return the tolerance of the solver in an iteration: that of the distance for a neighbour.

    So a solver that iterates, chooses orders or between two methods does so for the distance.
    """
    due = neighbour.due
    atol = jnp.broadcast_to(tolerance.atol, neighbour.scale.shape)
    rtol = jnp.where(due, 0, tolerance.rtol)
    return dataclasses.replace(tolerance, rtol=rtol, atol=jnp.where(due, neighbour.scale, atol))


def turn_size(neighbour: Neighbour, h: Array) -> Array:
    """Return the size of the next step: tiny where the solver state of the neighbour starts."""
    tiny = h * jnp.asarray(jnp.finfo(h.dtype).eps ** 0.75, h.dtype)
    return jnp.where(neighbour.due & ~neighbour.started, tiny, h)


def after_turn(neighbour: Neighbour, y1: Array, solver_state: Any) -> Neighbour:
    """Return the neighbour after its step, in the lanes in which it was due."""
    step, start = neighbour.due & neighbour.started, neighbour.due & ~neighbour.started

    def pick(mask: Array, new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)

    return neighbour._replace(
        started=neighbour.started | start,
        taken=neighbour.taken | step,
        y1=pick(step, y1, neighbour.y1),
        error=pick(step, neighbour.last_error, neighbour.error),
        solver_state=pick(start, solver_state, neighbour.solver_state),
        solver_state1=pick(step, solver_state, neighbour.solver_state1),
        factor=pick(step, neighbour.last_factor, neighbour.factor),
    )


def hidden_error_squared(neighbour: Neighbour, tolerance: Tolerance, error: Array) -> Array:
    """Return the squared scaled error of the distance to the neighbour over a step; 0 if unknown.

    `error`: of the step of the trajectory itself.
    """
    difference = (neighbour.error - error) * neighbour.weight
    square = mean_square(difference, tolerance.norm_axes(difference))
    return jnp.where(jnp.isfinite(square), square, 0)


def watch(
    neighbour: Neighbour,
    tolerance: Tolerance,
    step: tuple[Array, Array, Array],
    error_squared: Array,
    steps_left: Array,
    solver: Solver,
) -> tuple[Array, Array]:
    """Tell whether an accepted step hides an error of derivatives, and the next is controlled.

    `step`: its `y`, `y1` and error, with `error_squared`, that of the state alone. `steps_left`:
    the number of steps of this size to the end.
    """
    y, y1, error = step
    size, moved, small = jnp.maximum(jnp.abs(y), jnp.abs(y1)), jnp.abs(y1 - y), jnp.abs(error)
    free = error_squared <= _UNCONTROLLED**2
    steps_left = jnp.minimum(steps_left, _MOST_STEPS_LEFT).astype(size.dtype)
    stays = size + steps_left * moved <= _least_size(tolerance)
    # A straight line leaves rounding alone in the error, which is otherwise just small.
    straight = small <= _NOISE * _rounding(moved)
    resting = jnp.maximum(small, moved) <= _REST * _rounding(size)
    hides = (small >= _HIDDEN * _rtol(tolerance) * size) | straight | resting
    rests = (size <= _UNRESOLVED * tolerance.atol) | (y1 == y)
    suspect = _at_rest(hides | (free & stays), rests, free.ndim, solver.one_step)
    before = neighbour.suspect
    goes_on = neighbour.active & (before | suspect)
    return suspect, suspect & (before | free) | goes_on if solver.shares_history else goes_on


def after_step(
    neighbour: Neighbour, tolerance: Tolerance, y1: Array, solver_state1: Any, solver: Solver
) -> Neighbour:
    """Return the neighbour after an accepted step of the trajectory: it goes on or begins anew."""
    unit = _unit(tolerance, y1)
    distance = neighbour.y1 - y1
    norm, near = _norm(tolerance, distance / unit), _distance(y1.dtype)
    shrink = jnp.where(norm > _MAX_GROWTH * near, near / jnp.where(norm > 0, norm, 1), 1)
    moves = neighbour.taken & jnp.isfinite(norm) & (norm > 0)

    def moved(own: Array, mine: Array) -> Array:
        return own + shrink.astype(_real(y1)) * (mine - own)

    largest = jnp.maximum(neighbour.largest, norm) * shrink
    goes_on = neighbour._replace(
        started=jnp.ones_like(neighbour.started),
        taken=jnp.zeros_like(neighbour.taken),
        y=y1 + shrink * distance,
        solver_state=solver.move_state(moved, solver_state1, neighbour.solver_state1),
        largest=largest.astype(neighbour.largest.dtype),
    )
    begun = begin(neighbour, tolerance, y1, solver_state1, solver)
    return jax.tree.map(lambda a, b: jnp.where(moves, a, b), goes_on, begun)


def scale_of(neighbour: Neighbour, tolerance: Tolerance, y: Array) -> Array:
    """Return the tolerance of the distance over a step from `y`."""
    unit, distance = _unit(tolerance, y), jnp.abs(neighbour.y - y)
    floor = _SHARE_OF_NORM * _norm(tolerance, distance / unit)
    floor = floor + _SHARE_OF_LARGEST * neighbour.largest
    rounding = 4 * jnp.finfo(unit.dtype).eps * jnp.abs(y)
    return _rtol(tolerance) * (distance + floor * unit) + rounding


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
        # Moved like the states, parameters could move the state of rest along.
        weights = -0.8 * _weights(x.shape, _real(x), np.sqrt(7))
        # A Python number keeps a weak type, and with it the program of a step.
        by = _distance(x.dtype) * (float(weights) if x.ndim == 0 else weights)
        return lax.stop_gradient(by * jnp.where(x == 0, 1, x))

    return jax.tree.map(nudge, tree, perturbed, is_leaf=lambda x: x is None)


def _distance(dtype: Any) -> float:
    """The relative distance to the neighbour: rounding and curvature matter equally little."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def _nearby(tolerance: Tolerance, y: Array) -> Array:
    weights = _weights(y.shape, _real(y))
    return y + (_distance(y.dtype) * weights * _unit(tolerance, y)).astype(y.dtype)


def _unit(tolerance: Tolerance, y: Array) -> Array:
    """The size of each component, at least that at which both tolerances are equal."""
    unit = jnp.maximum(jnp.abs(y), tolerance.atol / _rtol(tolerance))
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


def _weights(shape: tuple[int, ...], dtype: Any, irrational: float = np.sqrt(5)) -> np.ndarray:
    """Numbers from 1/2 to 3/2, a sequence that fills the interval evenly and repeats nothing."""
    count = int(np.prod(shape))
    steps = (irrational - 1) / 2 * np.arange(1, count + 1)
    return (0.5 + steps % 1).reshape(shape).astype(dtype)


def _real(x: Array) -> Any:
    return jnp.finfo(x.dtype).dtype
