"""The initial value problem as the engine solves it, and the configuration of its solve."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ..problem.closure import ClosedFunction
from ..problem.errors import OptionError
from ..problem.field import Split, pack_field
from ..problem.state import Packing
from ..solvers.implicit.consistent_initial import Algebraic, consistent_state
from ..solvers.linear import WithJacobian
from .events.detection import EventHandler
from .events.discontinuities import next_discontinuity, one_sided_field
from .events.event import CompiledEvent
from .save import StepReader
from .step import Method

Save = Literal["ends", "ts", "steps", "dense"]


class IVP(eqx.Module):
    """What a solve is differentiated by: its field, state, times, arguments and read-out.

    `field`, `read` and `jac` are closed: every array they use is one of their leaves. `y0` is
    packed. `jump_map` is what is applied at the `jumps`.
    """

    field: Callable[..., PyTree]
    y0: Array
    ts: Array
    args: PyTree
    read: Callable[..., PyTree] | None
    jac: Callable[..., Array] | None = None
    events: tuple[CompiledEvent, ...] = ()
    jumps: Array | None = None
    jump_map: ClosedFunction | None = None

    @property
    def has_events(self) -> bool:
        """Whether there are events or jumps to watch for."""
        return bool(self.events) or self.jumps is not None

    @property
    def ends(self) -> Array:
        """Which events end the solve, and False for what is none."""
        return jnp.asarray([*(event.terminal for event in self.events), False])


class SolveConfig(eqx.Module):
    """What a solve is not differentiated by; `algebraic` is what its mass matrix leaves."""

    method: Method
    save: Save = eqx.field(static=True)
    packing: Packing = eqx.field(static=True)
    algebraic: Algebraic | None = None
    max_events: int = eqx.field(static=True, default=0)


def without_gradient(method: Method) -> Method:
    """The same, but nothing is differentiated by its numbers."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, method)


def packed_field(problem: IVP, config: SolveConfig) -> Callable[..., Array]:
    """The problem's field on packed states, with its Jacobian where that is given."""
    field = pack_field(problem.field, problem.args, config.packing)
    if problem.jac is None:
        return field
    jacobian = packed_jacobian(problem, config)
    if isinstance(field, Split):
        return Split(WithJacobian(field.stiff, jacobian), field.other)
    return WithJacobian(field, jacobian)


def packed_jacobian(problem: IVP, config: SolveConfig) -> Callable[[Array, Array], Array]:
    """The Jacobian that the user gives, on packed states: `(t, array)` to `(n, n)`."""

    def jacobian(t: Array, y: Array) -> Array:
        assert problem.jac is not None
        t = t.astype(config.packing.real_dtype)
        return problem.jac(t, config.packing.unpack(y), problem.args).astype(config.packing.dtype)

    return jacobian


def step_reader(problem: IVP, config: SolveConfig) -> StepReader:
    """How values at `ts` are read off a step."""

    def read(t: Array, y: Array) -> PyTree:
        if problem.read is None:
            return y
        t = t.astype(config.packing.real_dtype)
        return jax.tree.map(jnp.asarray, problem.read(t, config.packing.unpack(y), problem.args))

    return StepReader(config.method.solver.interpolate, read)


def event_handler_of(problem: IVP, config: SolveConfig) -> EventHandler:
    """The events and jumps of the problem, for one trajectory."""
    parts = (
        problem.events,
        problem.jumps,
        problem.jump_map,
        problem.args,
        config.packing,
        config.max_events,
    )
    return EventHandler(*parts, config.method, packed_field(problem, config))


def next_discontinuity_of(problem: IVP, t: Array) -> Array:
    """The time that steps from `t` have to end on: the next jump, or the last time."""
    ts = problem.ts
    return (
        ts[-1]
        if problem.jumps is None
        else next_discontinuity(problem.jumps, t, ts[-1], direction_of(ts))
    )


def field_of_step(problem: IVP, config: SolveConfig, t: Array) -> Callable[..., Array]:
    """The packed field as a step from `t` sees it: up to the next jump, and not beyond."""
    field = packed_field(problem, config)
    return (
        field
        if problem.jumps is None
        else one_sided_field(field, t, next_discontinuity_of(problem, t))
    )


def refuse_events(watched: bool, sensitivity: str) -> None:
    """**Raises:** `OptionError` where there are events or jumps."""
    if watched:
        raise OptionError(
            f"sensitivity={sensitivity} does not differentiate through events and jumps: use "
            'sensitivity="discrete" or "forward"'
        )


def direction_of(ts: Array) -> Array:
    """1 forwards in time, -1 backwards, 0 where the times are all one."""
    return jnp.sign(ts[-1] - ts[0])


def make_consistent(
    problem: IVP, config: SolveConfig, algebraic: Algebraic | None
) -> tuple[IVP, Array]:
    """The problem, its start moved until its algebraic equations hold; whether they could be."""
    if algebraic is None:
        return problem, jnp.asarray(True)
    field, tolerance = packed_field(problem, config), config.method.tolerance
    y0, found = consistent_state(algebraic, field, problem.ts[0], problem.y0, tolerance)
    return dataclasses.replace(problem, y0=y0), found
