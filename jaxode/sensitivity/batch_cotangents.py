"""Cotangents of batches: failed trajectories, and the parts of an ensemble they belong to."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result

# A problem and the configuration of its solve, or cotangents of them.
ProblemPair = tuple[Any, Any]


def replace_failed(ensemble: Ensemble, succeeded: Array) -> Ensemble:
    """Replace each failed trajectory of `ensemble` by the first successful one.

    The cotangents of a failed trajectory are zero, but zero times NaN is NaN in a sum over lanes.
    """
    first = jnp.argmax(succeeded)

    def fill(x: Array) -> Array:
        return jnp.where(per_row(succeeded, x), x, x[first])

    return Ensemble(jax.tree.map(fill, ensemble.per_trajectory), ensemble.shared)


def per_row(mask: Array, x: Array) -> Array:
    """Reshape `mask`, one value for each row of `x`, so that it broadcasts with `x`."""
    return mask.reshape((-1,) + (1,) * (x.ndim - 1))


def shared_cotangent_invalid(cotangents: Result, succeeded: Array) -> Array:
    """Return whether a failed trajectory has a cotangent, so that shared ones are unknown."""
    return jnp.any(has_cotangent(cotangents) & ~succeeded)


def has_cotangent(cotangents: Result) -> Array | bool:
    """Return which trajectories have a cotangent other than zero, shape `(trajectories,)`."""
    nonzero = False
    parts = cotangents.ys, cotangents.y1, cotangents.dense, cotangents.log
    for ct in jax.tree.leaves(parts):
        nonzero = nonzero | jnp.any(ct.reshape(ct.shape[0], -1) != 0, axis=1)
    return nonzero


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
    succeeded: Array,
    shared_invalid: Array,
) -> Ensemble:
    """Assemble the cotangent of an ensemble from those of its parts.

    `ts` are cotangents of each trajectory's times, shape `(trajectories, times)`, or None. The
    parts of failed trajectories are NaN, and so are the shared ones if they are invalid.
    """

    def nan_where_failed(x: Array) -> Array:
        return nan_unless(per_row(succeeded, x), x)

    def nan_where_invalid(x: Array) -> Array:
        return nan_unless(~shared_invalid, x)

    per_trajectory = jax.tree.map(nan_where_failed, per_trajectory)
    per_trajectory = replace_in_problem(per_trajectory, y0=nan_where_failed(y0))
    shared = jax.tree.map(nan_where_invalid, shared)
    if ts is None:
        return Ensemble(per_trajectory, shared)
    if ensemble.per_trajectory[0].ts is not None:
        return Ensemble(replace_in_problem(per_trajectory, ts=nan_where_failed(ts)), shared)
    total = jnp.sum(jnp.where(succeeded[:, None], ts, 0), axis=0)
    return Ensemble(per_trajectory, replace_in_problem(shared, ts=nan_where_invalid(total)))
