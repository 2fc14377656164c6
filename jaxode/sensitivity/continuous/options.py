"""The continuous adjoint: a second ODE, integrated backwards from the last time."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import ArrayLike

from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig
from ...kernels.dispatch import KernelPolicy
from ...problem.errors import OptionError, ToleranceError, unknown_name
from ...problem.validation import check_positive, find
from ...solvers.base import Solver
from ...solvers.registry import SOLVERS
from ..base import Sensitivity
from .backward_solver import BackwardConfig, configure_backward
from .rule import solve_continuous
from .rule_batch import solve_batch_continuous
from .rule_kernel import solve_kernel_continuous

METHODS = ("quadrature", "backsolve", "interpolate")


class Continuous(Sensitivity):
    r"""The continuous adjoint, integrated backwards after the solve.

    With $a = \partial L / \partial y$ it solves $\dot a = -a\, \partial f / \partial y$ from the
    last time to the first, $a$ jumping at each saved time, and integrates $\dot g = -a\, \partial f
    / \partial \theta$. The gradient is that of the differential equation, not of the computed
    solution: its error falls with the tolerances. Works with values at `ts` and the state at the
    end, and with every solver.

    **Arguments:**

    - `method`: what is integrated backwards beside $a$.
      "quadrature": the state too; $g$ is added up by Gauss quadrature on the dense output of the
      accepted steps, so that the equation has twice the size of the state, whatever the number of
      parameters. "backsolve": state and $g$, as one equation; in a batch, what all share is summed
      by quadrature even so. Of both, memory does not grow with the number of steps. "interpolate":
      $a$ alone. The forward solve keeps its state now and then, from where its steps are made again
      a segment at a time; the state is read off their dense output. Memory grows with the root of
      `max_steps`, and the work by that of the forward solve.
    - `solver`: for the way back, a name or an object; by default that of the solve. Instead of
      solvers of two halves, and of fixed steps along a `jo.Grid`, it is "tsit5", or "rodas5p" for
      an implicit one. Its `linear_solver` is for the Jacobian of the field, as in the solve; the
      mass matrix is taken over.
    - `rtol`, `atol`: for the way back, positive numbers; by default those of the solve.
    - `seminorm`: leave $g$ out of the error norm: its error feeds back into nothing. Only
      "backsolve" has it there: then the largest of the norms of state, $a$ and every array of $g$.

    Fields that contract strongly forwards blow up backwards, and a state that is integrated
    backwards then goes astray. "interpolate" has no such trouble: it is the one for stiff problems.
    The other two compare the state that comes back to a saved time, or to the first, with what it
    was. If its norm is off by more than 10,000 times the tolerance or more than half (with `rtol`
    above 0.016, 30 times that), or in the error norm by a million times the tolerance, the gradient
    is NaN; of fixed steps, if it is off by more than half. NaN it is too if the way back fails.

    **Raises:** `OptionError` for an unknown method or solver, `ToleranceError` for a bad tolerance.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366, appendix
    B; the norm: Kidger et al., "Hey, that's not an ODE" (2020), arXiv 2009.09457; quadrature and
    interpolation: GaussAdjoint and InterpolatingAdjoint of SciMLSensitivity.jl, Rackauckas et al.
    (2020), arXiv 2001.04385; mass matrices: Cao, Li, Petzold, Serban, SIAM J. Sci. Comput. 24
    (2003).
    """

    method: str = eqx.field(static=True)
    solver: Solver | None
    rtol: ArrayLike | None
    atol: ArrayLike | None
    seminorm: bool = eqx.field(static=True)
    takes_events: ClassVar[bool] = False

    def __init__(
        self,
        method: str = "quadrature",
        solver: str | Solver | None = None,
        rtol: ArrayLike | None = None,
        atol: ArrayLike | None = None,
        seminorm: bool = True,
    ) -> None:
        if not isinstance(method, str) or method.lower() not in METHODS:
            raise unknown_name("method of jo.Continuous", str(method), METHODS)
        if not isinstance(seminorm, bool):
            raise OptionError(f"seminorm must be True or False, got {seminorm!r}")
        check_positive("rtol of jo.Continuous", rtol, ToleranceError)
        check_positive("atol of jo.Continuous", atol, ToleranceError)
        self.method = method.lower()
        if solver is not None:
            solver = find("solver", solver, SOLVERS, Solver, "jo.Tsit5()")
        self.solver = solver  # pyright: ignore[reportAttributeAccessIssue]
        self.rtol, self.atol, self.seminorm = rtol, atol, seminorm

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Run `problem`; its gradient is the adjoint equation's.

        **Raises:** `OptionError` for `save="steps"` and `save="dense"`, and where solver, steps,
        mass matrix and linear algebra do not go together.
        """
        self.check_events(problem.has_events)
        return solve_continuous(problem, config, self.backward(config))

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Run all of `ensemble`; its gradient is the adjoint equations', in lanes.

        **Raises:** `OptionError` as `solve`.
        """
        self.check_events(ensemble.has_events)
        return solve_batch_continuous(ensemble, tile, self.backward(ensemble.config))

    def solve_kernel(self, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
        """The same in one kernel. **Raises:** `NoKernelError` where there is none."""
        return solve_kernel_continuous(ensemble, tile, self.backward(ensemble.config), policy)

    def backward(self, config: SolveConfig) -> BackwardConfig:
        """How the adjoint equation of such a solve is solved."""
        if config.save not in ("ends", "ts"):
            raise OptionError(
                f'sensitivity="adjoint" gives gradients of values at ts, not of save="{config.save}";'
                ' use save="ts" or sensitivity="discrete"'
            )
        tolerances = self.rtol, self.atol
        return configure_backward(self.method, self.seminorm, self.solver, tolerances, config)
