"""The gradient rule of one solve by its adjoint equation."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result, run
from ...integrate.ivp import IVP, SolveConfig, packed_field, step_reader
from ...integrate.step import initialise
from ..vjp_rule import with_vjp
from .backward_solver import BackwardConfig
from .checkpoints import SegmentRecorder, SegmentSchedule
from .rule_batch import continuous_cotangent


def _forward(
    perturbed: PyTree, problem: IVP, config: SolveConfig, backward: BackwardConfig
) -> tuple[Result, Any]:
    keeping = None
    if not backward.with_y:
        field, ts = packed_field(problem, config), problem.ts
        like = jax.eval_shape(
            lambda y: initialise(config.method, field, y, ts[0], ts[-1]), problem.y0
        )
        segments = SegmentSchedule.of(config.method.max_steps, config.method.solver.num_dense)
        keeping = SegmentRecorder(segments, like)
    result, kept = run(problem, config, keeping)
    known = result.ys, result.status, kept, result.stats.num_accepted
    return result, jax.tree.map(lambda x: x[None], known)


def _backward(
    perturbed: PyTree,
    known: Any,
    cotangents: Result,
    problem: IVP,
    config: SolveConfig,
    backward: BackwardConfig,
) -> PyTree:
    # A batch of one. What is its own has a part in its equation; what is shared, by quadrature.
    within = perturbed if backward.kind == "backsolve" else jax.tree.map(lambda _: False, problem)
    within = dataclasses.replace(within, y0=True, ts=False)
    one, rest = eqx.partition(problem, within)
    one = jax.tree.map(lambda x: x[None], one)
    ensemble = Ensemble((one, eqx.filter(config, False)), (rest, config))
    mine = jax.tree.map(lambda p, own: p and own, perturbed, within)
    theirs = jax.tree.map(lambda p, own: p and not own, perturbed, within)
    flags: Any = Ensemble((mine, False), (theirs, False))  # pyright: ignore[reportArgumentType]
    ct_of_one = jax.tree.map(lambda x: x[None], cotangents)
    ct = continuous_cotangent(ensemble, None, backward, flags, known, ct_of_one)
    own = jax.tree.map(lambda x: x[0], ct.per_trajectory[0])
    return eqx.combine(own, ct.shared[0])


@with_vjp(_forward, _backward)
def _solve_states(problem: IVP, config: SolveConfig, backward: BackwardConfig) -> Result:
    return run(problem, config)[0]


def solve_continuous(problem: IVP, config: SolveConfig, backward: BackwardConfig) -> Result:
    """Run `problem`; its gradient is the adjoint equation's."""
    if problem.read is None:
        return _solve_states(problem, config, backward)
    # Values that a function reads off the states are differentiated outside the solve.
    states = _solve_states(dataclasses.replace(problem, read=None), config, backward)
    read = step_reader(problem, config).fn
    return states._replace(ys=jax.vmap(read)(problem.ts, states.ys))
