"""The initial value problem in the form that the step loop solves, and how to solve it."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..problem.closure import ClosedFunction
from ..problem.field import Split, pack_field
from ..problem.state import Packing
from ..problem.times import Ends
from ..solvers.implicit.consistent_initial import Algebraic, consistent_state
from ..solvers.linear import WithJacobian
from .events.compiled import CompiledEvent
from .events.detection import EventHandler
from .events.discontinuities import (
    field_for_looking_ahead,
    next_discontinuity,
    one_sided_field,
)
from .events.state_jumps import StateJumps
from .neighbour import nudge_of, nudged
from .save import StepReader
from .step import Method

Save = Literal["ends", "ts", "steps", "dense"]


class IVP(eqx.Module):
    """An initial value problem: all that derivatives of a solve may be taken with respect to.

    `field`, `save_fn` and `jac` are closure-converted: every array they use is one of their leaves.
    `y0` is packed. `save_fn` is the user's function of saved values, if there is one. `jump_map` is
    the state map of the discontinuities `jumps`, of `(t, y, args, index)`.
    """

    field: Callable[..., PyTree]
    y0: Array
    ts: Array
    args: PyTree
    save_fn: Callable[..., PyTree] | None
    jac: Callable[..., Array] | None = None
    events: tuple[CompiledEvent, ...] = ()
    jumps: Array | None = None
    jump_map: ClosedFunction | None = None

    @property
    def has_events(self) -> bool:
        """True if there are events to detect or jumps to stop at."""
        return bool(self.events) or self.jumps is not None


class SolveConfig(eqx.Module):
    """The configuration of a solve, which no derivative is taken with respect to.

    `algebraic` describes the algebraic equations of a singular mass matrix, if there are any.
    `stops_looking`: after `max_events` events there are none; else a further one is a failure.
    `saves_after_jumps`: saved at a jump is the state after it. `jump_ends`: the `ends` of `Jumps`.
    `nudge`: by how much the parameters of a neighbouring trajectory differ, if there is one.
    `unsaved`: whether the first and the last time are not among those to be saved.
    """

    method: Method
    save: Save = eqx.field(static=True)
    packing: Packing = eqx.field(static=True)
    algebraic: Algebraic | None = None
    max_events: int = eqx.field(static=True, default=0)
    stops_looking: bool = eqx.field(static=True, default=False)
    saves_after_jumps: bool = eqx.field(static=True, default=False)
    jump_ends: str = eqx.field(static=True, default="both")
    nudge: PyTree = None
    unsaved: Ends = eqx.field(static=True, default=(False, False))


def without_gradient(method: Method) -> Method:
    """Stop gradients through the arrays of `method`: step sizes, tolerances, and the like."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, method)


def for_derivatives(
    problem: IVP, config: SolveConfig, perturbed: IVP, axis: bool = False
) -> SolveConfig:
    """Return the configuration of a solve that is differentiated, if rest is to be controlled.

    `perturbed` marks the arrays of `problem` by which. `axis`: whether those have a first axis of
    trajectories.
    """
    if not config.method.controls_rest:
        return config
    method = dataclasses.replace(config.method, for_derivatives=True)
    nudge = nudge_of(_parameters(problem), _parameters(perturbed), axis)
    return dataclasses.replace(config, method=method, nudge=nudge)


def controlling_rest(config: SolveConfig, wanted: bool) -> SolveConfig:
    """Return the configuration, with control of steps at rest if that is `wanted`."""
    method = dataclasses.replace(config.method, controls_rest=wanted)
    return dataclasses.replace(config, method=method)


def nudged_problem(problem: IVP, config: SolveConfig, due: Array | bool) -> IVP:
    """Return the problem, with the parameters of a neighbouring trajectory where that is `due`."""
    if config.nudge is None:
        return problem
    field, args = nudged(_parameters(problem), config.nudge, due)
    return dataclasses.replace(problem, field=field, args=args)


