"""Errors of solutions and gradients against a reference."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


def relative_error(found: PyTree, exact: PyTree) -> float:
    """The norm of the difference of two pytrees over the norm of the second."""
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (found, exact))
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def median_max_error(found: Array, exact: Array) -> float:
    """The median over trajectories of the largest error among the components."""
    return float(jnp.median(jnp.abs(found - exact).max(axis=-1)))


def median_max_relative_error(found: Array, exact: Array) -> float:
    """The median over trajectories of the largest relative error of a component."""
    return float(jnp.median(jnp.abs(found / exact - 1).max(axis=-1)))


def median_relative_error(found: Array, exact: Array) -> float:
    """The median over trajectories of the error's norm over the norm of the exact vector."""
    norm = partial(jnp.linalg.norm, axis=-1)
    return float(jnp.median(norm(found - exact) / norm(exact)))
