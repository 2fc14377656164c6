"""The step protocol: the interface between a solver and the integration loop."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jax import Array

from ..problem.field import Field
from ..problem.state import Packing
from .step_size import PID, Controller, Tolerance


class EvaluationCounts(NamedTuple):
    """Numbers of field evaluations, Jacobians not counted.

    - `init`: to initialise the solver state. `step`: of each step, besides those that
      `StepResult.extra_evaluations` counts. `dense`: of dense output inside a step.
    """

    init: int
    step: int
    dense: int


class StepResult(NamedTuple):
    """The result of an attempted step.

    - `y1`: the state at the end of the step. `error`: the estimate of the local error, or None
      for a solver without one.
    - `dense`: the arrays that `interpolate` reads, or None where dense output was not requested.
    - `solver_state`: the solver state for the next step, used if this one is accepted.
    - `status`: the `Status` of a step that failed, else zero; None for a solver whose steps cannot
      fail. `step_factor`: the next step's size over this one's, of solvers that propose it.
    - `extra_evaluations`: field evaluations that not every step makes, of solvers that iterate.
    - `max_next_step`: an upper bound of the next step's size, or None.
    - `linear_algebra_counts`: the numbers of Jacobians and of factorisations, of solvers that reuse
      them.
    - `residuals`: the stage values that the backward pass reads, where they are stored.
    - `stages`: the slopes and the states of the stages, of solvers that detect what binds a step.
    """

    y1: Array
    error: Array | None
    dense: tuple[Array, ...] | None
    solver_state: Any
    status: Array | None = None
    step_factor: Array | None = None
    extra_evaluations: Array | int = 0
    max_next_step: Array | None = None
    linear_algebra_counts: tuple[Array, Array] | None = None
    residuals: tuple[Array, ...] = ()
    stages: tuple[list[Array], list[Array]] | None = None


class Solver(eqx.Module):
    """Base class of all solvers: the step protocol.

    The integration loop knows nothing else of a solver. The state `y` is one array; `t` and `h` are
    scalars, or vectors along the last axis of `y`, which then counts trajectories in SIMD lanes.
    The solver state is the pytree that a step hands to the next one.
    """

    names: ClassVar[tuple[str, ...]] = ()  # in the registry: its own, then those of other libraries
    one_step: ClassVar[bool] = True  # no step depends on those before the last
    shares_history: ClassVar[bool] = True  # a solution nearby can begin with its solver state
    varies: ClassVar[bool] = False  # its order or its method changes with the error
    stateless: ClassVar[bool] = True  # `init` rebuilds the solver state from (t, y) alone
    implicit: ClassVar[bool] = False  # solves systems of equations
    counts_evaluations: ClassVar[bool] = False  # its steps return `extra_evaluations`
    reuses_jacobian: ClassVar[bool] = False  # a Jacobian serves several steps
    partitioned: ClassVar[bool] = False  # updates the two halves of the state alternately
    imex: ClassVar[bool] = False  # takes a field in two parts, one implicit and one explicit
    reversible: ClassVar[bool] = False  # `step_back` undoes its steps
    can_be_coupled: ClassVar[bool] = False  # `ReversibleRK` makes it reversible
    takes_mass: ClassVar[bool] = False  # steps `M y' = f(t, y)` for a mass matrix `M`
    loops_over_stages: ClassVar[bool] = False  # calls a `LoopedField` in a loop over its stages
    detects_stability: ClassVar[bool] = False  # tells if stability binds a step
    looks_ahead: ClassVar[bool] = False  # evaluates the field at times after the end of the step

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Order of convergence of the step."""

    @property
    @abc.abstractmethod
    def error_exponent(self) -> int | None:
        """The power of `h` with which the error estimate falls, or `None` without an estimate."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> EvaluationCounts:
        """Numbers of field evaluations."""

    @property
    @abc.abstractmethod
    def num_dense(self) -> int:
        """Number of arrays that `interpolate` reads."""

    @property
    def needs_rate(self) -> bool:
        """Its coupling lacks a rate, which `jo.Reversible` chooses by the span of times."""
        return False

    def check(self, packing: Packing) -> None:
        """Refuse a state that the solver cannot step. **Raises:** `StateError`."""
        return

    def with_tolerance(self, tolerance: Tolerance | None) -> "Solver":
        """The solver with this tolerance (None: fixed steps), if it has a field `tolerance`."""
        has_field = any(field.name == "tolerance" for field in dataclasses.fields(self))
        return dataclasses.replace(self, tolerance=tolerance) if has_field else self

    def why_no_kernel(self) -> str | None:
        """The reason why a Pallas kernel cannot take its steps, or None if it can."""
        return None

    def for_forward_mode(self) -> "Solver":
        """The solver without reverse-mode rules: for forward mode, or no derivative at all."""
        return self

    def default_controller(self) -> Controller:
        """The step-size controller that suits its error estimate."""
        return PID()

    def init(self, field: Field, t: Array, y: Array) -> Any:
        """The solver state for the first step."""
        return ()

    def slope(self, solver_state: Any) -> Array | None:
        """The slope `f(t, y)` at the start of a step, if the solver state holds it."""
        return None

    def move_state(
        self, move: Callable[[Array, Array], Array], solver_state: Any, other: Any
    ) -> Any:
        """Return the solver state with `move(own, other)` for all that changes with the state `y`.

        `other`: the solver state of a trajectory nearby, after the same steps.
        """
        return jax.tree.map(move, solver_state, other)

    def shift_state(self, solver_state: Any, shift: Array) -> Any:
        """Return the solver state moved with `y` by `shift`, as far as it contains `y`."""
        return solver_state

    @abc.abstractmethod
    def step(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
    ) -> StepResult:
        """Attempt one step from `(t, y)` of size `h`, which is negative backwards in time.

        `needs_dense`: None if dense output is not requested; else a boolean, true if the solution
        will be read inside the step. Only then extra stages for dense output are computed.
        """

    def bound_by_stability(
        self, stages: tuple[list[Array], list[Array]], y: Array, h: Array, tolerance: Tolerance
    ) -> Array:
        """True if stability, and not accuracy, binds the step from `y` over `h`, a scalar.

        `stages` are those of its `StepResult`. For solvers that detect it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not detect it")

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        """The `(y, solver_state)` from which the step of size `h` led to `(y1, solver_state1)`.

        Exact up to rounding, by algebra alone: no equation is solved. For `reversible` solvers.
        """
        raise NotImplementedError(f"{type(self).__name__} is not reversible")

    def step_to(
        self,
        field: Field,
        t: Array,
        y: Array,
        h: Array,
        solver_state: Any,
        needs_dense: Array | bool | None,
        y1: Array,
    ) -> StepResult:
        """Repeat the step that `step_back` undid; its end `y1` is known and may be ignored."""
        return self.step(field, t, y, h, solver_state, needs_dense)

    @abc.abstractmethod
    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        """The state at the fraction `theta` of the step that began at `y`; shape of `y`."""


class TableauSolver(Solver):
    """Base class of the solvers that a table of coefficients, `tableau`, tells apart."""

    tableau: ClassVar[Any]

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_exponent(self) -> int | None:
        embedded = self.tableau.embedded_order
        return None if embedded is None else min(self.tableau.order, embedded) + 1
