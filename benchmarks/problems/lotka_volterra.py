"""The Lotka-Volterra equations, and data to fit their parameters to."""

import jax.numpy as jnp
from jax import Array

import jaxode as jo

PARAMETERS = (1.5, 1.0, 3.0, 1.0)


def lotka_volterra(t: Array, y: Array, p: Array) -> Array:
    """The vector field with four parameters."""
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


def fit_problem() -> tuple[Array, Array, Array, Array]:
    """Initial state, times, initial guess of the parameters, and data to fit."""
    y0, ts = jnp.array([1.0, 1.0]), jnp.linspace(0.0, 10.0, 101)
    truth = jnp.array(PARAMETERS)
    data = jo.solve(lotka_volterra, y0, ts, truth, solver="dopri8", rtol=1e-12, atol=1e-13).ys
    return y0, ts, 1.02 * truth, data
