"""The discrete adjoint: record the accepted steps, replay each backwards with one vjp."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...batch.queue import Tile
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import Plan, Problem, packed_field
from ...kernels.dispatch import Engine
from ...kernels.lowering.unsupported import NoKernelError
from ...problem.errors import OptionError
from ...problem.validation import is_count, plain
from .checkpoints import Tracing
from .rule import replayed
from .rule_batch import replayed_in_lanes
from .rule_kernel import replayed_in_kernel


class Discrete(eqx.Module):
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

    def solve(self, problem: Problem, plan: Plan) -> Result:
        """Run `problem`; its gradient is the replay."""
        return replayed(problem, plan, self.tracing(problem, plan), self.memory == "stages")

    def solve_batch(self, ensemble: Ensemble, tile: Tile) -> Result:
        """Run all of `ensemble`; its gradient is the replay, in lanes."""
        if self.memory == "stages":
            raise OptionError(
                'Discrete(memory="stages") keeps the stages of single solves; for a batch use '
                'memory="steps", or solve it as one system'
            )
        return replayed_in_lanes(ensemble, tile, True, self.memory)

    def in_kernel(self, ensemble: Ensemble, tile: Tile, engine: Engine) -> Result:
        """The same in one kernel. **Raises:** `NoKernelError` where there is none."""
        if self.memory is not None:
            raise NoKernelError("Discrete(memory=...) is for the loop over tiles")
        return replayed_in_kernel(ensemble, tile, engine)

    def tracing(self, problem: Problem, plan: Plan) -> Tracing:
        """What is kept of the steps."""
        max_steps = plan.method.max_steps
        if self.memory is None:
            rows = rows_that_fit(kept_states(problem, plan), max_steps)
            return Tracing(max_steps, rows, keeps_carry(plan, rows))
        rows = min(self.memory, max_steps) if isinstance(self.memory, int) else max_steps
        return Tracing(max_steps, rows, not plan.method.solver.one_step or rows == max_steps)


def kept_states(problem: Problem, plan: Plan) -> PyTree:
    """Arrays like those that have to be kept of a step to run it again."""
    if plan.method.solver.one_step:
        return problem.y0
    init, field = plan.method.stepper.init, packed_field(problem, plan)
    return problem.y0, jax.eval_shape(lambda: init(field, problem.ts[0], problem.y0))


def rows_that_fit(state: PyTree, max_steps: int) -> int:
    """How many states a trace keeps: four megabytes of them, at least the root of the steps."""
    size = max(sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state)), 1)
    return min(max_steps, max(_root(max_steps), 2**22 // size))


def keeps_carry(plan: Plan, rows: int) -> bool:
    """Whether a trace holds the solver's carry, or the backward pass makes it afresh."""
    max_steps = plan.method.max_steps
    return not plan.method.solver.one_step or rows > _root(max_steps) or rows == max_steps


def _root(max_steps: int) -> int:
    return 1 << (max_steps - 1).bit_length() // 2
