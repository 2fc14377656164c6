"""Cotangents of batches: failed trajectories, and the parts of an ensemble they belong to."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from .reached import Reached, SolveOutcome, poison, what_is_reached

# A problem and the configuration of its solve, or cotangents of them.
ProblemPair = tuple[Any, Any]


def reached_by_each(ensemble: Ensemble, outcome: SolveOutcome, cotangents: Result) -> Reached:
    """What each trajectory reached, and what is asked of it; with a first axis of trajectories."""
    config, ts = ensemble.config, ensemble.all_times

    def of_trajectory(rows: Any, outcome: SolveOutcome, cotangents: Result, ts: Array) -> Reached:
        jumps = ensemble.problem_of(rows)[0].jumps if config.saves_after_jumps else None
        return what_is_reached(config.save, ts, outcome, cotangents, jumps)

    axes = (0, 0, 0, None if ts.ndim == 1 else 0)
    return jax.vmap(of_trajectory, axes)(ensemble.per_trajectory, outcome, cotangents, ts)


def example_of(reached: Reached, num_accepted: Array) -> Array:
    """The index of a trajectory whose steps are finite: one that succeeded, if any did."""
    stepped = jnp.where(num_accepted > 0, 2, 1)
    return jnp.argmax(jnp.where(reached.failed, jnp.where(reached.wanted, stepped, 0), 3))


def replace_unwanted(ensemble: Ensemble, reached: Reached, num_accepted: Array) -> Ensemble:
    """Replace each trajectory of `ensemble` that is not wanted by one whose steps are finite.

    Their cotangents are zero, but zero times NaN is NaN in a sum over lanes.
    """
    example = example_of(reached, num_accepted)

    def fill(x: Array) -> Array:
        return jnp.where(per_row(reached.wanted, x), x, x[example])

    return Ensemble(jax.tree.map(fill, ensemble.per_trajectory), ensemble.shared)


def per_row(mask: Array, x: Array) -> Array:
    """Reshape `mask`, one value for each row of `x`, so that it broadcasts with `x`."""
    return mask.reshape((-1,) + (1,) * (x.ndim - 1))


def nan_unless(valid: Array, x: Array) -> Array:
    """Return `x` where it is `valid`, else NaN; its derivatives likewise."""
    return x * jnp.where(valid, 1, jnp.nan).astype(jnp.finfo(x.dtype).dtype)


def replace_in_problem(pair: ProblemPair, **fields: Any) -> ProblemPair:
    """Replace fields of the problem in a pair of problem and configuration."""
    return dataclasses.replace(pair[0], **fields), pair[1]


def assemble_cotangent(
    ensemble: Ensemble,
    per_trajectory: ProblemPair,
    shared: ProblemPair,
    y0: Array,
    ts: Array | None,
    reached: Reached,
) -> Ensemble:
    """Assemble the cotangent of an ensemble from those of its parts.

    `ts` are cotangents of each trajectory's times, shape `(trajectories, times)`, or None. The
    parts of trajectories that are not wanted are zero, those of poisoned ones NaN, and so are the
    shared parts if there is a poisoned one.
    """
    wanted, poisoned = reached.wanted, reached.poisoned

    def of_trajectories(x: Array) -> Array:
        return poison(jnp.where(per_row(wanted, x), x, 0), per_row(poisoned, x))

    def of_all(x: Array) -> Array:
        return poison(jnp.where(jnp.any(wanted), x, 0), jnp.any(poisoned))

    per_trajectory = jax.tree.map(of_trajectories, per_trajectory)
    per_trajectory = replace_in_problem(per_trajectory, y0=of_trajectories(y0))
    shared = jax.tree.map(of_all, shared)
    if ts is None:
        return Ensemble(per_trajectory, shared)
    if ensemble.per_trajectory[0].ts is not None:
        return Ensemble(replace_in_problem(per_trajectory, ts=of_trajectories(ts)), shared)
    total = jnp.sum(jnp.where(wanted[:, None], ts, 0), axis=0)
    return Ensemble(per_trajectory, replace_in_problem(shared, ts=of_all(total)))
