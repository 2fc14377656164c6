"""Steps whose backward pass computes nothing again, as the residuals of their stages are stored.

`jax.vjp` returns a function that is a pytree; its arrays are what the backward pass reads. Those
that do not change from step to step, such as the weights of a network, need not be stored.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal

from ...batch.memory import format_bytes, machine_memory
from ...problem.errors import OutOfMemoryError
from ...problem.field import Field
from ...solvers.base import StepResult
from .layout import StepLayout
from .step_vjp import StepStart, step_vjp


def step_with_residuals(layout: StepLayout) -> Callable[..., StepResult]:
    """The solver's step, which also returns the residuals that its pull-back reads."""

    def step(
        field: Field, t: Array, y: Array, h: Array, solver_state: Any, needs_dense: Any
    ) -> StepResult:
        start = StepStart(y, solver_state, t, h, needs_dense)
        _, pull, stepped = step_vjp(layout, start)
        pairs = zip(jax.tree.leaves(pull), _changes(layout, start), strict=True)
        return stepped._replace(residuals=tuple(leaf for leaf, changes in pairs if changes))

    return step


def restored(
    layout: StepLayout, start: StepStart, residuals: tuple[Array, ...]
) -> tuple[Any, Callable]:
    """The results of `step_vjp`, its pull-back made of stored residuals; XLA drops the rest."""
    out, pull, _ = step_vjp(layout, start)
    leaves, form = jax.tree.flatten(pull)
    stored = iter(residuals)
    pairs = zip(leaves, _changes(layout, start), strict=True)
    return out, jax.tree.unflatten(form, [next(stored) if new else leaf for leaf, new in pairs])


def residual_shapes(layout: StepLayout, start: StepStart, max_steps: int) -> tuple[Any, ...]:
    """The shapes of one step's residuals.

    **Raises:** `OutOfMemoryError` where those of `max_steps` steps do not fit.
    """
    y, solver_state, t, h, needs_dense = start
    step = step_with_residuals(layout)
    shapes = jax.eval_shape(
        lambda y, state, t, h: step(layout.field(t), t, y, h, state, needs_dense).residuals,
        y, solver_state, t, h,
    )  # fmt: skip
    needed = max_steps * sum(x.size * x.dtype.itemsize for x in shapes)
    available = machine_memory()
    if available is not None and needed > available:
        raise OutOfMemoryError(
            f'Discrete(memory="stages") needs {needed} bytes, {format_bytes(needed)}, to keep the '
            f"stages of max_steps={max_steps} steps, and the machine has "
            f"{format_bytes(available)}: "
            'lower max_steps, or use memory="steps" or a number of states'
        )
    return shapes


def _changes(layout: StepLayout, start: StepStart) -> list[bool]:
    """Which arrays of a step's pull-back depend on where the step starts."""
    arrays, rest = eqx.partition(start, eqx.is_array)

    def leaves(arrays: Any) -> list[Array]:
        return jax.tree.leaves(step_vjp(layout, eqx.combine(arrays, rest))[1])

    return depends(jax.make_jaxpr(leaves)(arrays))


def depends(program: ClosedJaxpr) -> list[bool]:
    """Which results of a program depend on its arguments, each equation taken as a whole."""
    dependent = set(program.jaxpr.invars)

    def flags(variables: Any) -> list[bool]:
        return [not isinstance(v, Literal) and v in dependent for v in variables]

    for equation in program.jaxpr.eqns:
        if any(flags(equation.invars)):
            dependent.update(equation.outvars)
    return flags(program.jaxpr.outvars)
