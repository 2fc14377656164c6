"""The derivative rule of a batch by its adjoint equations; one solve is a batch of one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...batch.run import run_in_lanes
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import step_reader
from ..batch_cotangents import (
    assemble_cotangent,
    example_of,
    per_row,
    reached_by_each,
    replace_in_problem,
    replace_unwanted,
)
from ..reached import Reached, SolveOutcome
from ..vjp_rule import with_vjp
from .backward import AdjointSolve
from .backward_solver import BackwardConfig, BackwardStats
from .checkpoints import SegmentSchedule, integrator_shapes
from .cotangent_jumps import CotangentJumps
from .restarts import KeptStates, keep_in_lanes


def save_outside(ensemble: Ensemble, solve: Callable[[Ensemble], Result]) -> Result:
    """Run a `solve` that saves states, and apply the function of `save=` to them afterwards.

    JAX then differentiates that function, outside the derivative rule of `solve`.
    """
    if ensemble.shared[0].save_fn is None:
        return solve(ensemble)
    own, shared = ensemble.per_trajectory, ensemble.shared
    states = solve(
        Ensemble(replace_in_problem(own, save_fn=None), replace_in_problem(shared, save_fn=None))
    )

    def read(rows: PyTree, ys: Array) -> PyTree:
        problem, config = ensemble.problem_of(rows)
        return jax.vmap(step_reader(problem, config).fn)(problem.ts, ys)

    return states._replace(ys=jax.vmap(read)(own, states.ys))


def continuous_cotangent(
    ensemble: Ensemble,
    tile: LaneTile | None,
    backward: BackwardConfig,
    perturbed: Ensemble,
    residuals: tuple[Array, Any, SolveOutcome],
    cotangents: Result,
    run_adjoints: Callable[[AdjointSolve], Any] = AdjointSolve.run,
) -> PyTree:
    """Return the cotangent of an ensemble from those of its result, by its adjoint equations.

    `residuals` of the forward run: the states at the saved times, the checkpoints and the outcome.
    Without a `tile` there is one trajectory. `run_adjoints` runs the
    backward solve.
    """
    ys, saved, outcome = residuals
    reached = reached_by_each(ensemble, outcome, cotangents)
    ct_ys = jnp.zeros_like(ys) if cotangents.ys is None else cotangents.ys
    if cotangents.y1 is not None:
        ct_ys = ct_ys.at[:, -1].add(cotangents.y1)
    # The rows that a solve did not reach are NaN, and so may be what their cotangents come to.
    last, num_accepted = last_saved(ensemble, reached), outcome.num_accepted
    there = jnp.arange(ys.shape[1], dtype=jnp.int32) <= last[:, None]
    ct_ys = jnp.where(_like(there, ys), ct_ys, 0)
    ys = jnp.where(_like(there, ys), ys, ys[:, :1])
    finite = ensemble
    if tile is not None:
        # Zero times NaN is NaN in a sum over lanes, so trajectories are replaced.
        wanted, example = reached.wanted, example_of(reached, num_accepted)
        ys, saved, num_accepted, last = jax.tree.map(
            lambda x: jnp.where(per_row(wanted, x), x, x[example]),
            (ys, saved, num_accepted, last),
        )
        finite = replace_unwanted(ensemble, reached, outcome.num_accepted)
    flags = replace_in_problem(perturbed.per_trajectory, y0=False, ts=False)
    shared = eqx.filter(finite.shared, replace_in_problem(perturbed.shared, ts=False))
    jumps = CotangentJumps.of(finite, backward.mass, ys, ct_ys, tile is not None)
    kept = None
    if isinstance(saved, KeptStates):
        kept, saved = saved.in_order(finite.all_times), None
    adjoints = AdjointSolve(
        finite, tile, backward, flags, shared, ys, jumps.a, saved, num_accepted, last, kept
    )
    (a, own, returned, counts), total = run_adjoints(adjoints)
    if backward.report is not None:
        _report(backward.report, counts, tile is not None)
    if jumps.impulses is not None:
        own_parameters = eqx.filter(finite.per_trajectory, flags)[0]
        own, total = jax.tree.map(
            jnp.add, (own, total), jumps.parameter_cotangents(own_parameters, shared)
        )
    with_times = bool(perturbed.per_trajectory[0].ts) or bool(perturbed.shared[0].ts)
    ts = jumps.time_cotangents(a) if with_times else None
    poisoned = reached.poisoned | (reached.asked & ~returned)
    reached = reached._replace(poisoned=poisoned)
    y0 = jumps.state_cotangents(a) + ct_ys[:, 0]
    own = own, eqx.filter(ensemble.per_trajectory[1], False)
    ct = assemble_cotangent(ensemble, own, total, y0, ts, reached)
    return eqx.filter(ct, perturbed)


def _report(report: Callable[[BackwardStats], None], counts: Any, batch: bool) -> None:
    """Call `report` with the counts, once the backward solve has run."""
    counts = counts if batch else jax.tree.map(lambda x: x[0], counts)
    jax.debug.callback(lambda *numbers: report(BackwardStats(*numbers)), *counts)


def last_saved(ensemble: Ensemble, reached: Reached) -> Array:
    """The index of the last saved time that each trajectory reached."""
    if ensemble.config.save == "ends":
        return jnp.where(reached.failed, 0, 1)
    return reached.num_saves - 1


def _like(rows: Array, ys: Array) -> Array:
    """Reshape a mask of rows `(trajectories, times)` so that it broadcasts with `ys`."""
    return rows.reshape(rows.shape + (1,) * (ys.ndim - 2))


def _forward(
    perturbed: PyTree, ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig
) -> tuple[Result, Any]:
    write, saved, schedule = None, None, backward.restarts
    if schedule is not None:
        y0, ts = ensemble.per_trajectory[0].y0, ensemble.all_times
        write = keep_in_lanes(schedule, tile, ensemble.count)
        saved = schedule.empty(y0[0], ts.dtype, ensemble.count)
    elif not backward.with_y:
        segments = SegmentSchedule.of(ensemble.config.method)
        write = segments.write_in_lanes(tile, ensemble.count)
        saved = segments.empty(integrator_shapes(ensemble), ensemble.count)
    result, saved = run_in_lanes(ensemble, tile, write, saved)
    return result, (result.ys, saved, SolveOutcome.of(result))


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    ensemble: Ensemble,
    tile: LaneTile,
    backward: BackwardConfig,
) -> PyTree:
    return continuous_cotangent(ensemble, tile, backward, perturbed, residuals, cotangents)


@with_vjp(_forward, _backward)
def solve_batch_states(ensemble: Ensemble, tile: LaneTile, backward: BackwardConfig) -> Result:
    """Solve an ensemble whose states are saved, differentiable by its adjoint equations."""
    return run_in_lanes(ensemble, tile)[0]
