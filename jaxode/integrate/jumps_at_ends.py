"""Jumps at the first and at the last time of a solve: outside of its loop and derivative rules."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..problem.status import Status
from .events.discontinuities import one_sided_field
from .events.state_jumps import Slope
from .forward import Result
from .ivp import IVP, SolveConfig, packed_field, state_jumps_of, step_reader


class SavedEnds(NamedTuple):
    """The states saved at the two ends, where jumps make them others than those of the loop.

    `first`, `last`: a state, and whether it is to be saved in the place of the loop's.
    """

    first: tuple[Array, Array]
    last: tuple[Array, Array]


def jump_at_start(problem: IVP, config: SolveConfig) -> IVP:
    """The problem from the state after the jumps at its first time."""
    jumps, ts = state_jumps_of(problem, config), problem.ts
    if jumps is None or jumps.apply is None:
        return problem
    # A solve over no time has the jumps of both ends, once.
    empty = jnp.asarray(config.jump_ends != "neither") & (ts[0] == ts[-1])
    t = jnp.where((config.jump_ends in ("both", "first")) | empty, ts[0], jnp.nan)
    return dataclasses.replace(
        problem, y0=jumps.at_end(t, ts[0], problem.y0, _slope(problem, config))
    )


def jump_at_last(
    result: Result, problem: IVP, config: SolveConfig, y_before: Array
) -> tuple[Result, SavedEnds]:
    """The result after the jumps at the last time, and what is saved at both ends.

    `y_before`: the first state before its jumps; that after them is `problem.y0`.
    """
    jumps, ts, after = state_jumps_of(problem, config), problem.ts, config.saves_after_jumps
    assert jumps is not None
    reached = (result.status == Status.SUCCESS) & (result.stats.t_reached == ts[-1])
    due = reached & (ts[0] != ts[-1]) & (config.jump_ends in ("both", "last"))
    t = jnp.where(due, ts[-1], jnp.nan)
    y1 = jumps.at_end(t, ts[-1], result.y1, _slope(problem, config))
    result = result._replace(y1=y1)
    return result, SavedEnds(
        (y_before, jnp.asarray(not after)), (y1, due & after & (jumps.count(t) > 0))
    )


def save_ends(result: Result, problem: IVP, config: SolveConfig, ends: SavedEnds) -> Result:
    """The result with the values at the two ends, where they are others than those of the loop."""
    ts, num_accepted = problem.ts, result.stats.num_accepted
    read = step_reader(problem, config).fn
    rows = {"steps": jnp.arange(config.method.max_steps + 1, dtype=jnp.int32)}.get(config.save)
    for place, t, (y, differs) in ((0, ts[0], ends.first), (num_accepted, ts[-1], ends.last)):
        at = differs & (ts == t if rows is None else rows == place)
        value = read(t, y) if config.save == "ts" else y

        def put(x: Array, value: Array, at: Array = at) -> Array:
            return jnp.where(at.reshape((-1,) + (1,) * (x.ndim - 1)), value.astype(x.dtype), x)

        result = result._replace(ys=jax.tree.map(put, result.ys, value))
    return result


def _slope(problem: IVP, config: SolveConfig) -> Slope:
    """The derivative of the state by time inside the solve, zero with a singular mass matrix."""
    field = one_sided_field(packed_field(problem, config), problem.ts[0], problem.ts[-1])
    mass = getattr(config.method.solver, "mass", None)
    if mass is None:
        return field
    if config.algebraic is not None:
        return lambda t, y: jnp.zeros_like(y)

    def solved(t: Array, y: Array) -> Array:
        slope = field(t, y)
        return jnp.linalg.solve(jnp.asarray(mass, y.dtype), slope.reshape(-1)).reshape(y.shape)

    return solved
