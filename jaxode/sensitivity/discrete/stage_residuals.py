"""Steps whose backward pass computes nothing again: what it reads of the stages is kept.

`jax.vjp` returns a function that is a pytree; its arrays are what the pass reads. Those that do
not change from step to step, such as the weights of a network, need no keeping.
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
from .step_vjp import StepStart, StepVJP


def keeping(part: StepVJP) -> Callable[..., StepResult]:
    """The solver's step, with what its backward pass will read."""

    def step(
        field: Field, t: Array, y: Array, h: Array, carry: Any, inside: Array | bool | None
    ) -> StepResult:
        at = (y, carry, t, h, inside)
        pull, stepped = part.pull(at)[1:]
        pairs = zip(jax.tree.leaves(pull), _changing(part, at), strict=True)
        return stepped._replace(residuals=tuple(leaf for leaf, changes in pairs if changes))

    return step


def restored(part: StepVJP, at: StepStart, kept: tuple[Array, ...]) -> tuple[Any, Callable]:
    """What the step returns, and its pull on what was kept; XLA drops what no one reads."""
    out, pull, _ = part.pull(at)
    leaves, form = jax.tree.flatten(pull)
    rest = iter(kept)
    pairs = zip(leaves, _changing(part, at), strict=True)
    return out, jax.tree.unflatten(form, [next(rest) if new else leaf for leaf, new in pairs])


def kept_of_step(part: StepVJP, at: StepStart, max_steps: int) -> tuple[Any, ...]:
    """Shapes of what is kept of one step.

    **Raises:** `OutOfMemoryError` where `max_steps` of them do not fit.
    """
    y, carry, t, h, inside = at
    shapes = jax.eval_shape(
        lambda y, carry, t, h: keeping(part)(part.field(t), t, y, h, carry, inside).residuals,
        y, carry, t, h,
    )  # fmt: skip
    needed = max_steps * sum(x.size * x.dtype.itemsize for x in shapes)
    available = machine_memory()
    if available is not None and needed > available:
        raise OutOfMemoryError(
            f'Discrete(memory="stages") needs {needed} bytes, {format_bytes(needed)}, to keep the '
            f"stages of max_steps={max_steps} steps, and the machine has {format_bytes(available)}: "
            'lower max_steps, or use memory="steps" or a number of states'
        )
    return shapes


def _changing(part: StepVJP, at: StepStart) -> list[bool]:
    """Which arrays of a step's pull depend on where the step begins."""
    arrays, rest = eqx.partition(at, eqx.is_array)

    def leaves(arrays: Any) -> list[Array]:
        return jax.tree.leaves(part.pull(eqx.combine(arrays, rest))[1])

    return depends(jax.make_jaxpr(leaves)(arrays))


def depends(program: ClosedJaxpr) -> list[bool]:
    """Which results of a program depend on its arguments, an equation taken as a whole."""
    known = set(program.jaxpr.invars)

    def touched(variables: Any) -> list[bool]:
        return [not isinstance(v, Literal) and v in known for v in variables]

    for equation in program.jaxpr.eqns:
        if any(touched(equation.invars)):
            known.update(equation.outvars)
    return touched(program.jaxpr.outvars)
