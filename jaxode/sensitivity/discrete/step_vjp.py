"""A step of the solver as a differentiable function, and the pull-back of its cotangents."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import PyTree

from ...solvers.base import StepResult
from .layout import StepLayout


class StepStart(NamedTuple):
    """Arguments of a step: state, solver state, time, size, and whether it needs dense output."""

    y: Array
    solver_state: Any
    t: Array
    h: Array
    needs_dense: Array | bool | None


def step_vjp(
    layout: StepLayout, start: StepStart, end: Array | None = None
) -> tuple[tuple[Array, Any, Any], Callable, StepResult]:
    """A step's end, dense output and solver state, their pull-back, and the step's result.

    The pull-back leads to cotangents of the layout's `diff`, the state, the solver state, and of
    time and size if times are differentiated. `end`: the state at the step's end, where known.
    """
    y, solver_state, t, h, needs_dense = start

    def advance(diff: PyTree, y: Array, solver_state: Any, clock: Any) -> tuple[Any, StepResult]:
        t_, h_ = (t, h) if clock is None else clock
        solver = layout.stepper
        step = solver.step if end is None else functools.partial(solver.step_to, y1=end)
        stepped = step(layout.field(t, diff), t_, y, h_, solver_state, needs_dense)
        return (stepped.y1, stepped.dense, stepped.solver_state), stepped

    clock = (t, h) if layout.with_times else None
    return jax.vjp(advance, layout.diff, y, solver_state, clock, has_aux=True)
