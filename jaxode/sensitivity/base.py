"""The base class of the ways to differentiate a solve."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import PyTree

from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result
from ..integrate.ivp import IVP, SolveConfig
from ..kernels.dispatch import KernelPolicy
from ..kernels.lowering.unsupported import NoKernelError
from ..problem.errors import OptionError
from ..solvers.base import Solver
from .ad_direction import BACKWARD, reverse_mode_first


class Sensitivity(eqx.Module):
    """Base class of the ways to differentiate the solution of an initial value problem.

    `takes_events`: solves with events or jumps have derivatives; `one_pass`: at no further cost, in
    the backward pass of the solve. `by_steps`: derivatives are those of the steps taken. `advice`:
    what an error adds where a solve runs out of steps.
    """

    takes_events: ClassVar[bool] = True
    one_pass: ClassVar[bool] = True
    by_steps: ClassVar[bool] = True
    advice: ClassVar[str] = ""

    @abc.abstractmethod
    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem, differentiable by the arrays of `problem`."""

    @abc.abstractmethod
    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in the lanes of `tile`, differentiable by its arrays."""

    def solve_kernel(self, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
        """Solve all problems of `ensemble` in one kernel, differentiable by its arrays.

        `tile`: for the parts of the derivative that run in the loop over tiles.

        **Raises:** `NoKernelError` where there is no kernel.
        """
        raise NoKernelError(f"jo.{type(self).__name__}() has none, jo.Discrete() has")

    @property
    def keeps_rows(self) -> str | None:
        """What keeps a row for each of `max_steps` steps, for a message; None if nothing does."""
        return None

    def check_events(self, has_events: bool) -> None:
        """**Raises:** `OptionError` for events or jumps that cannot be differentiated this way."""
        if has_events and not self.takes_events:
            raise OptionError(
                f"sensitivity=jo.{type(self).__name__}() does not differentiate through events and "
                'jumps: use sensitivity="discrete" or "forward"'
            )

    def prepare_solver(self, solver: Solver, adaptive: bool = True) -> Solver:
        """Return the version of `solver` whose steps can be differentiated this way.

        `adaptive`: whether the sizes of its steps are chosen by its error estimate.

        **Raises:** `OptionError` where there is none.
        """
        return solver

    def restrict_direction(self, inputs: PyTree) -> PyTree:
        """Mark the inputs of a solve so that a derivative in the wrong mode **raises**.

        The error is a `DifferentiationError`, and says which mode to use.
        """
        return reverse_mode_first(
            inputs, BACKWARD.format(f"sensitivity=jo.{type(self).__name__}()")
        )
