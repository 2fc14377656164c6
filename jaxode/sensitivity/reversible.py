"""The discrete adjoint of reversible solvers, which recompute states instead of storing them."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax

from ..batch.queue import LaneTile
from ..batch.tile_width import tile_of
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..integrate.ivp import IVP, SolveConfig
from ..problem.errors import OptionError
from ..problem.validation import real_number
from ..solvers.base import Solver
from ..solvers.explicit.reversible import ReversibleRK
from .base import Sensitivity
from .discrete.checkpoints import TimeRecorder
from .discrete.rule import solve_discrete
from .discrete.rule_batch import solve_batch_discrete
from .lanes.solve import solve_ensemble, solve_or_lanes
from .lanes.trajectories import RuleCall, Rules

# The share of a number's digits that rounding may grow by in the backward pass.
_ROUNDING_SHARE = 3 / 8


class Reversible(Sensitivity):
    r"""The exact gradient of the computed solution, step sizes held fixed, without stored states.

    The backward pass finds the state before each step by the solver's step back, and pulls
    cotangents through the step as `jo.Discrete` does. The memory that grows with `max_steps` is
    the `(t, h)` of each accepted step, two numbers, and not even that where a single solve takes
    the steps of `jo.Fixed` or `jo.Grid`. Works with every `save`, and with solvers whose steps can
    be undone: "reversible_heun", "asynchronous_leapfrog", the symplectic ones, and, in adaptive
    steps, any explicit Runge-Kutta solver, which is run as `jo.ReversibleRK(solver, coupling)`:
    twice the work in each step, and a solution that differs from the solver's own within the
    tolerance. In steps of a given size nothing would bound that difference, so there the solver
    must be reversible itself; `solver=jo.ReversibleRK(...)` is, and then every sensitivity has the
    same values.

    Rounding errors grow in the backward pass: by up to `1 / coupling` in each step, and where
    solutions that converge forwards in time diverge backwards. The gradient is NaN if the backward
    pass does not return to the initial state and solver state to 30 tolerances (but to no less than
    a quarter of the digits, and no more than half), with steps of a given size to a third of them.

    **Arguments:**

    - `coupling`: a number in (0, 1], the $\lambda$ of `jo.ReversibleRK`, where that is used. None:
      $\lambda = e^{-r |h|}$, with the rate $r$ such that rounding grows by three eighths of the
      digits over the span of times, whatever the steps.

    **Raises:** `OptionError` for a solver whose steps cannot be undone, for one that is not
    reversible itself with `jo.Fixed`, `jo.Grid` or without an error estimate, for a `coupling` out
    of range, and for events and jumps.

    Source: S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs (2024),
    arXiv 2410.11648.
    """

    coupling: float | None = eqx.field(static=True, default=None)
    takes_events: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False
    advice: ClassVar[str] = (
        'With sensitivity="reversible" it may also be that solutions approach each other by more '
        "digits than can be undone, and steps shrink to keep them: then use "
        'sensitivity="discrete", or another coupling of jo.Reversible'
    )

    def __check_init__(self) -> None:
        if self.coupling is not None and not 0 < real_number(self.coupling) <= 1:
            raise OptionError(f"coupling must lie in (0, 1], near one; got {self.coupling!r}")

    @property
    def keeps_rows(self) -> str | None:
        """What keeps a row for each of `max_steps` steps, for a message; None if nothing does."""
        return "jo.Reversible()"

    def prepare_solver(self, solver: Solver, adaptive: bool = True) -> Solver:
        """Return `solver` if its steps can be undone, else its reversible version.

        That is another method, whose error nothing bounds if the steps are not `adaptive`.

        **Raises:** `OptionError` where there is none, and for its reversible version in steps that
        are not `adaptive`.
        """
        if solver.reversible:
            return solver
        name = type(solver).__name__
        if not solver.can_be_coupled:
            raise OptionError(
                f'sensitivity="reversible" undoes steps, and those of {name} cannot be undone: use '
                'an explicit Runge-Kutta solver such as "tsit5", "reversible_heun", '
                '"asynchronous_leapfrog" or a symplectic solver, or sensitivity="discrete"'
            )
        if not adaptive:
            raise OptionError(
                f"steps of {name} of a given size cannot be undone, and those of its reversible "
                'version have other values, whose error no estimate bounds: use "reversible_heun", '
                f"a symplectic solver, solver=jo.ReversibleRK({name}()) for that version, steps "
                'that adapt, or sensitivity="discrete"'
            )
        return ReversibleRK(solver, self.coupling)  # pyright: ignore[reportArgumentType]

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem; the backward pass undoes its steps."""
        self.check_events(problem.has_events)
        if config.method.solver.needs_rate:
            config = _with_rate(config, _coupling_rate(problem.ts, problem.y0.dtype))
        return solve_or_lanes(Rules(_rule, _rule_of_batch), problem, config)

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in lanes; the backward pass undoes their steps."""
        self.check_events(ensemble.has_events)
        if ensemble.config.method.solver.needs_rate:
            (own, own_config), (shared, shared_config) = ensemble.per_trajectory, ensemble.shared
            rate = _coupling_rate(ensemble.all_times, own.y0.dtype)
            if own.ts is None:
                shared_config = _with_rate(shared_config, rate)
            else:
                own_config = _with_rate(own_config, rate)
            ensemble = Ensemble((own, own_config), (shared, shared_config))
        rule = RuleCall(solve_batch_discrete, (tile, False, None))
        return solve_ensemble(Rules(None, lambda ensemble, _: rule), ensemble)


def _rule(problem: IVP, config: SolveConfig, _: None) -> RuleCall:
    method = config.method
    recorder = TimeRecorder(method.max_steps, known=not method.controller.adaptive)
    return RuleCall(solve_discrete, (config, recorder, False))


def _rule_of_batch(ensemble: Ensemble, _: None) -> RuleCall:
    return RuleCall(solve_batch_discrete, (tile_of(ensemble, None), False, None))


def _coupling_rate(ts: Array, dtype: Any) -> Array:
    """Return the rate of the coupling for times `(..., times)`, by the digits of `dtype`."""
    span = lax.stop_gradient(jnp.abs(ts[..., -1] - ts[..., 0]))
    return -_ROUNDING_SHARE * jnp.log(jnp.finfo(dtype).eps) / jnp.where(span > 0, span, 1)


def _with_rate(config: SolveConfig, rate: Array) -> SolveConfig:
    return eqx.tree_at(lambda p: p.method.solver.rate, config, rate, is_leaf=lambda x: x is None)
