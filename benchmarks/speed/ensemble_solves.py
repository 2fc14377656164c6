"""Ensembles of one field, the ways to solve one, and to differentiate it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxode as jo
from benchmarks.speed.lorenz import ARGS
from benchmarks.speed.lorenz import field as lorenz_field

# From the field, its arguments `(trajectories, arguments)`, start, times, rtol and atol.
Ends = Callable[[Callable, Array, Array, Array, float, float], Array]


class Ensemble(NamedTuple):
    """Many trajectories of one field, and how exactly they are asked for."""

    field: Callable
    args: Array
    y0: Array
    ts: Array
    rtol: float
    atol: float

    @property
    def inputs(self) -> tuple:
        """What a solve is called with after the field."""
        return tuple(self)[1:]


def lorenz(count: int, t1: float = 20.0, rtol: float = 1e-7, atol: float = 1e-9) -> Ensemble:
    """Lorenz systems from states spread over the attractor, each with its own parameters."""
    y0 = np.random.default_rng(0).normal(size=(count, 3)) * 3 + np.array([0.0, 0.0, 20.0])
    args = jnp.tile(jnp.array(ARGS), (count, 1))
    return Ensemble(lorenz_field, args, jnp.asarray(y0), jnp.array([0.0, t1]), rtol, atol)


def van_der_pol(count: int, low: float, high: float) -> Ensemble:
    """Van der Pol oscillators to t = 20, mu log-uniform between the two, in random order."""
    mu = np.exp(np.random.default_rng(0).uniform(np.log(low), np.log(high), (count, 1)))
    y0 = jnp.tile(jnp.array([2.0, 0.0]), (count, 1))
    return Ensemble(van_der_pol_field, jnp.asarray(mu), y0, jnp.array([0.0, 20.0]), 1e-6, 1e-8)


def van_der_pol_field(t: Array, y: Array, args: Array) -> Array:
    return jnp.stack([y[1], args[0] * (1 - y[0] ** 2) * y[1] - y[0]])


def batch(
    f: Callable, args: Array, y0: Array, ts: Array, rtol: float, atol: float, **options: Any
) -> jo.Solution:
    """All of an ensemble by `jo.solve_batch`."""
    return jo.solve_batch(f, y0, ts, args, in_axes=(0, None, 0), rtol=rtol, atol=atol, **options)


def our_ends(f: Callable, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    return batch(f, args, y0, ts, rtol, atol).y1


def exact_ends(ensemble: Ensemble) -> Array:
    """The end states to thirteen digits or so."""
    precise = ensemble._replace(rtol=1e-13, atol=1e-14)
    return batch(*precise, solver="dopri8", max_steps=20000).y1


def make(ends: Ends, ensemble: Ensemble) -> tuple[Callable, tuple]:
    """End states, jitted, and its inputs."""
    return jax.jit(partial(ends, ensemble.field)), ensemble.inputs


def make_gradient(ends: Ends, ensemble: Ensemble) -> tuple[Callable, tuple]:
    """Value and gradient of `sum_of_squares` by each trajectory's arguments, and its inputs."""

    def value(args: Array, *rest: Any) -> Array:
        return sum_of_squares(ends(ensemble.field, args, *rest))

    return jax.jit(jax.value_and_grad(value)), ensemble.inputs


def sum_of_squares(ends: Array) -> Array:
    return jnp.sum(ends**2)


def useful_share(sols: jo.Solution) -> float:
    """The share of the lanes' steps that a trajectory needed."""
    return float(getattr(sols.stats, "useful_share", float("nan")))


def lockstep_share(num_steps: Array) -> float:
    """The same of a `vmap`, whose trajectories all step until the slowest has ended."""
    return float(num_steps.mean() / num_steps.max())


def median_error(found: Array, exact: Array) -> float:
    """The median over trajectories of the largest error among the components."""
    return float(jnp.median(jnp.abs(found - exact).max(axis=-1)))


def median_share(found: Array, exact: Array) -> float:
    """The median over trajectories of the error's norm over that of the exact vector."""
    norm = partial(jnp.linalg.norm, axis=-1)
    return float(jnp.median(norm(found - exact) / norm(exact)))
