"""The options of the continuous adjoint, `jo.Continuous`."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ...batch.queue import LaneTile
from ...batch.tile_width import tile_of
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig
from ...kernels.dispatch import KernelPolicy
from ...problem.errors import OptionError, ToleranceError, unknown_name
from ...problem.validation import check_count, check_positive, find_option, shown_value
from ...solvers.base import Solver
from ...solvers.prescribed_steps import Grid
from ...solvers.registry import SOLVERS
from ...solvers.step_size import Controller
from ..base import Sensitivity
from ..discrete.options import Discrete
from ..lanes.solve import solve_ensemble, solve_or_lanes
from ..lanes.trajectories import RuleCall, Rules
from .backward_solver import BackwardConfig, BackwardStats, configure_backward
from .pieces import (
    check_pieces,
    constant,
    field_between,
    for_pieces,
    solve_in_pieces,
    without_breaks,
)
from .restarts import RestartSchedule
from .rule import save_after, solve_states
from .rule_batch import save_outside, solve_batch_states
from .rule_kernel import solve_kernel_continuous

METHODS = ("quadrature", "backsolve", "interpolate")


class Continuous(Sensitivity):
    r"""The continuous adjoint: the adjoint equation, integrated backwards after the solve.

    With $a = \partial L / \partial y$ it solves $\dot a = -a\, \partial f / \partial y$ from the
    last time to the first, where $a$ jumps at each saved time, and integrates $\dot g = -a\,
    \partial f / \partial \theta$. The gradient is that of the differential equation, not of the
    computed solution: its error falls with the tolerances. Works with values at `ts` and the state
    at the end, and with every solver. Events and jumps divide a solve into pieces, which are solved
    again where it is differentiated, with an adjoint equation each.

    **Arguments:**

    - `method`: what is integrated backwards together with $a$, by name.
      "quadrature": the state; $g$ is found by Gauss quadrature on the dense output of the accepted
      steps, so the equation has twice the size of the state, whatever the number of parameters.
      "backsolve": the state and $g$, as one equation; in a batch, parameters that all trajectories
      share are integrated by quadrature even so. The memory of both does not grow with the number
      of steps. "interpolate": nothing; the forward solve stores some of its states, from which its
      steps are recomputed a segment at a time, and their dense output gives the state. The memory
      grows with the square root of `max_steps`, and the work by that of the forward solve.
    - `solver`: the solver of the backward solve, a name or an object; by default that of the
      forward solve, or "tsit5" ("rodas5p" for an implicit one) instead of partitioned solvers, and
      instead of solvers without an error estimate where the forward solve steps along a `jo.Grid`
      or a tolerance is given. Its `linear_solver` describes the Jacobian of the field, as in the
      forward solve; the mass matrix is that of the forward solve.
    - `rtol`, `atol`: tolerances of the backward solve, positive numbers; by default those of the
      forward solve.
    - `seminorm`: a boolean; leave $g$ out of the error norm, because nothing depends on its error.
      It matters for "backsolve" alone, whose error norm is the largest of the norms of the state,
      of $a$ and, without the seminorm, of every array of $g$.
    - `controller`: the step-size controller of the backward solve, `jo.PID(...)` or `jo.Fixed(dt)`,
      and its norm, which is taken of the errors of the state and of $a$ apart; by default those of
      the forward solve.
    - `restarts`: the number of states, at least 0, that the forward pass stores at most for
      "quadrature" and "backsolve", spread over its steps. The backward solve begins again from each
      from which it is more than three tolerances away.
    - `report`: a function that receives the `BackwardStats` of each backward solve once it has run,
      also under `jit`: its numbers of steps and of evaluations.

    If solutions converge forwards in time, they diverge backwards, and so does a state that is
    integrated backwards, between two stored states or saved times. "interpolate" does not integrate
    it: use it for stiff problems. The other two compare the state at stored states, saved times and
    the first time with the forward solution, and begin again from it. The gradient is NaN where the
    norm of the difference exceeds 10,000 times the tolerance or half the state's (30 times the
    tolerance if `rtol` is above 0.016), or the error norm a million times the tolerance; with fixed
    steps, where it exceeds half the state's. It is NaN too where the backward solve fails. Measured
    over contractions by up to exp(-45) in a whole solve, nearly all gradients were numbers, off by
    at most 100 tolerances of their norm.

    **Raises:** `OptionError` for an unknown method, solver or controller, for a `seminorm` that is
    no boolean, for `restarts` that are no count, for a `report` that is no function, and for events
    and jumps of a system with a mass matrix; `ToleranceError` for a tolerance that is not positive.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366, appendix
    B; the seminorm: Kidger et al., "Hey, that's not an ODE" (2020), arXiv 2009.09457; quadrature
    and interpolation: GaussAdjoint and InterpolatingAdjoint of SciMLSensitivity.jl, Rackauckas et
    al. (2020), arXiv 2001.04385; mass matrices: Cao, Li, Petzold, Serban, SIAM J. Sci. Comput. 24
    (2003).
    """

    method: str = eqx.field(static=True)
    solver: Solver | None
    rtol: ArrayLike | None
    atol: ArrayLike | None
    seminorm: bool = eqx.field(static=True)
    restarts: int = eqx.field(static=True)
    controller: Controller | None
    report: Callable[[BackwardStats], None] | None = eqx.field(static=True)
    one_pass: ClassVar[bool] = False
    by_steps: ClassVar[bool] = False

    def __init__(
        self,
        method: str = "quadrature",
        solver: str | Solver | None = None,
        rtol: ArrayLike | None = None,
        atol: ArrayLike | None = None,
        seminorm: bool = True,
        restarts: int = 16,
        controller: Controller | None = None,
        report: Callable[[BackwardStats], None] | None = None,
    ) -> None:
        if not isinstance(method, str) or method.lower() not in METHODS:
            raise unknown_name("method of jo.Continuous", str(method), METHODS)
        if not isinstance(seminorm, bool):
            raise OptionError(f"seminorm must be True or False, got {seminorm!r}")
        self.restarts = check_count("restarts of jo.Continuous", restarts, 0)
        check_positive("rtol of jo.Continuous", rtol, ToleranceError)
        check_positive("atol of jo.Continuous", atol, ToleranceError)
        steps_along_grid = isinstance(controller, Grid)
        if controller is not None and (steps_along_grid or not isinstance(controller, Controller)):
            raise OptionError(
                "controller of jo.Continuous must be jo.PID(...), jo.Fixed(dt) or None, got "
                f"{shown_value(controller)}"
            )
        if report is not None and not callable(report):
            raise OptionError(
                f"report of jo.Continuous must be a function, got {shown_value(report)}"
            )
        self.controller, self.report = controller, report
        self.method = method.lower()
        if solver is not None:
            solver = find_option("solver", solver, SOLVERS, Solver, "jo.Tsit5()")
        self.solver = solver  # pyright: ignore[reportAttributeAccessIssue]
        self.rtol, self.atol, self.seminorm = rtol, atol, seminorm

    @property
    def keeps_rows(self) -> str | None:
        """What keeps a row for each of `max_steps` steps, for a message; None if nothing does."""
        return 'jo.Continuous(method="interpolate")' if self.method == "interpolate" else None

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem, differentiable by its adjoint equation.

        **Raises:** `OptionError` for `save="steps"` and `save="dense"`, and where solver, steps,
        mass matrix and linear algebra do not go together.
        """

        def solve(problem: IVP) -> Result:
            if problem.has_events:
                return self._solve_in_pieces(problem, config)
            return solve_or_lanes(_RULES, problem, config, self)

        return save_after(problem, config, solve)

    def _solve_in_pieces(self, problem: IVP, config: SolveConfig) -> Result:
        self.backward_config(config)
        check_pieces(config)
        found = Discrete().solve(constant(problem), config)
        of_piece, bare = for_pieces(config), without_breaks(problem)

        def each(function: Callable[..., Any], *args: Any) -> Any:
            return function(problem, config, *args)

        def solve_piece(times: Array, y: Array, stop: Array) -> tuple[Array, Array]:
            field = field_between(bare.field, times[0], stop)
            piece = dataclasses.replace(bare, field=field, ts=times, y0=y)
            result = solve_or_lanes(_RULES, piece, of_piece, self)
            return result.ys, result.y1

        return solve_in_pieces(found, each, solve_piece, problem.y0, False, config.save)

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in lanes, differentiable by their adjoint equations.

        **Raises:** `OptionError` as `solve` does.
        """
        self.backward_config(ensemble.config)
        if ensemble.has_events:
            return save_outside(ensemble, lambda states: self._solve_batch_in_pieces(states, tile))

        def rule(ensemble: Ensemble, way: Continuous) -> RuleCall:
            return RuleCall(solve_batch_states, (tile, way.backward_config(ensemble.config)))

        return save_outside(
            ensemble, lambda states: solve_ensemble(Rules(None, rule), states, self)
        )

    def _solve_batch_in_pieces(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        check_pieces(ensemble.config)
        found = Discrete().solve_batch(constant(ensemble), tile)
        (own, own_config), (shared, config) = ensemble.per_trajectory, ensemble.shared
        configs = for_pieces(own_config), for_pieces(config)
        backward = self.backward_config(configs[1])

        def each(function: Callable[..., Any], *args: Any) -> Any:
            def of_trajectory(rows: PyTree, args: Any) -> Any:
                return function(*ensemble.problem_of(rows), *args)

            return jax.vmap(of_trajectory)(ensemble.per_trajectory, args)

        def solve_piece(times: Array, y: Array, stop: Array) -> tuple[Array, Array]:
            between = field_between(own.field, times[:, 0], stop)
            rows = dataclasses.replace(without_breaks(own), field=between, ts=times, y0=y)
            rest = dataclasses.replace(
                without_breaks(shared), field=field_between(shared.field, None, None), ts=None
            )
            pieces = Ensemble((rows, configs[0]), (rest, configs[1]))
            result = solve_batch_states(pieces, tile, backward)
            return result.ys, result.y1

        return solve_in_pieces(found, each, solve_piece, own.y0, True, config.save)

    def solve_kernel(self, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
        """Solve all problems of `ensemble` in one kernel, and their adjoint equations in another.

        **Raises:** `NoKernelError` where there is no kernel; `OptionError` as `solve` does.
        """
        backward = self.backward_config(ensemble.config)
        return solve_kernel_continuous(ensemble, tile, backward, policy)

    def backward_config(self, config: SolveConfig) -> BackwardConfig:
        """Return the configuration of the backward solve that belongs to a forward solve."""
        if config.save not in ("ends", "ts"):
            raise OptionError(
                'sensitivity="adjoint" gives gradients of values at ts, not of '
                f'save="{config.save}"; use save="ts" or sensitivity="discrete"'
            )
        tolerances, restarts = (self.rtol, self.atol), None
        if self.restarts and self.method != "interpolate":
            restarts = RestartSchedule.of_at_most(self.restarts)
        backward = configure_backward(
            self.method, restarts, self.seminorm, self.solver, tolerances, self.controller, config
        )
        return dataclasses.replace(backward, report=self.report)


def _rule(problem: IVP, config: SolveConfig, way: Continuous) -> RuleCall:
    return RuleCall(solve_states, (config, way.backward_config(config)))


def _rule_of_batch(ensemble: Ensemble, way: Continuous) -> RuleCall:
    config = way.backward_config(ensemble.config)
    return RuleCall(solve_batch_states, (tile_of(ensemble, None), config))


_RULES = Rules(_rule, _rule_of_batch)
