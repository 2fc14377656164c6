"""An ensemble of trajectories: their own data, their shared data, and functions over lanes."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..solvers.step_size import Tolerance
from .counts import stats_of
from .forward import Result
from .ivp import (
    IVP,
    Save,
    SolveConfig,
    controlling_rest,
    for_derivatives,
    nudged_problem,
    step_reader,
)
from .save import StepRecord, state_at, step_fraction
from .step import Method


class Ensemble(eqx.Module):
    """Many initial value problems that differ in some of their arrays only.

    `per_trajectory` holds the arrays that differ, with a first axis of trajectories; `shared` holds
    the rest. Both are pairs `(IVP, SolveConfig)`, with None for the leaves of the other one.
    """

    per_trajectory: tuple[IVP, SolveConfig]
    shared: tuple[IVP, SolveConfig]

    def problem_of(self, rows: PyTree) -> tuple[IVP, SolveConfig]:
        """Combine one trajectory's rows of `per_trajectory` with the shared data."""
        return eqx.combine(rows, self.shared)

    def ts(self, rows: PyTree) -> Array:
        """The times of the trajectory with these rows of `per_trajectory`."""
        return self.shared[0].ts if rows[0].ts is None else rows[0].ts

    def for_derivatives(self, perturbed: "Ensemble") -> "Ensemble":
        """The ensemble of a solve that is differentiated by the arrays that `perturbed` marks."""
        (own, own_config), (shared, shared_config) = self.per_trajectory, self.shared
        own_config = for_derivatives(own, own_config, perturbed.per_trajectory[0], axis=True)
        shared_config = for_derivatives(shared, shared_config, perturbed.shared[0])
        return Ensemble((own, own_config), (shared, shared_config))

    def controlling_rest(self, wanted: bool) -> "Ensemble":
        """The ensemble, with control of steps at rest if that is `wanted`."""
        (own, own_config), (shared, config) = self.per_trajectory, self.shared
        own_config = controlling_rest(own_config, wanted)
        return Ensemble((own, own_config), (shared, controlling_rest(config, wanted)))

    def nudged(self, rows: PyTree, due: Array | bool) -> tuple["Ensemble", PyTree]:
        """The ensemble and the `rows` of lanes, with the parameters of neighbours if `due`."""
        (own, own_config), (shared, config) = rows, self.shared
        shared = nudged_problem(shared, config, due), config
        return Ensemble(self.per_trajectory, shared), (
            nudged_problem(own, own_config, due),
            own_config,
        )

    @property
    def all_times(self) -> Array:
        """The times, shape `(times,)` or `(trajectories, times)`."""
        return self.ts(self.per_trajectory)

    @property
    def count(self) -> int:
        """The number of trajectories."""
        return self.per_trajectory[0].y0.shape[0]

    @property
    def config(self) -> SolveConfig:
        """The shared configuration; its static parts (solver, packing, `save`) hold for all."""
        return self.shared[1]

    @property
    def has_jumps(self) -> bool:
        """True if there are discontinuities at which steps have to stop."""
        return any(part[0].jumps is not None for part in (self.per_trajectory, self.shared))

    @property
    def has_events(self) -> bool:
        """True if there are events to detect or jumps to stop at."""
        return bool(self.shared[0].events) or self.has_jumps


def first_values(ensemble: Ensemble) -> PyTree:
    """The saved values at the first time of each trajectory, with a first axis of trajectories."""

    def first_value(rows: PyTree) -> PyTree:
        problem, config = ensemble.problem_of(rows)
        return step_reader(problem, config).fn(problem.ts[0], problem.y0)

    return jax.vmap(first_value)(ensemble.per_trajectory)


def values_in_lanes(
    ensemble: Ensemble,
    rows: PyTree,
    t: Array,
    last: Array,
    steps: StepRecord,
    final: Array | None = None,
) -> PyTree:
    """The saved values at `t` inside the lanes' steps; `last` and `final` as in `StepReader`."""

    def saved_value(rows: PyTree, t: Array, y: Array) -> PyTree:
        return step_reader(*ensemble.problem_of(rows)).fn(t, y)

    interpolate = ensemble.config.method.solver.interpolate
    inner = interpolate(step_fraction(t, steps.t, steps.h, steps.y), steps.y, steps.h, steps.dense)
    y = state_at(last, final, steps.y1, inner)
    return y if ensemble.shared[0].save_fn is None else jax.vmap(saved_value, -1, -1)(rows, t, y)


def method_in_lanes(ensemble: Ensemble, rows: PyTree) -> Method:
    """Make the method for lanes: their own tolerances and solver arrays, the lanes' axis last."""
    method, tolerance = ensemble.config.method, rows[1].method.tolerance

    def over_lanes(per_lane: Any, shared: Any) -> Array:
        # One of the two is None; a tolerance per component has the state's shape before the lanes.
        return per_lane if shared is None else shared[..., None] if shared.ndim else shared

    rtol = over_lanes(tolerance.rtol, method.tolerance.rtol)
    atol = over_lanes(tolerance.atol, method.tolerance.atol)
    in_lanes = Tolerance(rtol, atol, method.tolerance.norm, lanes=True)
    solver = eqx.combine(rows[1].method.solver, method.solver)
    return dataclasses.replace(method, tolerance=in_lanes, solver=solver)


class TileResult(NamedTuple):
    """The output of a lane tile: results per trajectory, records, the number of iterations."""

    results: PyTree
    record: Any
    num_iterations: Array


def result_of(ensemble: Ensemble, tile_result: TileResult, width: int, save: Save) -> Result:
    """Make the result per trajectory from that of a tile of `width` lanes with save mode `save`."""
    (y1, t, counts, *sizes), ((saved, log), _), num_iterations = tile_result
    status, num_steps, num_accepted, *more_counts = jnp.moveaxis(counts, 1, 0)
    method = ensemble.config.method
    if log is not None:
        log = log._replace(count=more_counts.pop())
    linear_algebra = tuple(more_counts[-2:]) if method.solver.reuses_jacobian else ()
    extra = more_counts[: method.counts_extra_evaluations]
    next_dt = sizes[0] if sizes else jnp.full_like(t, jnp.nan)  # kernels do not return it
    stats = stats_of(method, num_steps, num_accepted, extra, linear_algebra, t, next_dt)
    slots = jnp.maximum(num_iterations * width, 1).astype(t.dtype)
    share = jnp.sum(num_steps).astype(t.dtype) / slots
    stats = dataclasses.replace(stats, useful_share=jnp.full_like(t, share))
    if method.detects_stability:  # as single solves count them
        stats = dataclasses.replace(stats, num_stability_bound=jnp.full_like(num_steps, -1))
    result = Result(None, None, y1, stats, status, None, log)
    if save == "ends":
        return result._replace(ys=jnp.stack([ensemble.per_trajectory[0].y0, y1], axis=1))
    if save == "ts":
        return result._replace(ys=saved)
    if save == "steps":
        return result._replace(ts=saved[0], ys=saved[1])
    return result._replace(dense=saved)
