"""Derivatives of a solve over no time by its times.

Such a solve takes no step, so that no derivative of steps knows how its values move with the times.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from .forward import Result
from .ivp import IVP, SolveConfig, field_of_step, step_reader


def moved_by_its_times(result: Result, problem: IVP, config: SolveConfig) -> Result:
    """The result, whose values have the slope of the solution by the times of an empty span.

    Jumps there are not seen: their result is unchanged.
    """
    if problem.jumps is not None or config.algebraic is not None:
        return result
    ys, y1 = _moved((result.ys, result.y1), *jax.tree.map(_of_jax, (problem, config)))
    return result._replace(ys=ys, y1=y1)


def _of_jax(x: Any) -> Any:
    """An array of JAX: under `vmap`, derivative rules fail on those of NumPy (JAX 0.10)."""
    return jnp.array(x) if isinstance(getattr(x, "val", x), np.ndarray) else x


@eqx.filter_custom_jvp
def _moved(values: PyTree, problem: IVP, config: SolveConfig) -> PyTree:
    return values


@_moved.def_jvp
def _moved_jvp(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    (values, problem, config), (moves, moved_problem, _) = primals, tangents
    by_times = None if moved_problem is None else moved_problem.ts
    if by_times is None:
        return values, moves
    ts, since = problem.ts, by_times - by_times[0]  # of a span that is empty
    # The tangent stays outside: under vmap a conditional stops gradients of what it is given.
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: _rates_at_start(problem, config)))
    rate, slope = lax.cond(ts[-1] == ts[0], lambda: _rates_at_start(problem, config), lambda: zeros)
    added = _moves(rate, slope, since, values[0], config.save)
    is_none = lambda x: x is None  # noqa: E731
    return values, jax.tree.map(_sum, moves, added, is_leaf=is_none)


def _sum(move: Array | None, added: Array | None) -> Array | None:
    if move is None or added is None:
        return added if move is None else move
    return move + added


def _rates_at_start(problem: IVP, config: SolveConfig) -> tuple[PyTree, Array]:
    """How fast what is read of the state, and the state, change at the start."""
    t, y = problem.ts[0], problem.y0
    slope = field_of_step(problem, config, t)(t, y)
    mass = getattr(config.method.solver, "mass", None)
    if mass is not None:
        slope = jnp.linalg.solve(jnp.asarray(mass, slope.dtype), slope)
    read = step_reader(problem, config).fn
    return jax.jvp(read, (t, y), (jnp.ones_like(t), slope))[1], slope


def _moves(rate: PyTree, slope: Array, since: Array, ys: PyTree, save: Any) -> tuple[PyTree, Array]:
    """How the saved values and the last state change, with times `since` that of the start."""
    times = {"ts": since, "dense": since, "ends": jnp.stack([since[0], since[-1]])}.get(save)

    def of_rows(rate: Any, rows: Array) -> Array | None:
        if times is None or not jnp.issubdtype(rows.dtype, jnp.inexact):
            return None
        return times.reshape(-1, *[1] * rate.ndim).astype(rate.dtype) * rate

    return jax.tree.map(of_rows, rate, ys), since[-1].astype(slope.dtype) * slope
