"""Many problems of one form: what each has for itself, what they share, how they lie in lanes."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..solvers.step_size import Tolerance
from .forward import Result
from .ivp import IVP, Save, SolveConfig, step_reader
from .save import StepRecord, state_at
from .step import Method, stats_of


class Ensemble(eqx.Module):
    """Many problems of one form.

    `per_trajectory` holds what each trajectory has for itself, an array's first axis being the trajectories;
    `shared` all the rest. Both are `(Problem, Plan)`, None in the places that the other fills.
    """

    per_trajectory: tuple[IVP, SolveConfig]
    shared: tuple[IVP, SolveConfig]

    def one(self, rows: PyTree) -> tuple[IVP, SolveConfig]:
        """The problem of one trajectory, from its rows of `per_trajectory`."""
        return eqx.combine(rows, self.shared)

    def ts(self, rows: PyTree) -> Array:
        """The times of a trajectory."""
        own = rows[0].ts
        return self.shared[0].ts if own is None else own

    @property
    def all_times(self) -> Array:
        """The times, shape `(times,)` or `(trajectories, times)`."""
        own = self.per_trajectory[0].ts
        return self.shared[0].ts if own is None else own

    @property
    def count(self) -> int:
        """How many trajectories."""
        return self.per_trajectory[0].y0.shape[0]

    @property
    def config(self) -> SolveConfig:
        """The plan, for what is static in it: solver, packing, `save`."""
        return self.shared[1]

    @property
    def jumps(self) -> bool:
        """Whether there are times on which steps have to end."""
        return any(part[0].jumps is not None for part in (self.per_trajectory, self.shared))

    @property
    def has_events(self) -> bool:
        """Whether there are events or jumps to watch for."""
        return bool(self.shared[0].events) or self.jumps


def first_values(ensemble: Ensemble) -> PyTree:
    """What is saved at the first time of each trajectory, its axis first."""

    def one(rows: PyTree) -> PyTree:
        problem, plan = ensemble.one(rows)
        return step_reader(problem, plan).fn(problem.ts[0], problem.y0)

    return jax.vmap(one)(ensemble.per_trajectory)


def values_in_lanes(
    ensemble: Ensemble,
    rows: PyTree,
    t: Array,
    last: Array,
    steps: StepRecord,
    final: Array | None = None,
) -> PyTree:
    """What is saved at `t` inside the lanes' steps; `last` and `final` as a `Reading` has them."""

    def value(rows: PyTree, t: Array, y: Array) -> PyTree:
        return step_reader(*ensemble.one(rows)).fn(t, y)

    interpolate = ensemble.config.method.solver.interpolate
    inner = interpolate((t - steps.t) / steps.h, steps.y, steps.h, steps.dense)
    y = state_at(last, final, steps.y1, inner)
    return y if ensemble.shared[0].read is None else jax.vmap(value, -1, -1)(rows, t, y)


def method_in_lanes(ensemble: Ensemble, rows: PyTree) -> Method:
    """The method, its tolerances laid out for lanes, with what the solver has for each."""
    method, tolerance = ensemble.config.method, rows[1].method.tolerance

    def spread(own: Any, shared: Any) -> Array:
        # One of the two is None; a tolerance by component has the state's shape before its lanes.
        return own if shared is None else shared[..., None] if shared.ndim else shared

    rtol = spread(tolerance.rtol, method.tolerance.rtol)
    atol = spread(tolerance.atol, method.tolerance.atol)
    spread_out = Tolerance(rtol, atol, method.tolerance.norm, lanes=True)
    solver = eqx.combine(rows[1].method.solver, method.solver)
    return dataclasses.replace(method, tolerance=spread_out, solver=solver)


class TileResult(NamedTuple):
    """What a tile leaves behind: results by trajectory, records, the turns it took."""

    results: PyTree
    record: Any
    num_iterations: Array


def result_of(ensemble: Ensemble, ended: TileResult, width: int, save: Save) -> Result:
    """The result, trajectory by trajectory, of a run in `width` lanes that recorded `save`."""
    (y1, t, counts), ((saved, log), _), turns = ended
    status, num_steps, num_accepted, *more = jnp.moveaxis(counts, 1, 0)
    method = ensemble.config.method
    if log is not None:
        log = log._replace(count=more.pop())
    num_made = tuple(more[-2:]) if method.solver.reuses_jacobian else ()
    num_more = more[: method.counts_more]
    stats = stats_of(method, num_steps, num_accepted, num_more, num_made, t)
    share = jnp.sum(num_steps) / jnp.maximum(turns * width, 1).astype(t.dtype)
    stats = dataclasses.replace(stats, useful_share=jnp.full_like(t, share))
    result = Result(None, None, y1, stats, status, None, log)
    if save == "ends":
        return result._replace(ys=jnp.stack([ensemble.per_trajectory[0].y0, y1], axis=1))
    if save == "ts":
        return result._replace(ys=saved)
    if save == "steps":
        return result._replace(ts=saved[0], ys=saved[1])
    return result._replace(dense=saved)
