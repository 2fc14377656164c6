"""What of a problem is differentiated, and a step as a function of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import Array, lax
from jaxtyping import PyTree

from ...integrate.ivp import IVP, SolveConfig, field_of_step
from ...problem.field import map_parts
from ...solvers.base import StepResult
from ...solvers.linear import WithJacobian

# Where a step begins: its state, the solver's carry, time, size, and whether it is read inside.
StepStart = tuple[Array, Any, Array, Array, Array | bool | None]


class StepVJP(eqx.Module):
    """A problem, for derivatives by the arrays in it that are asked for.

    `moving` holds those of field, arguments and read-out, `still` the rest of the problem.
    """

    moving: PyTree
    still: IVP
    problem: IVP
    config: SolveConfig
    with_times: bool = eqx.field(static=True)

    @classmethod
    def of(cls, perturbed: PyTree, problem: IVP, config: SolveConfig) -> "StepVJP":
        """`perturbed` is like the problem, with booleans for its arrays."""
        moving, still = eqx.partition(problem, dataclasses.replace(perturbed, y0=False, ts=False))
        # Where there are events, times depend on all the rest.
        times = bool(perturbed.ts) or bool(perturbed.jumps) or bool(problem.events)
        return cls(moving, still, problem, config, times)

    def with_moving(self, moving: PyTree) -> IVP:
        """The problem, with `moving` in the place of its own arrays."""
        return eqx.combine(moving, self.still)

    def field(self, t: Array, moving: PyTree = None) -> Callable[..., Array]:
        """The field of a step from `t`, with `moving` in the place of the problem's own arrays."""
        problem = self.problem if moving is None else self.with_moving(moving)
        field = field_of_step(problem, self.config, t)

        # The state of a stage enters its slope and its cotangents: computed once, not in each.
        def once(part: Callable) -> Callable:
            def at(t: Array, y: Array, *half: int) -> Array:
                return part(t, lax.optimization_barrier(y), *half)

            return WithJacobian(at, part.jacobian) if isinstance(part, WithJacobian) else at

        return map_parts(once, field)

    def pull(
        self, at: StepStart, end: Array | None = None
    ) -> tuple[tuple[Array, Any, Any], Callable, StepResult]:
        """A step's end, dense output and carry, how to pull their cotangents back, and the step.

        Back to `moving`, state, carry, and time and size if times are differentiated. `end`: the
        state that the step comes to, if it is known.
        """
        y, carry, t, h, inside = at

        def advance(moving: PyTree, y: Array, carry: Any, clock: Any) -> tuple[Any, StepResult]:
            t_, h_ = (t, h) if clock is None else clock
            solver = self.config.method.stepper
            step = solver.step if end is None else functools.partial(solver.step_to, y1=end)
            stepped = step(self.field(t, moving), t_, y, h_, carry, inside)
            return (stepped.y1, stepped.dense, stepped.solver_state), stepped

        clock = (t, h) if self.with_times else None
        return jax.vjp(advance, self.moving, y, carry, clock, has_aux=True)
