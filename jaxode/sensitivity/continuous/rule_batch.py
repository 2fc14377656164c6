"""The gradient rule of a batch by its adjoint equations; a solve is a batch of one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...batch import queue as tiles
from ...batch.forward import BatchRun
from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import step_reader
from ...problem.status import Status
from ..ad_direction import forwards_after
from ..batch_cotangents import cotangent, has_cotangent, replace_failed, without
from .backward import AdjointSolve
from .backward_solver import Backwards
from .checkpoints import SavedStates, Segments, forward_shapes
from .cotangent_jumps import CotangentJumps


def solve_in_lanes(ensemble: Ensemble, tile: LaneTile, backwards: Backwards) -> Result:
    """Run all of `ensemble`; its gradient is the adjoint equations'."""
    return reading_after(ensemble, lambda states: _continuous(states, tile, backwards))


def reading_after(ensemble: Ensemble, solve: Callable[[Ensemble], Result]) -> Result:
    """The result of a `solve` for states, and what is read off them: differentiated outside."""
    if ensemble.shared[0].read is None:
        return solve(ensemble)
    own, shared = ensemble.per_trajectory, ensemble.shared
    states = solve(Ensemble(without(own, read=None), without(shared, read=None)))

    def read(rows: PyTree, ys: Array) -> PyTree:
        problem, plan = ensemble.one(rows)
        return jax.vmap(step_reader(problem, plan).fn)(problem.ts, ys)

    return states._replace(ys=jax.vmap(read)(own, states.ys))


@eqx.filter_custom_vjp
def _continuous(ensemble: Ensemble, tile: LaneTile, backwards: Backwards) -> Result:
    return _run(ensemble, tile, None)[0]


def _run(
    ensemble: Ensemble, tile: LaneTile, segments: Segments | None
) -> tuple[Result, SavedStates | None]:
    """The forward run, and what is kept of it."""
    run, kept, keep = BatchRun(ensemble, tile), None, None
    if segments is not None:
        kept = segments.blank(forward_shapes(ensemble), ensemble.count)
        keep = segments.write_lanes(tile, ensemble.count)
    ended = tiles.run(run.lane_program(keep), tile, (run.initial_record(), kept))
    return run.gather_results(ended), ended.record[1]


@_continuous.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree, ensemble: Ensemble, tile: LaneTile, backwards: Backwards
) -> tuple[Result, Any]:
    method = ensemble.config.method
    segments = None
    if not backwards.with_y:
        segments = Segments.of(method.max_steps, method.solver.num_dense)
    result, kept = _run(ensemble, tile, segments)
    return result, (result.ys, result.status, kept, result.stats.num_accepted, perturbed)


@_continuous.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    ensemble: Ensemble,
    tile: LaneTile,
    backwards: Backwards,
) -> PyTree:
    *known, perturbed = residuals
    return pull_back(ensemble, tile, backwards, perturbed, tuple(known), cotangents)


def pull_back(
    ensemble: Ensemble,
    tile: LaneTile | None,
    backwards: Backwards,
    perturbed: Ensemble,
    known: tuple[Array, Array, Any, Array],
    cotangents: Result,
    walked: Callable[[AdjointSolve], Any] = AdjointSolve.run,
) -> PyTree:
    """The cotangent of the ensemble.

    `known` of the forward run: the states at the saved times, the status, what was kept, and the
    number of accepted steps. No `tile`: one trajectory, without lanes. `walked`: runs the walk.
    """
    ys, status, kept, counts = known
    good = status == Status.SUCCESS
    ct_ys = jnp.zeros_like(ys) if cotangents.ys is None else cotangents.ys
    if cotangents.y1 is not None:
        ct_ys = ct_ys.at[:, -1].add(cotangents.y1)
    calm = ensemble
    if tile is not None:
        # Zero times NaN is NaN in every sum over lanes: what failed is replaced.
        ct_ys = jnp.where(_beside(good, ys), ct_ys, 0)
        first = jnp.argmax(good)
        ys, kept, counts = jax.tree.map(
            lambda x: jnp.where(_beside(good, x), x, x[first]), (ys, kept, counts)
        )
        calm = replace_failed(ensemble, good)
    flags = without(perturbed.per_trajectory, y0=False, ts=False)
    shared = eqx.filter(calm.shared, without(perturbed.shared, ts=False))
    jumps = CotangentJumps.of(calm, backwards.mass, ys, ct_ys, tile is not None)
    walk = AdjointSolve(calm, tile, backwards, flags, shared, ys, jumps.a, kept, counts)
    (a, own, ended), total = walked(walk)
    if jumps.kicks is not None:
        more = jumps.parameters(eqx.filter(calm.per_trajectory, flags)[0], shared)
        own, total = jax.tree.map(jnp.add, (own, total), more)
    with_times = bool(perturbed.per_trajectory[0].ts) or bool(perturbed.shared[0].ts)
    ts = jumps.times(a) if with_times else None
    good = good & ended
    # What all share is unknown where a trajectory that failed, on either way, has a cotangent.
    lost = jnp.any(has_cotangent(cotangents) & ~good)
    y0 = jumps.start(a) + ct_ys[:, 0]
    ct = cotangent(
        ensemble, (own, eqx.filter(ensemble.per_trajectory[1], False)), total, y0, ts, good, lost
    )
    return eqx.filter(ct, perturbed)


def _beside(mask: Array, x: Array) -> Array:
    """`mask` of trajectories with axes for the rest of `x`."""
    return mask.reshape((-1,) + (1,) * (x.ndim - 1))
