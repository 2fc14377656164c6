"""The derivative rule of one solve of a small state that may take very many steps.

A buffer for every step would cost more than most solves. A batch of one has rows for a segment of
steps and a fixed number of snapshots, whatever the largest number of steps.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ...batch.tile_width import tile_of
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result, solve_forward
from ...integrate.ivp import IVP, SolveConfig
from ..vjp_rule import with_vjp
from .rule_batch import discrete_cotangent, run_with_trace


def _batch_of_one(problem: Any, config: Any) -> Ensemble:
    """The problem, or its perturbed leaves, as an ensemble whose states alone are not shared."""
    flags = jax.tree.map(lambda _: False, (problem, config))
    flags = dataclasses.replace(flags[0], y0=True), flags[1]
    return Ensemble(*eqx.partition((problem, config), flags))


def _ensemble(problem: IVP, config: SolveConfig) -> Ensemble:
    return _batch_of_one(dataclasses.replace(problem, y0=problem.y0[None]), config)


def _flags(perturbed: PyTree, config: SolveConfig) -> Any:
    return _batch_of_one(perturbed, jax.tree.map(lambda _: False, config))


def _forward(perturbed: PyTree, problem: IVP, config: SolveConfig) -> tuple[Result, Any]:
    ensemble = _ensemble(problem, config).for_derivatives(_flags(perturbed, config))
    result, residuals = run_with_trace(ensemble, tile_of(ensemble, None), True, None)
    result = jax.tree.map(lambda x: x[0], result)
    stats = dataclasses.replace(result.stats, useful_share=None)
    ts = result.ts if config.save == "steps" else problem.ts
    return result._replace(stats=stats, ts=ts), residuals


def _backward(
    perturbed: PyTree, residuals: Any, cotangents: Result, problem: IVP, config: SolveConfig
) -> PyTree:
    ensemble = _ensemble(problem, config)
    flags = _flags(perturbed, config)
    cotangents = jax.tree.map(lambda x: x[None], cotangents)
    found = discrete_cotangent(flags, residuals, cotangents, ensemble, tile_of(ensemble, None))
    y0 = found.per_trajectory[0].y0
    return dataclasses.replace(found.shared[0], y0=None if y0 is None else y0[0])


@with_vjp(_forward, _backward)
def solve_discrete_long(problem: IVP, config: SolveConfig) -> Result:
    """Solve one problem; the backward pass recomputes its steps in segments."""
    return solve_forward(problem, config)[0]
