"""Solves and gradients of an ensemble by jaxode, and the share of lane-steps that are useful."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.problems.ensembles import Ensemble

# A function of the vector field, parameters, initial states, times, rtol and atol.
EndStates = Callable[[Callable, Array, Array, Array, float, float], Array]


def solve_ensemble(
    f: Callable, args: Array, y0: Array, ts: Array, rtol: float, atol: float, **options: Any
) -> jo.Solution:
    """The solution of a whole ensemble by `jo.solve_batch`."""
    return jo.solve_batch(f, y0, ts, args, in_axes=(0, None, 0), rtol=rtol, atol=atol, **options)


def our_ends(f: Callable, args: Array, y0: Array, ts: Array, rtol: float, atol: float) -> Array:
    """The end states of an ensemble by `jo.solve_batch`."""
    return solve_ensemble(f, args, y0, ts, rtol, atol).y1


def exact_ends(ensemble: Ensemble) -> Array:
    """The end states of an ensemble to about twelve digits; to t = 20 Lorenz systems lose seven.

    `tests/benchmarks/test_references.py` checks them.
    """
    precise = ensemble._replace(rtol=1e-13, atol=1e-14)
    return solve_ensemble(*precise, solver="dopri8", max_steps=20000).y1


def make_forward(ends: EndStates, ensemble: Ensemble) -> tuple[Callable, tuple]:
    """The end states, jitted, and their inputs."""
    return jax.jit(partial(ends, ensemble.field)), ensemble.inputs


def make_gradient(ends: EndStates, ensemble: Ensemble) -> tuple[Callable, tuple]:
    """Value and gradient of `sum_of_squares` by each trajectory's parameters, and its inputs."""

    def loss(args: Array, *rest: Any) -> Array:
        return sum_of_squares(ends(ensemble.field, args, *rest))

    return jax.jit(jax.value_and_grad(loss)), ensemble.inputs


def sum_of_squares(ends: Array) -> Array:
    """The loss of end states whose gradient is measured."""
    return jnp.sum(ends**2)


def useful_share(solution: jo.Solution) -> float:
    """The share of the lane-steps that a trajectory needed."""
    return float(getattr(solution.stats, "useful_share", float("nan")))


def lockstep_share(num_steps: Array) -> float:
    """The useful share of a `vmap`, whose trajectories all step until the slowest one has ended."""
    return float(num_steps.mean() / num_steps.max())
