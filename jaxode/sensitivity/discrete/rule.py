"""The derivative rule of one solve by the discrete adjoint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...integrate.forward import Result, solve_forward
from ...integrate.ivp import IVP, SolveConfig, for_derivatives, nudged_problem
from ..reached import SolveOutcome
from ..vjp_rule import with_vjp
from .backward import DiscreteBackward
from .checkpoints import CheckpointRecorder, TimeRecorder
from .layout import StepLayout
from .stage_residuals import residual_shapes, step_with_residuals
from .step_vjp import StepStart


def _forward(
    perturbed: PyTree,
    problem: IVP,
    config: SolveConfig,
    recorder: CheckpointRecorder | TimeRecorder,
    stages: bool,
) -> tuple[Result, Any]:
    step: Any = None
    if stages and isinstance(recorder, CheckpointRecorder):
        recorder = with_stages(recorder, StepLayout.single(perturbed, problem, config))
        nudging = for_derivatives(problem, config, perturbed)

        def step_of_turn(due: Any) -> Any:
            moved = nudged_problem(problem, nudging, due)
            return step_with_residuals(StepLayout.single(perturbed, moved, config))

        step = step_of_turn

    result, trace = solve_forward(problem, config, recorder, step, perturbed)
    return result, (trace, SolveOutcome.of(result))


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    problem: IVP,
    config: SolveConfig,
    recorder: CheckpointRecorder | TimeRecorder,
    stages: bool,
) -> PyTree:
    trace, outcome = residuals
    layout = StepLayout.single(perturbed, problem, config)
    steps_back = isinstance(recorder, TimeRecorder)
    return DiscreteBackward.of(layout, trace, cotangents, outcome, steps_back).run()


@with_vjp(_forward, _backward)
def solve_discrete(
    problem: IVP,
    config: SolveConfig,
    recorder: CheckpointRecorder | TimeRecorder,
    stages: bool,
) -> Result:
    """Solve one problem; the backward pass recomputes the steps that `recorder` records.

    `stages`: it reads their stages from memory instead, if those are what `recorder` is for.
    """
    return solve_forward(problem, config)[0]


def with_stages(recorder: CheckpointRecorder, layout: StepLayout) -> CheckpointRecorder:
    """Return the recorder with buffers for what the backward pass reads of the stages."""
    problem, method = layout.problem, layout.config.method
    t, y = problem.ts[0], problem.y0
    shapes = jax.eval_shape(lambda: method.stepper.init(layout.field(t), t, y))
    solver_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    asks = {"ends": None, "steps": None, "dense": True}
    needs_dense = True if problem.events else asks.get(layout.config.save, jnp.asarray(True))
    start = StepStart(y, solver_state, t, t, needs_dense)
    shapes = residual_shapes(layout, start, method.max_steps)
    return dataclasses.replace(recorder, residuals=shapes)
