"""The gradient of a solver that steps back: the discrete adjoint without stored states."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax

from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..integrate.ivp import IVP, SolveConfig
from ..problem.errors import OptionError
from ..solvers.base import Solver
from ..solvers.explicit.reversible import ReversibleRK
from .base import Sensitivity
from .discrete.checkpoints import TimeRecorder
from .discrete.rule import solve_discrete
from .discrete.rule_batch import solve_batch_discrete

# The share of the digits that rounding may grow by on the way back.
_SHARE = 3 / 8


class Reversible(Sensitivity):
    r"""The exact gradient of the computed solution, step sizes held fixed, without stored states.

    The backward pass finds the state of each step by the solver's step back, and pulls the
    cotangents through the step as `Discrete` does. All that grows with `max_steps` is the
    `(t, h)` of each accepted step, two numbers, and not even that where a single solve takes the
    steps of `jo.Fixed` or `jo.Grid`. Works with every `save`, and with solvers that can
    be undone: "reversible_heun", "asynchronous_leapfrog", the symplectic ones, and any explicit
    Runge-Kutta solver, which is run as `jo.ReversibleRK(solver, coupling)`: twice the work in each
    step, and a solution that differs from its own within the error.

    What rounding takes from a state grows on the way back: by up to `1 / coupling` in each step,
    and as solutions that approach each other forwards part backwards. Where the start is not found
    again to a quarter of the digits, the gradient is NaN.

    - `coupling`: of `jo.ReversibleRK`. None: $e^{-r |h|}$, with $r$ such that three eighths of the
      digits are what rounding may grow by between the first time and the last, whatever the steps.

    Source: S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs (2024),
    arXiv 2410.11648.
    """

    coupling: float | None = eqx.field(static=True, default=None)
    takes_events: ClassVar[bool] = False
    advice: ClassVar[str] = (
        'With sensitivity="reversible" it may also be that solutions approach each other by more '
        "digits than can be undone, and steps shrink to keep them: then use "
        'sensitivity="discrete", or another coupling of jo.Reversible'
    )

    def prepare_solver(self, solver: Solver) -> Solver:
        """`solver`, or its reversible version. **Raises:** `OptionError` where there is none."""
        if solver.reversible:
            return solver
        if solver.can_be_coupled:
            return ReversibleRK(solver, self.coupling)  # pyright: ignore[reportArgumentType]
        raise OptionError(
            f'sensitivity="reversible" undoes steps, and those of {type(solver).__name__} cannot '
            'be undone: use an explicit Runge-Kutta solver such as "tsit5", "reversible_heun", '
            '"asynchronous_leapfrog" or a symplectic solver, or sensitivity="discrete"'
        )

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Run `problem`; its gradient is the replay, each step from where the step back leads."""
        self.check_events(problem.has_events)
        if config.method.solver.needs_rate:
            config = _with_rate(config, _rate(problem.ts, problem.y0.dtype))
        method = config.method
        tracing = TimeRecorder(method.max_steps, known=not method.controller.adaptive)
        return solve_discrete(problem, config, tracing, False)

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Run all of `ensemble`; its gradient is the same in lanes."""
        self.check_events(ensemble.has_events)
        if ensemble.config.method.solver.needs_rate:
            (own, own_plan), (shared, shared_plan) = ensemble.per_trajectory, ensemble.shared
            rate = _rate(ensemble.all_times, own.y0.dtype)
            if own.ts is None:
                shared_plan = _with_rate(shared_plan, rate)
            else:
                own_plan = _with_rate(own_plan, rate)
            ensemble = Ensemble((own, own_plan), (shared, shared_plan))
        return solve_batch_discrete(ensemble, tile, False, None)


def _rate(ts: Array, dtype: Any) -> Array:
    """The rate at which rounding grows by its share of the digits; of each row of times."""
    span = lax.stop_gradient(jnp.abs(ts[..., -1] - ts[..., 0]))
    return -_SHARE * jnp.log(jnp.finfo(dtype).eps) / jnp.where(span > 0, span, 1)


def _with_rate(config: SolveConfig, rate: Array) -> SolveConfig:
    return eqx.tree_at(lambda p: p.method.solver.rate, config, rate, is_leaf=lambda x: x is None)
