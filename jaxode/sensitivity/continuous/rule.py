"""The derivative rule of one solve by its adjoint equation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result, solve_forward
from ...integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ...integrate.step import initialise
from ..reached import SolveOutcome
from ..vjp_rule import with_vjp
from .backward_solver import BackwardConfig
from .checkpoints import SegmentRecorder, SegmentSchedule
from .restarts import RestartRecorder
from .rule_batch import continuous_cotangent


def _forward(
    perturbed: PyTree, problem: IVP, config: SolveConfig, backward: BackwardConfig
) -> tuple[Result, Any]:
    recorder: Any = None if backward.restarts is None else RestartRecorder(backward.restarts)
    if not backward.with_y:
        field, ts = packed_field(problem, config), problem.ts
        like = jax.eval_shape(
            lambda y: initialise(config.method, field, y, ts[0], ts[-1]), problem.y0
        )
        recorder = SegmentRecorder(SegmentSchedule.of(config.method), like)
    result, saved = solve_forward(problem, config, recorder)
    residuals = result.ys, saved, SolveOutcome.of(result)
    return result, jax.tree.map(lambda x: x[None], residuals)


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    problem: IVP,
    config: SolveConfig,
    backward: BackwardConfig,
) -> PyTree:
    # The problem is a batch of one: its equation integrates the parameters in `per_trajectory`,
    # those in `shared` by quadrature.
    own = perturbed if backward.kind == "backsolve" else jax.tree.map(lambda _: False, problem)
    own = dataclasses.replace(own, y0=True, ts=False)
    per_trajectory, shared = eqx.partition(problem, own)
    per_trajectory = jax.tree.map(lambda x: x[None], per_trajectory)
    ensemble = Ensemble((per_trajectory, eqx.filter(config, False)), (shared, config))
    perturbed_own = jax.tree.map(lambda p, is_own: p and is_own, perturbed, own)
    perturbed_shared = jax.tree.map(lambda p, is_own: p and not is_own, perturbed, own)
    flags: Any = Ensemble((perturbed_own, False), (perturbed_shared, False))  # pyright: ignore[reportArgumentType]
    ct_result = jax.tree.map(lambda x: x[None], cotangents)
    ct = continuous_cotangent(ensemble, None, backward, flags, residuals, ct_result)
    ct_own = jax.tree.map(lambda x: x[0], ct.per_trajectory[0])
    return eqx.combine(ct_own, ct.shared[0])


@with_vjp(_forward, _backward)
def solve_states(problem: IVP, config: SolveConfig, backward: BackwardConfig) -> Result:
    """Solve one problem whose states are saved, differentiable by its adjoint equation."""
    return solve_forward(problem, config)[0]


def save_after(problem: IVP, config: SolveConfig, solve: Callable[[IVP], Result]) -> Result:
    """Run a `solve` that saves states, and apply the function of `save=` to them afterwards.

    JAX then differentiates that function, outside the derivative rule of `solve`.
    """
    if problem.save_fn is None:
        return solve(problem)
    states = solve(dataclasses.replace(problem, save_fn=None))
    read = step_reader(problem, config).fn
    return states._replace(ys=jax.vmap(read)(problem.ts, states.ys))
