"""What every solver is to the loop: the step protocol."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
from jax import Array

from ..problem.field import Field
from ..problem.state import Packing
from .step_size import PID, Controller, Tolerance


class Evaluations(NamedTuple):
    """Field evaluations of `init`, of one step, and of dense output inside a step.

    Of a solver that iterates, `each` leaves out what a step counts itself.
    """

    first: int
    each: int
    inside: int


class StepResult(NamedTuple):
    """What a step returns.

    - `y1`: the state at its end. `error`: the estimate of its error, or None without one.
    - `dense`: what `interpolate` reads, or None where it was not asked for.
    - `solver_state`: what the next step is handed if this one is accepted.
    - `status`: the `Status` of a step that could not be made, else zero; None where every step
      can. `factor`: how the next step's size is to this one's, where the solver itself chooses.
    - `iterations`: field evaluations besides those that every step makes, of solvers that iterate.
    - `max_next_step`: a bound of the next step's size, or None.
    - `linear_algebra_counts`: whether it made a Jacobian and how many factorisations, where steps differ in that.
    - `residuals`: what the backward pass reads of the stages, where that is kept.
    """

    y1: Array
    error: Array | None
    dense: tuple[Array, ...] | None
    solver_state: Any
    status: Array | None = None
    factor: Array | None = None
    iterations: Array | int = 0
    max_next_step: Array | None = None
    linear_algebra_counts: tuple[Array, Array] | None = None
    residuals: tuple[Array, ...] = ()


class Solver(eqx.Module):
    """The step protocol, all that the loop knows of a solver.

    The state `y` is one array; `t` and `h` are scalars, or vectors over the last axis of `y`, its
    lanes.
    """

    names: ClassVar[tuple[str, ...]] = ()  # in the registry: its own, then those of other libraries
    stateless: ClassVar[bool] = True  # `init` rebuilds the carry from (t, y) alone
    implicit: ClassVar[bool] = False  # solves systems of equations
    counts_evaluations: ClassVar[bool] = False  # its steps count field evaluations themselves
    reuses_jacobian: ClassVar[bool] = False  # its Jacobians serve for more than one step
    partitioned: ClassVar[bool] = False  # moves two halves of the state by turns
    imex: ClassVar[bool] = False  # takes a field in two parts
    reversible: ClassVar[bool] = False  # `step_back` undoes its steps
    can_be_coupled: ClassVar[bool] = False  # `ReversibleRK` makes it reversible
    takes_mass: ClassVar[bool] = False  # steps `M y' = f(t, y)` for a mass matrix `M`
    loops_over_stages: ClassVar[bool] = False  # calls a `LoopedField` in a loop over its stages

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
    def evaluations(self) -> Evaluations:
        """How often the field is called, Jacobians not counted."""

    @property
    @abc.abstractmethod
    def num_dense(self) -> int:
        """How many arrays `interpolate` reads."""

    @property
    def needs_rate(self) -> bool:
        """Its coupling lacks a rate, which `jo.Reversible` chooses by the span of times."""
        return False

    def check(self, packing: Packing) -> None:
        """Refuse a state that it cannot step. **Raises:** `StateError`."""
        return

    def within(self, tolerance: Tolerance | None) -> "Solver":
        """The solver for this tolerance, None for fixed steps, if it has a field for one."""
        asks = any(field.name == "tolerance" for field in dataclasses.fields(self))
        return dataclasses.replace(self, tolerance=tolerance) if asks else self

    def why_no_kernel(self) -> str | None:
        """Why kernels cannot take its steps, or None if they can."""
        return None

    def forwards(self) -> "Solver":
        """The solver for steps that are differentiated forwards, or not at all."""
        return self

    def controller(self) -> Controller:
        """The controller that suits its error estimate."""
        return PID()

    def init(self, field: Field, t: Array, y: Array) -> Any:
        """What the first step is handed."""
        return ()

    def slope(self, solver_state: Any) -> Array | None:
        """The field at the start of a step, if its carry knows it."""
        return None

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
        """One step from `(t, y)` over `h`, which is negative backwards in time.

        `needs_dense` asks for dense output: `None` for none, else whether a time inside the step will
        be looked at (only then the extra stages are computed).
        """

    def step_back(
        self, field: Field, t: Array, y1: Array, h: Array, solver_state1: Any
    ) -> tuple[Array, Any]:
        """The `(y, carry)` from which `step(field, t, y, h, carry)` made `y1` and `solver_state1`.

        To rounding, by algebra alone: no equation is solved. Of `reversible` solvers.
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
        """The step that `step_back` has undone; a solver may do without what the end `y1` tells."""
        return self.step(field, t, y, h, solver_state, needs_dense)

    @abc.abstractmethod
    def interpolate(self, theta: Array, y: Array, h: Array, dense: tuple[Array, ...]) -> Array:
        """The state at the fraction `theta` of a step that began at `y`; shape of `y`."""
