"""How the adjoint equation is solved: its solver, steps, tolerances and mass matrix."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from ...integrate.ivp import SolveConfig
from ...problem.errors import OptionError
from ...solvers.base import Solver
from ...solvers.explicit.tsit5 import Tsit5
from ...solvers.implicit.base import Implicit
from ...solvers.implicit.consistent_initial import Algebraic
from ...solvers.implicit.rodas5p import Rodas5P
from ...solvers.linear import Dense, Direct, augmented_solver
from ...solvers.step_size import Controller, Grid, Tolerance

# How far off the state may come back, as the norm of all of it: this many times the tolerance, but
# no more than half, or thirty times the tolerance where that is loose. And in the error norm,
# which sees small components too, this many times the tolerance. Networks of 2 and 16 components,
# weights up to three times those of an initialisation, came back off by 10 times the tolerance in
# the median; one that has learnt to part two spirals, by more than a thousand for some samples.
_MOST, _SHARE, _LOOSE, _MOST_OF_NORM = 1e4, 0.5, 30.0, 1e6


class Mass(eqx.Module):
    """A mass matrix `(n, n)`, its (pseudo-)inverse, and the algebraic equations that it leaves."""

    matrix: Array
    inverse: Array
    algebraic: Algebraic | None

    @classmethod
    def of(cls, config: SolveConfig) -> "Mass | None":
        """That of the solve, if it has one."""
        mass = getattr(config.method.solver, "mass", None)
        if mass is None:
            return None
        matrix = jnp.asarray(mass, config.packing.dtype)
        singular = config.algebraic is not None
        inverse = jnp.linalg.pinv(matrix) if singular else jnp.linalg.inv(matrix)
        return cls(matrix, inverse, config.algebraic)

    def over(self, slope: Array) -> Array:
        """`M^-1 f`."""
        return (self.inverse @ slope.reshape(-1)).reshape(slope.shape)

    def under(self, a: Array) -> Array:
        """`M^-T a`."""
        return (self.inverse.T @ a.reshape(-1)).reshape(a.shape)

    def times(self, a: Array) -> Array:
        """`M^T a`."""
        return (self.matrix.T @ a.reshape(-1)).reshape(a.shape)

    def of_all(self, with_y: bool, number: int) -> Array:
        """The mass matrix of state, adjoint and `number` parameters."""
        n, blocks = self.matrix.shape[0], [self.matrix] * with_y + [self.matrix.T]
        whole = jnp.eye(len(blocks) * n + number, dtype=self.matrix.dtype)
        for i, block in enumerate(blocks):
            whole = whole.at[i * n : (i + 1) * n, i * n : (i + 1) * n].set(block)
        return whole


class Backwards(eqx.Module):
    """How the adjoint equation is solved.

    - `kind`: what its state is, as `Continuous` names it. `seminorm`: of error norms.
    - `solver`: with the linear algebra for the equation, and the mass matrix of the state alone.
    - `rtol`, `atol`: None for those of the forward solve. `dt`: of the first step.
    - `divided`: the equation is divided by the mass matrix, for the solver takes none.
    """

    kind: str = eqx.field(static=True)
    seminorm: bool = eqx.field(static=True)
    solver: Solver
    controller: Controller
    rtol: Array | None
    atol: Array | None
    dt: Array | None
    mass: Mass | None
    divided: bool = eqx.field(static=True)

    @property
    def with_y(self) -> bool:
        """Whether the state is integrated backwards too."""
        return self.kind != "interpolate"

    def tolerance(self, config: SolveConfig) -> Tolerance:
        """The tolerance of the state."""
        known = config.method.tolerance
        rtol = known.rtol if self.rtol is None else self.rtol
        atol = known.atol if self.atol is None else self.atol
        return Tolerance(rtol, atol, known.norm)

    def strayed(self, y: Array, known: Array, config: SolveConfig) -> Array:
        """Whether `y`, come back to where the state was `known`, is far from it."""
        tolerance, gap = self.tolerance(config), y - known
        limit = jnp.asarray(_SHARE)
        if self.controller.adaptive:
            rtol = jnp.max(tolerance.rtol)
            limit = jnp.minimum(_MOST * rtol, jnp.maximum(limit, _LOOSE * rtol))
        size = limit * tolerance.norm(known) + _MOST * jnp.max(tolerance.atol)
        far = ~(tolerance.norm(gap) <= size)
        if self.controller.adaptive:
            far = far | ~(tolerance.scaled_norm(gap, known) <= _MOST_OF_NORM)
        return far


def backwards(
    kind: str,
    seminorm: bool,
    solver: Solver | None,
    tolerances: tuple[Any, Any],
    config: SolveConfig,
) -> Backwards:
    """How to solve the adjoint equation of a solve by `config`.

    **Raises:** `OptionError` where it cannot be.
    """
    rtol, atol = (None if x is None else jnp.asarray(x) for x in tolerances)
    chosen, controller = _stepped(solver, config, rtol is not None or atol is not None)
    mass = Mass.of(config)
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
    chosen = _linear(chosen, kind, config)
    return Backwards(kind, seminorm, chosen, controller, rtol, atol, dt, mass, divided)


def _stepped(
    given: Solver | None, config: SolveConfig, toleranced: bool
) -> tuple[Solver, Controller]:
    """The solver, and what chooses its steps."""
    forward, controller = config.method.solver, config.method.controller
    solver, name = given or forward, type(given).__name__
    if given is not None and given.partitioned:
        raise OptionError(
            f"the adjoint equation is no pair, so {name} cannot solve it: give "
            'jo.Continuous a solver of all states, such as "tsit5"'
        )
    if solver.partitioned:
        return Tsit5(), Tsit5().default_controller()
    adaptive = solver.error_exponent is not None
    wanted = controller.adaptive or isinstance(controller, Grid) or toleranced
    if given is None and not wanted:
        return solver, controller
    if given is None and adaptive and controller.adaptive:
        return solver, controller
    if adaptive:
        return solver, solver.default_controller()
    if given is None:
        other = Rodas5P(linear_solver=_linear_of(solver)) if solver.implicit else Tsit5()
        return other, other.default_controller()
    if controller.adaptive or isinstance(controller, Grid) or toleranced:
        raise OptionError(
            f"{name} takes fixed steps, but the adjoint equation would have to choose its own: "
            'give jo.Continuous an adaptive solver, such as "tsit5", or the solve jo.Fixed(dt)'
        )
    return solver, controller


def _linear_of(solver: Solver) -> Any:
    return getattr(solver, "linear_solver", Dense())


def _linear(solver: Solver, kind: str, config: SolveConfig) -> Solver:
    """The solver, its linear algebra for the adjoint equation and not for the state."""
    if not isinstance(solver, Implicit):
        return solver
    linear = solver.linear_solver
    if kind == "backsolve" and isinstance(linear, Direct) and not isinstance(linear, Dense):
        raise OptionError(
            f'jo.Continuous("backsolve") has parameters in its state, which {linear!r} of '
            f"{type(solver).__name__} has no pattern for: use "
            'method="quadrature" or "interpolate", or a solver= with jo.Dense() or jo.Krylov()'
        )
    size = config.packing.size
    found = linear.transposed() if kind == "interpolate" else augmented_solver(linear, size)
    return dataclasses.replace(solver, linear_solver=found, mass=None, jac=None)
