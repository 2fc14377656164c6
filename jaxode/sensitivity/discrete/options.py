"""The discrete adjoint: record the accepted steps, replay each backwards with one vjp."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig, packed_field
from ...kernels.dispatch import KernelPolicy
from ...kernels.lowering.unsupported import NoKernelError
from ...problem.errors import OptionError
from ...problem.validation import is_count, plain
from ..base import Sensitivity
from .checkpoints import CheckpointRecorder
from .rule import solve_discrete
from .rule_batch import solve_batch_discrete
from .rule_kernel import solve_kernel_discrete


class Discrete(Sensitivity):
    """The exact gradient of the computed solution, step sizes held fixed.

    The forward pass keeps every accepted `(t, h)`, and states, from which the backward pass runs
    the steps again. Works with every `save`.

    - `memory`: what is kept besides. None: the state before each step while those are small, else
      four megabytes of them, at least the root of `max_steps`. A number of states, thinned as the
      solve goes: memory that does not grow with the steps. "steps": the state before every one of
      `max_steps` steps. "stages": all that the backward pass reads, so that it computes nothing
      again; buffers for `max_steps` steps, so give a tight one. For a batch a number counts
      snapshots of all lanes, and "stages" is refused.

    **Raises:** `OptionError` for another `memory`; `OutOfMemoryError` where the stages do not fit.

    Source: Zhuang et al., Adaptive checkpoint adjoint (2020), arXiv 2006.02493; the thinning:
    Stumm, Walther, New algorithms for optimal online checkpointing, SIAM J. Sci. Comput. 32 (2010).
    """

    memory: int | Literal["steps", "stages"] | None = eqx.field(
        static=True, default=None, converter=plain
    )

    def __check_init__(self) -> None:
        if not (is_count(self.memory) or self.memory in (None, "steps", "stages")):
            raise OptionError(
                f'memory must be a number of states, "steps", "stages" or None, got {self.memory!r}'
            )

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Run `problem`; its gradient is the replay."""
        return solve_discrete(
            problem, config, self.tracing(problem, config), self.memory == "stages"
        )

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Run all of `ensemble`; its gradient is the replay, in lanes."""
        if self.memory == "stages":
            raise OptionError(
                'Discrete(memory="stages") keeps the stages of single solves; for a batch use '
                'memory="steps", or solve it as one system'
            )
        return solve_batch_discrete(ensemble, tile, True, self.memory)

    def solve_kernel(self, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
        """The same in one kernel. **Raises:** `NoKernelError` where there is none."""
        if self.memory is not None:
            raise NoKernelError("Discrete(memory=...) is for the loop over tiles")
        return solve_kernel_discrete(ensemble, tile, policy)

    def tracing(self, problem: IVP, config: SolveConfig) -> CheckpointRecorder:
        """What is kept of the steps."""
        max_steps = config.method.max_steps
        if self.memory is None:
            rows = checkpoint_rows(checkpoint_shapes(problem, config), max_steps)
            return CheckpointRecorder(max_steps, rows, stores_solver_state(config, rows))
        rows = min(self.memory, max_steps) if isinstance(self.memory, int) else max_steps
        return CheckpointRecorder(
            max_steps, rows, not config.method.solver.stateless or rows == max_steps
        )


def checkpoint_shapes(problem: IVP, config: SolveConfig) -> PyTree:
    """Arrays like those that have to be kept of a step to run it again."""
    if config.method.solver.stateless:
        return problem.y0
    init, field = config.method.stepper.init, packed_field(problem, config)
    return problem.y0, jax.eval_shape(lambda: init(field, problem.ts[0], problem.y0))


def checkpoint_rows(state: PyTree, max_steps: int) -> int:
    """How many states a trace keeps: four megabytes of them, at least the root of the steps."""
    size = max(sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state)), 1)
    return min(max_steps, max(_root(max_steps), 2**22 // size))


def stores_solver_state(config: SolveConfig, rows: int) -> bool:
    """Whether a trace holds the solver's carry, or the backward pass makes it afresh."""
    max_steps = config.method.max_steps
    return not config.method.solver.stateless or rows > _root(max_steps) or rows == max_steps


def _root(max_steps: int) -> int:
    return 1 << (max_steps - 1).bit_length() // 2
