"""The configuration of the backward solve: solver, step sizes, tolerances and mass matrix."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...integrate.ivp import SolveConfig
from ...problem.errors import OptionError
from ...solvers.base import Solver
from ...solvers.explicit.tsit5 import Tsit5
from ...solvers.implicit.base import Implicit
from ...solvers.implicit.consistent_initial import Algebraic
from ...solvers.implicit.rodas5p import Rodas5P
from ...solvers.linear import Dense, augmented_solver
from ...solvers.prescribed_steps import Grid
from ...solvers.step_size import PID, Controller, Norm, Tolerance
from .restarts import RestartSchedule

# Bounds of the difference between a state integrated backwards and the forward solution, where a
# solve stops. Its norm may be this many times the tolerance, but at most this share of the state's,
# or so many times the tolerance where that is loose; its error norm, which weighs small components
# too, this many times the tolerance. Below them gradients of contractions by up to exp(-45) were
# off by 65 tolerances at most, for errors decay again in the adjoint; those of networks with
# weights five times those of an initialisation were no worse than the discrete adjoint's.
_MAX_RATIO, _MAX_SHARE, _LOOSE_RATIO, _MAX_ERROR_NORM = 1e4, 0.5, 30.0, 1e6
# The difference, in tolerances, from which on it begins again where it passes a kept state.
_FAR = 3.0
# The error of a single step between two known states, in tolerances, from which on it is refused:
# its estimate has missed it. And the share of the way between two saved times below which no step
# is refused.
FAR_OFF, SHORTEST_SHARE = 30.0, 1e-5


class BackwardStats(NamedTuple):
    """The cost of a backward solve, as `jo.Continuous(report=...)` reports it.

    int32 of NumPy, scalars, or of a batch one number per trajectory, shape `(trajectories,)`.

    - `num_steps`: attempted steps of the adjoint equation.
    - `num_evaluations`: evaluations of that equation, each of which evaluates the field and a
      vector-Jacobian product. Quadrature and steps that are computed again are not counted.
    """

    num_steps: np.ndarray
    num_evaluations: np.ndarray


class MassMatrix(eqx.Module):
    """A mass matrix $M$ `(n, n)`, its (pseudo-)inverse, and its algebraic equations if singular."""

    matrix: Array
    inverse: Array
    algebraic: Algebraic | None

    @classmethod
    def of(cls, config: SolveConfig) -> "MassMatrix | None":
        """Return the mass matrix of the forward solve, None if it has none."""
        mass = getattr(config.method.solver, "mass", None)
        if mass is None:
            return None
        matrix = jnp.asarray(mass, config.packing.dtype)
        singular = config.algebraic is not None
        inverse = jnp.linalg.pinv(matrix) if singular else jnp.linalg.inv(matrix)
        return cls(matrix, inverse, config.algebraic)

    def solve(self, x: Array) -> Array:
        """Return $M^{-1} x$, in the shape of `x`."""
        return (self.inverse @ x.reshape(-1)).reshape(x.shape)

    def solve_transposed(self, x: Array) -> Array:
        """Return $M^{-T} x$, in the shape of `x`."""
        return (self.inverse.T @ x.reshape(-1)).reshape(x.shape)

    def multiply_transposed(self, x: Array) -> Array:
        """Return $M^T x$, in the shape of `x`."""
        return (self.matrix.T @ x.reshape(-1)).reshape(x.shape)

    def augmented(self, with_y: bool, num_parameters: int) -> Array:
        """Return the mass matrix of the state (`with_y`), its adjoint and the parameters."""
        n, blocks = self.matrix.shape[0], [self.matrix] * with_y + [self.matrix.T]
        matrix = jnp.eye(len(blocks) * n + num_parameters, dtype=self.matrix.dtype)
        for i, block in enumerate(blocks):
            matrix = matrix.at[i * n : (i + 1) * n, i * n : (i + 1) * n].set(block)
        return matrix


class BackwardConfig(eqx.Module):
    """The configuration of the backward solve of the adjoint equation.

    - `kind`: the method of `jo.Continuous`. `seminorm`: its error norm leaves parameters out.
    - `restarts`: which states of the forward solve it begins again from, None for none.
    - `solver`: with linear algebra for the adjoint equation, without mass matrix and `jac`.
    - `rtol`, `atol`: None for those of the forward solve. `dt`: the first step's size.
    - `mass`: the mass matrix of the state. `divided`: the equation is multiplied by its inverse,
      because the solver takes no mass matrix.
    - `norm`: of the errors of the state and of its adjoint, None for that of the forward solve.
    - `report`: the function that receives its `BackwardStats`, if there is one.
    """

    kind: str = eqx.field(static=True)
    restarts: RestartSchedule | None
    seminorm: bool = eqx.field(static=True)
    solver: Solver
    controller: Controller
    rtol: Array | None
    atol: Array | None
    dt: Array | None
    mass: MassMatrix | None
    divided: bool = eqx.field(static=True)
    norm: Norm | None = eqx.field(static=True, default=None)
    report: Callable[[BackwardStats], None] | None = eqx.field(static=True, default=None)

    @property
    def with_y(self) -> bool:
        """The state is integrated backwards together with its adjoint."""
        return self.kind != "interpolate"

    def tolerance(self, config: SolveConfig) -> Tolerance:
        """Return the tolerance of the state in the backward solve."""
        forward = config.method.tolerance
        rtol = forward.rtol if self.rtol is None else self.rtol
        atol = forward.atol if self.atol is None else self.atol
        return Tolerance(rtol, atol, forward.norm)

    def far(
        self, y: Array, y_forward: Array, config: SolveConfig, tolerances: float = _FAR
    ) -> Array:
        """Return whether `y`, integrated backwards, is so many tolerances from the forward one."""
        return ~(self.tolerance(config).scaled_norm(y - y_forward, y_forward) <= tolerances)

    def diverged(self, y: Array, y_forward: Array, config: SolveConfig) -> Array:
        """Return whether `y`, integrated backwards, is too far from the forward solution."""
        tolerance, gap = self.tolerance(config), y - y_forward
        limit = jnp.asarray(_MAX_SHARE)
        if self.controller.adaptive:
            rtol = jnp.max(tolerance.rtol)
            limit = jnp.minimum(_MAX_RATIO * rtol, jnp.maximum(limit, _LOOSE_RATIO * rtol))
        size = limit * tolerance.norm(y_forward) + _MAX_RATIO * jnp.max(tolerance.atol)
        far = ~(tolerance.norm(gap) <= size)
        if self.controller.adaptive:
            far = far | ~(tolerance.scaled_norm(gap, y_forward) <= _MAX_ERROR_NORM)
        return far


def configure_backward(
    kind: str,
    restarts: RestartSchedule | None,
    seminorm: bool,
    solver: Solver | None,
    tolerances: tuple[Any, Any],
    own: Controller | None,
    config: SolveConfig,
) -> BackwardConfig:
    """Choose how to solve the adjoint equation of a solve by `config`.

    `solver`, `tolerances` (relative, absolute) and the controller `own` are those of
    `jo.Continuous`, None by default.

    **Raises:** `OptionError` where the options do not go together.
    """
    rtol, atol = (None if x is None else jnp.asarray(x) for x in tolerances)
    has_tolerance = rtol is not None or atol is not None
    chosen, controller = _choose_solver(solver, config, has_tolerance, own)
    mass = MassMatrix.of(config)
    divided = mass is not None and not chosen.takes_mass
    if divided and config.algebraic is not None:
        raise OptionError(
            f"{type(chosen).__name__} takes no mass matrix and so cannot solve the adjoint of "
            'algebraic equations: give jo.Continuous(solver="rodas5p"), or use jo.Discrete()'
        )
    if solver is not None and getattr(solver, "mass", None) is not None:
        raise OptionError(
            "the mass matrix of the adjoint equation is that of the forward solve: give the "
            f"{type(solver).__name__} of jo.Continuous without one"
        )
    chosen.check(config.packing)
    same = solver is None and chosen is config.method.solver
    dt = config.method.dt if same and controller.adaptive else None
    chosen = _with_adjoint_linear_solver(chosen, kind, config)
    norm = own.norm_function(config.packing) if isinstance(own, PID) else None
    return BackwardConfig(
        kind, restarts, seminorm, chosen, controller, rtol, atol, dt, mass, divided, norm
    )


def _choose_solver(
    given: Solver | None, config: SolveConfig, has_tolerance: bool, own: Controller | None
) -> tuple[Solver, Controller]:
    """Choose the solver and step size controller of the backward solve.

    Steps of a `jo.Grid`, and fixed steps where a tolerance is given, become adaptive ones.
    """
    forward, controller = config.method.solver, config.method.controller
    solver, name = given or forward, type(given).__name__
    if given is not None and given.partitioned:
        raise OptionError(
            f"the adjoint equation is no pair, so {name} cannot solve it: give "
            'jo.Continuous a solver of all states, such as "tsit5"'
        )
    if own is not None:
        return _with_controller(given, solver, own)
    if solver.partitioned:
        return Tsit5(), Tsit5().default_controller()
    adaptive = solver.error_exponent is not None
    must_adapt = controller.adaptive or isinstance(controller, Grid) or has_tolerance
    if given is None and (not must_adapt or (adaptive and controller.adaptive)):
        return solver, controller
    if adaptive:
        return solver, solver.default_controller()
    if given is None:
        other = _adaptive_instead_of(solver)
        return other, other.default_controller()
    if must_adapt:
        raise OptionError(
            f"{name} takes fixed steps, but the adjoint equation would have to choose its own: "
            'give jo.Continuous an adaptive solver, such as "tsit5", or the solve jo.Fixed(dt)'
        )
    return solver, controller


def _with_controller(
    given: Solver | None, solver: Solver, own: Controller
) -> tuple[Solver, Controller]:
    """Choose the solver for a controller of its own; `solver`: `given`, or the forward one."""
    if solver.partitioned or (own.adaptive and solver.error_exponent is None):
        if given is not None:
            raise OptionError(
                f"{type(given).__name__} has no error estimate for the controller of jo.Continuous "
                "to judge: give it jo.Fixed(dt), or an adaptive solver"
            )
        solver = _adaptive_instead_of(solver)
    return solver, own.completed(solver.default_controller()) if isinstance(own, PID) else own


def _adaptive_instead_of(solver: Solver) -> Solver:
    return Rodas5P(linear_solver=_linear_solver_of(solver)) if solver.implicit else Tsit5()


def _linear_solver_of(solver: Solver) -> Any:
    return getattr(solver, "linear_solver", Dense())


def _with_adjoint_linear_solver(solver: Solver, kind: str, config: SolveConfig) -> Solver:
    """Return the solver with linear algebra for the adjoint equation instead of the state's."""
    if not isinstance(solver, Implicit):
        return solver
    linear = solver.linear_solver
    if kind == "backsolve" and linear.has_pattern:
        raise OptionError(
            f'jo.Continuous("backsolve") has parameters in its state, which {linear!r} of '
            f"{type(solver).__name__} has no pattern for: use "
            'method="quadrature" or "interpolate", or a solver= with jo.Dense() or jo.Krylov()'
        )
    size = config.packing.size
    linear = linear.transposed() if kind == "interpolate" else augmented_solver(linear, size)
    return dataclasses.replace(solver, linear_solver=linear, mass=None, jac=None)
