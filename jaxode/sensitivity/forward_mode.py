"""Forward-mode sensitivity: JAX carries tangents through the loop of the solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..batch.queue import LaneTile
from ..batch.run import run_in_lanes
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result, solve_forward
from ..integrate.ivp import IVP, SolveConfig
from .ad_direction import FORWARD, forward_mode_only
from .base import Sensitivity
from .batch_cotangents import nan_unless


class Forward(Sensitivity):
    """Exact tangents of the computed solution, step sizes held fixed: `jax.jvp`, `jax.jacfwd`.

    Tangents are integrated together with the state in one pass, and nothing is stored: the
    cheapest where the derivative is by few numbers and has many components. It nests: `jax.jacfwd`
    of `jax.jacfwd` is a Hessian. Works with every solver, every `save`, events and jumps. Where a
    solve fails, the tangents of values that it did not reach are NaN.

    It has no arguments.

    **Raises:** `DifferentiationError` where it is differentiated in reverse mode, by `jax.grad`
    for example; `jo.Discrete()` is for that.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I (1993), I.14
    (variational equations), discretised by differentiating the steps.
    """

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem; JAX differentiates the loop."""
        return _with_tangents(_solve(problem, config))

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in lanes; JAX differentiates the loop."""
        return _with_tangents(_solve_batch(ensemble, tile))

    def restrict_direction(self, inputs: PyTree) -> PyTree:
        """Return the inputs of a solve unmarked: the result is marked instead."""
        return inputs


@eqx.filter_custom_jvp
def _solve(problem: IVP, config: SolveConfig) -> Result:
    return solve_forward(problem, config)[0]


@_solve.def_jvp
def _solve_tangent(primals: tuple[IVP, SolveConfig], tangents: Any) -> tuple[Result, PyTree]:
    (problem, config), (tangent, _) = primals, tangents

    def solve(problem: IVP) -> Result:
        return solve_forward(problem, config, perturbed=marks_of(tangent))[0]

    return eqx.filter_jvp(solve, (problem,), (tangent,))


@eqx.filter_custom_jvp
def _solve_batch(ensemble: Ensemble, tile: LaneTile) -> Result:
    return run_in_lanes(ensemble, tile)[0]


@_solve_batch.def_jvp
def _solve_batch_tangent(
    primals: tuple[Ensemble, LaneTile], tangents: Any
) -> tuple[Result, PyTree]:
    (ensemble, tile), (tangent, _) = primals, tangents

    def solve(ensemble: Ensemble) -> Result:
        return run_in_lanes(ensemble.for_derivatives(marks_of(tangent)), tile)[0]

    return eqx.filter_jvp(solve, (ensemble,), (tangent,))


def marks_of(tangent: PyTree) -> PyTree:
    """Mark the arrays that have a tangent."""
    return jax.tree.map(lambda x: x is not None, tangent, is_leaf=lambda x: x is None)


def _with_tangents(result: Result) -> Result:
    """Mark a result as differentiable in forward mode only, with NaN tangents of NaN values."""
    ys, y1 = jax.tree.map(_nan_tangents, (result.ys, result.y1))
    return forward_mode_only(result._replace(ys=ys, y1=y1), FORWARD)


def _nan_tangents(x: Array) -> Array:
    """Give NaN in `x` tangents that are NaN: what the loop wrote there is a constant."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return nan_unless(~jnp.isnan(x), x)
