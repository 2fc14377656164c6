"""What the gradients of batches share: failed trajectories, and where cotangents go."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result

Pair = tuple[Any, Any]


def replace_failed(ensemble: Ensemble, good: Array) -> Ensemble:
    """The ensemble with a trajectory that went well in the place of those that failed.

    The cotangents of what failed are zero, but zero times NaN is NaN, in every sum over lanes.
    """
    first = jnp.argmax(good)

    def fill(x: Array) -> Array:
        return jnp.where(good.reshape((-1,) + (1,) * (x.ndim - 1)), x, x[first])

    return Ensemble(jax.tree.map(fill, ensemble.per_trajectory), ensemble.shared)


def shared_cotangent_invalid(cotangents: Result, good: Array) -> Array:
    """Whether a trajectory that failed has a cotangent: what all share is then unknown."""
    return jnp.any(has_cotangent(cotangents) & ~good)


def has_cotangent(cotangents: Result) -> Array | bool:
    """Which trajectories have a cotangent other than zero."""
    found = False
    parts = cotangents.ys, cotangents.y1, cotangents.dense, cotangents.log
    for ct in jax.tree.leaves(parts):
        found = found | jnp.any(ct.reshape(ct.shape[0], -1) != 0, axis=1)
    return found


def nan_unless(known: Array, x: Array) -> Array:
    """`x`, but NaN where it is not `known`: and so are its derivatives."""
    return x * jnp.where(known, 1, jnp.nan).astype(jnp.finfo(x.dtype).dtype)


def without(parts: Pair, **fields: Any) -> Pair:
    """A pair of problem and plan with other fields in the problem."""
    return dataclasses.replace(parts[0], **fields), parts[1]


def cotangent(
    ensemble: Ensemble,
    own: Pair,
    shared: Pair,
    y0: Array,
    ts: Array | None,
    good: Array,
    lost: Array,
) -> Ensemble:
    """The parts in the places of the ensemble that they are for.

    `ts` are cotangents of each trajectory's times. NaN stands in the own parts of what failed, and
    in the shared ones if they are `lost`.
    """

    def of_each(x: Array) -> Array:
        return nan_unless(good.reshape((-1,) + (1,) * (x.ndim - 1)), x)

    def of_all(x: Array) -> Array:
        return nan_unless(~lost, x)

    own = without(jax.tree.map(of_each, own), y0=of_each(y0))
    shared = jax.tree.map(of_all, shared)
    if ts is None:
        return Ensemble(own, shared)
    if ensemble.per_trajectory[0].ts is not None:
        return Ensemble(without(own, ts=of_each(ts)), shared)
    total = jnp.sum(jnp.where(good[:, None], ts, 0), axis=0)
    return Ensemble(own, without(shared, ts=of_all(total)))
