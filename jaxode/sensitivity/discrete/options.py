"""The options of the discrete adjoint, `jo.Discrete`."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...batch.queue import LaneTile
from ...batch.tile_width import tile_of
from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig, controlling_rest, packed_field
from ...integrate.step import UNBOUNDED_STEPS
from ...kernels.dispatch import KernelPolicy
from ...kernels.lowering.unsupported import NoKernelError
from ...problem.errors import OptionError
from ...problem.validation import check_flag, is_count, python_int, shown_value
from ..base import Sensitivity
from ..lanes.solve import solve_ensemble, solve_or_lanes
from ..lanes.trajectories import RuleCall, Rules
from .checkpoints import CheckpointRecorder
from .rule import solve_discrete
from .rule_batch import solve_batch_discrete
from .rule_kernel import solve_kernel_discrete
from .rule_long import solve_discrete_long

# A solve of a state of so many bytes that may take more steps records them in segments.
MANY_STEPS, SMALL_STATE = 2**14, 2**10
NAMES = ("steps", "stages")  # of what is stored


class Discrete(Sensitivity):
    """The discrete adjoint: the exact gradient of the computed solution, step sizes held fixed.

    The forward pass records the `(t, h)` of every accepted step and some of the states, from which
    the backward pass recomputes the steps, and pulls cotangents back through each. Works with every
    solver, every `save`, events and jumps.

    **Arguments:**

    - `memory`: what the forward pass stores in addition. None: the state before each step, or, of
      large states, as many as four megabytes hold, but at least the square root of `max_steps`. A
      positive integer: that many states, fewer steps apart at first and more as the solve goes on,
      so that memory does not grow with the number of steps. "steps": the state before each of
      `max_steps` steps. "stages": all values that the backward pass reads, so that it recomputes
      nothing; it allocates buffers for `max_steps` steps, so give a tight bound. In a batch an
      integer counts snapshots of all lanes, and "stages" is not available.
    - `at_rest`: True to control the error of derivatives where the state is at rest. Error control
      sees the state alone: where that does not move, or is smaller than the absolute tolerance, any
      step passes, and the exact gradient of the computed solution can be far from that of the
      equation. Then steps are controlled by a solution nearby too, whose cost is that of a second
      solve while the state rests, and less else. Not in a kernel.

    **Raises:** `OptionError` for another `memory`; `OutOfMemoryError` where the stages do not fit.

    Source: Zhuang et al., Adaptive checkpoint adjoint (2020), arXiv 2006.02493; the states stored:
    Stumm, Walther, New algorithms for optimal online checkpointing, SIAM J. Sci. Comput. 32 (2010).
    """

    memory: int | Literal["steps", "stages"] | None = eqx.field(
        static=True, default=None, converter=python_int
    )
    at_rest: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        named = self.memory is None or (isinstance(self.memory, str) and self.memory in NAMES)
        if not is_count(self.memory) and not named:
            raise OptionError(
                'memory must be a number of states, "steps", "stages" or None, got '
                f"{shown_value(self.memory)}"
            )
        check_flag("at_rest of jo.Discrete", self.at_rest)

    @property
    def keeps_rows(self) -> str | None:
        """What keeps a row for each of `max_steps` steps, for a message; None if nothing does."""
        return None if self.memory is None else "jo.Discrete(memory=...)"

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Solve one problem; the backward pass recomputes its steps."""
        batch = None if self.memory == "stages" else self._rule_of_batch
        config = controlling_rest(config, self.at_rest)
        return solve_or_lanes(Rules(self._rule, batch), problem, config)

    def _rule(self, problem: IVP, config: SolveConfig, _: None) -> RuleCall:
        if self.memory is None and is_long(checkpoint_shapes(problem, config), config):
            return RuleCall(solve_discrete_long, (config,))
        recorder = self.recorder(problem, config)
        return RuleCall(solve_discrete, (config, recorder, self.memory == "stages"))

    def _rule_of_batch(self, ensemble: Ensemble, _: None) -> RuleCall:
        return RuleCall(solve_batch_discrete, (tile_of(ensemble, None), True, self.memory))

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Solve all problems of `ensemble` in lanes; the backward pass recomputes their steps.

        **Raises:** `OptionError` for `memory="stages"`.
        """
        if self.memory == "stages":
            raise OptionError(
                'Discrete(memory="stages") keeps the stages of single solves; for a batch use '
                'memory="steps", or solve it as one system'
            )
        rule = RuleCall(solve_batch_discrete, (tile, True, self.memory))
        rules = Rules(None, lambda ensemble, _: rule)
        return solve_ensemble(rules, ensemble.controlling_rest(self.at_rest))

    def solve_kernel(self, ensemble: Ensemble, tile: LaneTile, policy: KernelPolicy) -> Result:
        """Solve all problems of `ensemble` in one kernel; another is the backward pass.

        **Raises:** `NoKernelError` where there is no kernel.
        """
        if self.memory is not None:
            raise NoKernelError("Discrete(memory=...) is for the loop over tiles")
        if self.at_rest:
            raise NoKernelError("Discrete(at_rest=True) is for the loop over tiles")
        return solve_kernel_discrete(ensemble, tile, policy)

    def recorder(self, problem: IVP, config: SolveConfig) -> CheckpointRecorder:
        """Return the recorder of the forward pass."""
        max_steps = config.method.max_steps
        if self.memory is None:
            rows = checkpoint_rows(checkpoint_shapes(problem, config), max_steps)
            return CheckpointRecorder(max_steps, rows, stores_solver_state(config, rows))
        rows = min(self.memory, max_steps) if isinstance(self.memory, int) else max_steps
        return CheckpointRecorder(
            max_steps, rows, not config.method.solver.stateless or rows == max_steps
        )


def checkpoint_shapes(problem: IVP, config: SolveConfig) -> PyTree:
    """Return the shapes of what a step is recomputed from: the state, and the solver's if any."""
    if config.method.solver.stateless:
        return problem.y0
    init, field = config.method.stepper.init, packed_field(problem, config)
    return problem.y0, jax.eval_shape(lambda: init(field, problem.ts[0], problem.y0))


def is_long(state: PyTree, config: SolveConfig) -> bool:
    """Return whether buffers for all steps would cost more than a solve of so small a state.

    Without a bound there are none.
    """
    size = sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state))
    max_steps = config.method.max_steps
    small = size <= SMALL_STATE or max_steps == UNBOUNDED_STEPS
    return max_steps > MANY_STEPS and small


def checkpoint_rows(state: PyTree, max_steps: int) -> int:
    """Return how many states to store by default: four megabytes, at least the root of the steps.

    `state`: arrays, or their shapes.
    """
    size = max(sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state)), 1)
    return min(max_steps, max(_rounded_root(max_steps), 2**22 // size))


def stores_solver_state(config: SolveConfig, rows: int) -> bool:
    """Return whether a trace of `rows` states has solver states, else they are reinitialised."""
    max_steps = config.method.max_steps
    many_rows = rows > _rounded_root(max_steps) or rows == max_steps
    return not config.method.solver.stateless or many_rows


def _rounded_root(max_steps: int) -> int:
    """Return the square root of `max_steps`, to within a factor of two, as a power of two."""
    return 1 << (max_steps - 1).bit_length() // 2
