"""Ensembles: many trajectories of one vector field, each with its own parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.problems.lorenz import PARAMETERS, lorenz


class Ensemble(NamedTuple):
    """Many trajectories of one vector field, and the tolerances of their solve."""

    field: Callable
    args: Array
    y0: Array
    ts: Array
    rtol: float
    atol: float

    @property
    def inputs(self) -> tuple:
        """The arguments of a solve after the vector field."""
        return tuple(self)[1:]


def lorenz_ensemble(
    count: int, t1: float = 20.0, rtol: float = 1e-7, atol: float = 1e-9
) -> Ensemble:
    """Lorenz systems from states spread over the attractor, each with its own parameters."""
    y0 = np.random.default_rng(0).normal(size=(count, 3)) * 3 + np.array([0.0, 0.0, 20.0])
    args = jnp.tile(jnp.array(PARAMETERS), (count, 1))
    return Ensemble(lorenz, args, jnp.asarray(y0), jnp.array([0.0, t1]), rtol, atol)


def van_der_pol_ensemble(count: int, low: float, high: float) -> Ensemble:
    """Van der Pol oscillators to t = 20, mu log-uniform in [low, high] and in random order."""
    mu = np.exp(np.random.default_rng(0).uniform(np.log(low), np.log(high), (count, 1)))
    y0 = jnp.tile(jnp.array([2.0, 0.0]), (count, 1))
    return Ensemble(van_der_pol, jnp.asarray(mu), y0, jnp.array([0.0, 20.0]), 1e-6, 1e-8)


def van_der_pol(t: Array, y: Array, args: Array) -> Array:
    """The vector field of Van der Pol's oscillator."""
    return jnp.stack([y[1], args[0] * (1 - y[0] ** 2) * y[1] - y[0]])
