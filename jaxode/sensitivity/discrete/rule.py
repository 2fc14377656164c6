"""The derivative rule of one solve by the discrete adjoint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...integrate.forward import Result, solve_forward
from ...integrate.ivp import IVP, SolveConfig
from ..vjp_rule import with_vjp
from .backward import DiscreteBackward
from .checkpoints import CheckpointRecorder, TimeRecorder
from .events import EventVJP
from .stage_residuals import keeping, kept_of_step
from .step_vjp import StepVJP


def _forward(
    perturbed: PyTree,
    problem: IVP,
    config: SolveConfig,
    recorder: CheckpointRecorder | TimeRecorder,
    stages: bool,
) -> tuple[Result, Any]:
    step = None
    if stages and isinstance(recorder, CheckpointRecorder):
        part = StepVJP.of(perturbed, problem, config)
        step, recorder = keeping(part), with_stages(recorder, part)
    result, trace = solve_forward(problem, config, recorder, step)
    return result, (trace, result.status, result.stats.num_accepted, result.log)


def _backward(
    perturbed: PyTree,
    residuals: Any,
    cotangents: Result,
    problem: IVP,
    config: SolveConfig,
    recorder: CheckpointRecorder | TimeRecorder,
    stages: bool,
) -> PyTree:
    trace, status, num_accepted, log = residuals
    part, walks = StepVJP.of(perturbed, problem, config), isinstance(recorder, TimeRecorder)
    met = EventVJP(part, log, cotangents) if problem.has_events else None
    replay = DiscreteBackward(part, trace, cotangents, met, walks)
    end = replay.steps(replay.start(status), num_accepted)
    return replay.finish(end, num_accepted)


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


def with_stages(recorder: CheckpointRecorder, part: StepVJP) -> CheckpointRecorder:
    """Return the recorder with buffers for what the backward pass reads of the stages."""
    problem, method = part.problem, part.config.method
    t, y = problem.ts[0], problem.y0
    carry = jax.eval_shape(lambda: method.stepper.init(part.field(t), t, y))
    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry)
    inside = {"ends": None, "steps": None, "dense": True}.get(part.config.save, jnp.asarray(True))
    if problem.events:
        inside = True
    shapes = kept_of_step(part, (y, carry, t, t, inside), method.max_steps)
    return dataclasses.replace(recorder, residuals=shapes)
