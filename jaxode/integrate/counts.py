"""The statistics of finished trajectories: field evaluations, steps and linear algebra."""

from typing import Any

import jax
from jax import Array

from .solution import Stats
from .step import Method


def stats_of(
    method: Method,
    num_steps: Array,
    num_accepted: Array,
    extra_evaluations: Any,
    linear_algebra_counts: Any,
    t_reached: Array,
    next_dt: Array,
) -> Stats:
    """Make the statistics of finished trajectories."""
    first, per_step = first_evaluations(method), method.solver.evaluations.step
    jacobians, factorisations = linear_algebra_counts or (None, None)
    return Stats(
        num_steps=num_steps,
        num_accepted=num_accepted,
        num_rejected=num_steps - num_accepted,
        num_evaluations=first + per_step * num_steps + sum(jax.tree.leaves(extra_evaluations)),
        t_reached=t_reached,
        next_dt=next_dt,
        num_jacobians=jacobians,
        num_factorisations=factorisations,
    )


def first_evaluations(method: Method) -> int:
    """The number of field evaluations before the first step, for solver and step-size choice."""
    first = method.solver.evaluations.init
    if method.controller.adaptive and method.dt is None:
        return max(first, 1) + 1  # the choice of the step size reuses the slope at the start
    return first
