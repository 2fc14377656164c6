"""The values of a solve as a function with derivatives of every order, over the steps that it took.

The loop over adaptive steps has a reverse-mode derivative by a rule of its own, and that rule is a
loop. Where a gradient is differentiated in reverse mode again, the same steps are a scan.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.forward import solve_forward
from ...integrate.ivp import IVP, SolveConfig, direction_of, packed_field, step_reader
from ...integrate.missing import missing_where
from ...problem.errors import DifferentiationError
from ...problem.status import Status
from .dynamic_scan import dynamic_scan

UNSUPPORTED = (
    "the gradient of a solve with events, jumps or dense output is differentiated forwards alone: "
    "for second derivatives use jax.hessian or jax.jacfwd(jax.grad(...))"
)


class StepsTaken(NamedTuple):
    """The accepted steps of a solve: where each starts and ends, how many, and if it failed."""

    ends: Array
    count: Array
    failed: Array


def steps_taken(problem: IVP, config: SolveConfig, perturbed: Any) -> StepsTaken:
    """Solve, and return the steps; `perturbed` marks the arrays that derivatives are taken by.

    **Raises:** `DifferentiationError` for a problem with events or jumps.
    """
    if problem.has_events or config.save == "dense":
        raise DifferentiationError(UNSUPPORTED)
    fixed = jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, problem)
    fixed = dataclasses.replace(fixed, save_fn=None)
    result, _ = solve_forward(fixed, dataclasses.replace(config, save="steps"), perturbed=perturbed)
    return StepsTaken(result.ts, result.stats.num_accepted, result.status != Status.SUCCESS)


def replayed(problem: IVP, config: SolveConfig, steps: StepsTaken) -> tuple[PyTree, Array]:
    """Return the saved values and the last state of the solve that took these steps.

    Step sizes are constants but for the last, which ends at the last time.
    """
    stepper, field, save = config.method.stepper, packed_field(problem, config), config.save
    starts, sizes = _clock(problem, steps)

    def step(carry: tuple[Array, Any], clock: tuple[Array, Array]) -> tuple[Any, Any]:
        (y, solver_state), (t, h) = carry, clock
        result = stepper.step(field, t, y, h, solver_state, True if save == "ts" else None)
        after = result.y1, result.solver_state
        return after, {"ts": (y, result.y1, result.dense), "steps": result.y1}.get(save, ())

    start = problem.y0, stepper.init(field, problem.ts[0], problem.y0)
    (y1, _), parts = dynamic_scan(step, start, (starts, sizes), steps.count)
    y1 = missing_where(steps.failed, y1)
    if save == "ends":
        return jnp.stack([problem.y0, y1]), y1
    if save == "steps":
        rows = jnp.concatenate([problem.y0[None], parts])
        unused = jnp.arange(rows.shape[0]) > steps.count
        return missing_where(unused.reshape(-1, *[1] * y1.ndim), rows), y1
    return _values_at_times(problem, config, steps, (starts, sizes), parts), y1


def _clock(problem: IVP, steps: StepsTaken) -> tuple[Array, Array]:
    """The start and the size of each step; beyond the last, those of the last."""
    ts, ends = problem.ts, lax.stop_gradient(steps.ends)
    last = jnp.maximum(steps.count - 1, 0)
    row = jnp.minimum(jnp.arange(ends.shape[0] - 1), last)
    starts = ts[0] + (ends[row] - ends[0])
    to_end = (row == last) & ~steps.failed
    sizes = jnp.where(steps.count > 0, ends[row + 1] - ends[row], 1)
    return starts, jnp.where(to_end & (steps.count > 0), ts[-1] - starts, sizes)


def _values_at_times(
    problem: IVP, config: SolveConfig, steps: StepsTaken, clock: tuple[Array, Array], parts: Any
) -> PyTree:
    """The values at the times, each read in the first step that reaches it."""
    ts, reading, direction = problem.ts, step_reader(problem, config), direction_of(problem.ts)
    rows = jnp.arange(steps.ends.shape[0] - 1)
    ends = jnp.where(rows < steps.count, direction * steps.ends[1:], jnp.inf)
    index = jnp.searchsorted(ends, direction * lax.stop_gradient(ts), side="left")
    at = jnp.minimum(index, jnp.maximum(steps.count - 1, 0))
    (starts, sizes), (y, y1, dense) = jax.tree.map(lambda x: x[at], (clock, parts))
    final = jnp.arange(ts.shape[0]) == ts.shape[0] - 1
    inside = jax.vmap(reading)(ts, ts == ts[-1], starts, sizes, y, y1, dense, final)
    first, missed = reading.fn(ts[0], problem.y0), index >= steps.count

    def chosen(value: Array, first: Array) -> Array:
        axes = (-1, *[1] * first.ndim)
        here = (ts == ts[0]).reshape(axes)
        return missing_where(missed.reshape(axes) & ~here, jnp.where(here, first, value))

    return jax.tree.map(chosen, inside, first)