def _parameters(problem: IVP) -> tuple[PyTree, PyTree]:
    return problem.field, problem.args


def packed_field(problem: IVP, config: SolveConfig) -> Callable[..., Array]:
    """Make the field on packed states, with the user's Jacobian if there is one.

    A solver that looks ahead gets values past the ends of the solve; but of the problem of a lane,
    which is given without its times: that is done for all lanes at once.
    """
    field = pack_field(problem.field, problem.args, config.packing)
    if problem.jac is not None:
        field = _with_jacobian(field, packed_jacobian(problem, config))
    if problem.ts is None:
        return field
    ends = problem.ts[0], problem.ts[-1]
    return field_for_looking_ahead(field, config.method.solver, *ends)


def _with_jacobian(field: Callable, jacobian: Callable[[Array, Array], Array]) -> Callable:
    if isinstance(field, Split):
        return Split(WithJacobian(field.stiff, jacobian), field.other)
    return WithJacobian(field, jacobian)


def packed_jacobian(problem: IVP, config: SolveConfig) -> Callable[[Array, Array], Array]:
    """Make the user's Jacobian a function on packed states: `(t, array)` to `(n, n)`."""

    def jacobian(t: Array, y: Array) -> Array:
        assert problem.jac is not None
        t = t.astype(config.packing.real_dtype)
        return problem.jac(t, config.packing.unpack(y), problem.args).astype(config.packing.dtype)

    return jacobian


def step_reader(problem: IVP, config: SolveConfig) -> StepReader:
    """Make the function that evaluates saved values at a time inside a step."""

    def saved_value(t: Array, y: Array) -> PyTree:
        if problem.save_fn is None:
            return y
        t = t.astype(config.packing.real_dtype)
        value = problem.save_fn(t, config.packing.unpack(y), problem.args)
        return jax.tree.map(jnp.asarray, value)

    return StepReader(config.method.solver.interpolate, saved_value)


def event_handler_of(problem: IVP, config: SolveConfig) -> EventHandler:
    """Make the event handler of one trajectory."""
    return EventHandler(
        events=problem.events,
        jumps=state_jumps_of(problem, config),
        args=problem.args,
        packing=config.packing,
        max_events=config.max_events,
        method=config.method,
        field=packed_field(problem, config),
        saves_after=config.saves_after_jumps,
        stops_looking=config.stops_looking,
    )


def state_jumps_of(problem: IVP, config: SolveConfig) -> StateJumps | None:
    """Make the state map of the jumps, if there are any."""
    if problem.jumps is None:
        return None
    return StateJumps(problem.jumps, problem.jump_map, problem.args, config.packing)


def next_discontinuity_of(problem: IVP, t: Array) -> Array:
    """The time at which steps from `t` must stop: the next discontinuity, or the last time."""
    ts = problem.ts
    return (
        ts[-1]
        if problem.jumps is None
        else next_discontinuity(problem.jumps, t, ts[-1], direction_of(ts))
    )


def field_of_step(problem: IVP, config: SolveConfig, t: Array) -> Callable[..., Array]:
    """Make the packed field for a step from `t`, one-sided at the discontinuities around it."""
    field = packed_field(problem, config)
    return (
        field
        if problem.jumps is None
        else one_sided_field(field, t, next_discontinuity_of(problem, t))
    )


def direction_of(ts: Array) -> Array:
    """The direction of integration: 1 forwards in time, -1 backwards, 0 for an empty time span."""
    return jnp.sign(ts[-1] - ts[0])


def make_consistent(
    problem: IVP, config: SolveConfig, algebraic: Algebraic | None
) -> tuple[IVP, Array]:
    """Make the initial state satisfy the algebraic equations; also returns if that succeeded."""
    if algebraic is None:
        return problem, jnp.asarray(True)
    field, tolerance = packed_field(problem, config), config.method.tolerance
    y0, converged = consistent_state(algebraic, field, problem.ts[0], problem.y0, tolerance)
    return dataclasses.replace(problem, y0=y0), converged
