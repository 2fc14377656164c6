"""Forward-mode sensitivity: JAX carries tangents through the loop of the solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..batch.queue import LaneTile
from ..batch.run import run_in_lanes
from ..batch.tile_width import tile_of
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result, solve_forward
from ..integrate.ivp import IVP, SolveConfig, controlling_rest
from ..problem.validation import check_flag
from .ad_direction import FORWARD, forward_mode_only
from .base import Sensitivity
from .batch_cotangents import nan_unless
from .lanes.solve import solve_or_lanes
from .lanes.trajectories import RuleCall, Rules


class Forward(Sensitivity):
    """Exact tangents of the computed solution, step sizes held fixed: `jax.jvp`, `jax.jacfwd`.

    Tangents are integrated together with the state in one pass, and nothing is stored: the
    cheapest where the derivative is by few numbers and has many components. It nests: `jax.jacfwd`
    of `jax.jacfwd` is a Hessian. Works with every solver, every `save`, events and jumps. Where a
    solve fails, the tangents of values that it did not reach are NaN.

    **Arguments:**

    - `at_rest`: True to control the error of derivatives where the state is at rest, as in
      `jo.Discrete`; also in a solve that is not differentiated.

    **Raises:** `DifferentiationError` where it is differentiated in reverse mode, by `jax.grad`
    for example; `jo.Discrete()` is for that.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I (1993), I.14
    (variational equations), discretised by differentiating the steps.
    """

    at_rest: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        check_flag("at_rest of jo.Forward", self.at_rest)

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem; JAX differentiates the loop."""
        config = controlling_rest(config, self.at_rest)
        return _with_tangents(solve_or_lanes(_RULES, problem, config))

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in lanes; JAX differentiates the loop."""
        ensemble = ensemble.controlling_rest(self.at_rest)
        return _with_tangents(_solve_batch(ensemble, tile))

    def restrict_direction(self, inputs: PyTree) -> PyTree:
        """Return the inputs of a solve unmarked: the result is marked instead."""
        return inputs


def _rule(problem: IVP, config: SolveConfig, _: None) -> RuleCall:
    def solve(problem: IVP) -> Result:
        every = jax.tree.map(lambda _: True, problem)
        return solve_forward(problem, config, perturbed=every)[0]

    return RuleCall(solve, ())


def _rule_of_batch(ensemble: Ensemble, _: None) -> RuleCall:
    tile = tile_of(ensemble, None)
    return RuleCall(lambda ensemble: _solve_batch(ensemble, tile), ())


def _solve_batch(ensemble: Ensemble, tile: LaneTile) -> Result:
    every = jax.tree.map(lambda _: True, ensemble)
    return run_in_lanes(ensemble.for_derivatives(every), tile)[0]


_RULES = Rules(_rule, _rule_of_batch, forward_mode=True)


def _with_tangents(result: Result) -> Result:
    """Mark a result as differentiable in forward mode only, with NaN tangents of NaN values."""
    ys, y1 = jax.tree.map(_nan_tangents, (result.ys, result.y1))
    return forward_mode_only(result._replace(ys=ys, y1=y1), FORWARD)


def _nan_tangents(x: Array) -> Array:
    """Give NaN in `x` tangents that are NaN: what the loop wrote there is a constant."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return nan_unless(~jnp.isnan(x), x)
