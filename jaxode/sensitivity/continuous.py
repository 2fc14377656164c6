"""The continuous adjoint: a second ODE, integrated backwards from the last time."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..batch.lanes import Tile
from ..batch.run import Ensemble
from ..control import Grid
from ..errors import OptionError
from ..forward import Plan, Problem, Result, reading, run
from ..linalg import Dense
from ..stepping.implicit import Implicit
from .adjoint import Adjoint
from .continuous_batch import solve_in_lanes
from .one_way import forwards_after


class Continuous(eqx.Module):
    r"""The continuous adjoint, integrated backwards beside the state.

    With $a = \partial L / \partial y$ it solves $\dot y = f$, $\dot a = -a\, \partial f /
    \partial y$, $\dot g = -a\, \partial f / \partial \theta$ from the last time to the first, $a$
    jumping at each saved time. Memory does not grow with the number of steps. The gradient is that
    of the differential equation, not of the computed solution: its error falls with the
    tolerances, and fields that contract strongly forwards blow up backwards; `Discrete` has
    neither trouble. A backward solve that fails leaves NaN as the gradient. The parameters' part
    $g$ is kept out of the error norm. Works with values at `ts` and the state at the end.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366, appendix
    B; the norm: Kidger et al., "Hey, that's not an ODE" (2020), arXiv 2009.09457.
    """

    def solve(self, problem: Problem, plan: Plan) -> Result:
        """Run `problem`; its gradient is the adjoint equation's.

        **Raises:** `OptionError` for `save="steps"`, `save="dense"`, the controller `Grid`, and
        solvers of states in two halves.
        """
        check_plan(plan)
        if problem.read is None:
            return _continuous(problem, plan)
        # Values that a function reads off the states are differentiated outside the solve.
        states = _continuous(dataclasses.replace(problem, read=None), plan)
        read = reading(problem, plan).fn
        return states._replace(ys=jax.vmap(read)(problem.ts, states.ys))

    def solve_batch(self, ensemble: Ensemble, tile: Tile) -> Result:
        """Run all of `ensemble`; its gradient is the adjoint equations', in lanes.

        **Raises:** `OptionError` as `solve`.
        """
        check_plan(ensemble.plan)
        return solve_in_lanes(ensemble, tile)


def check_plan(plan: Plan) -> None:
    """**Raises:** `OptionError` for what the adjoint equation cannot be solved along."""
    if plan.save not in ("ends", "ts"):
        raise OptionError(
            f'sensitivity="adjoint" gives gradients of values at ts, not of save="{plan.save}";'
            ' use save="ts" or sensitivity="discrete"'
        )
    if plan.method.solver.partitioned:
        raise OptionError(
            f'sensitivity="adjoint" solves an equation that {type(plan.method.solver).__name__} '
            'cannot, for its state is no pair; use sensitivity="discrete"'
        )
    solver = plan.method.solver
    if isinstance(solver, Implicit) and not (
        solver.mass is None and isinstance(solver.linear_solver, Dense)
    ):
        raise OptionError(
            'sensitivity="adjoint" solves an equation of another size and pattern, for which the '
            f'mass or linear_solver of {type(solver).__name__} is not made; use "discrete"'
        )
    if isinstance(plan.method.controller, Grid):
        raise OptionError(
            'sensitivity="adjoint" cannot walk jo.Grid backwards; use jo.Fixed(dt), an '
            'adaptive solver, or sensitivity="discrete"'
        )


@eqx.filter_custom_vjp
def _continuous(problem: Problem, plan: Plan) -> Result:
    return run(problem, plan)[0]


@_continuous.def_fwd
@forwards_after
def _forward(perturbed: PyTree, problem: Problem, plan: Plan) -> tuple[Result, Any]:
    result, _ = run(problem, plan)
    return result, (result.ys, perturbed)


@_continuous.def_bwd
@forwards_after
def _backward(
    residuals: Any, cotangents: Result, _: PyTree, problem: Problem, plan: Plan
) -> PyTree:
    ys, perturbed = residuals
    ct_ys = jnp.zeros_like(ys) if cotangents.ys is None else cotangents.ys
    if cotangents.y1 is not None:
        ct_ys = ct_ys.at[-1].add(cotangents.y1)
    moving, still = eqx.partition(problem, dataclasses.replace(perturbed, y0=False, ts=False))
    adjoint = Adjoint(moving, still, problem, plan)
    ct_y0, ct_moving, ct_ts = adjoint.backwards(ys, ct_ys)
    return eqx.filter(dataclasses.replace(ct_moving, y0=ct_y0, ts=ct_ts), perturbed)
