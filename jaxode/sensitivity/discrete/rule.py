"""The gradient rule of one solve by replay."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...integrate.forward import Result, solve_forward
from ...integrate.ivp import IVP, SolveConfig
from ..ad_direction import forwards_after
from .backward import DiscreteBackward
from .checkpoints import CheckpointRecorder, TimeRecorder
from .events import EventVJP
from .stage_residuals import keeping, kept_of_step
from .step_vjp import StepVJP


@eqx.filter_custom_vjp
def solve_discrete(
    problem: IVP,
    config: SolveConfig,
    tracing: CheckpointRecorder | TimeRecorder,
    stages: bool = False,
) -> Result:
    """Run `problem`; its gradient replays the steps that `tracing` records, and their `stages`."""
    return solve_forward(problem, config)[0]


@solve_discrete.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree,
    problem: IVP,
    config: SolveConfig,
    tracing: CheckpointRecorder | TimeRecorder,
    stages: bool = False,
) -> tuple[Result, Any]:
    step = None
    if stages and isinstance(tracing, CheckpointRecorder):
        part = StepVJP.of(perturbed, problem, config)
        step, tracing = keeping(part), with_stages(tracing, part)
    result, trace = solve_forward(problem, config, tracing, step)
    # `perturbed` rides along as Python booleans, which stay static through a jitted gradient.
    return result, (trace, result.status, result.stats.num_accepted, result.log, perturbed)


@solve_discrete.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    problem: IVP,
    config: SolveConfig,
    tracing: CheckpointRecorder | TimeRecorder,
    stages: bool = False,
) -> PyTree:
    trace, status, num_accepted, log, perturbed = residuals
    part, walks = StepVJP.of(perturbed, problem, config), isinstance(tracing, TimeRecorder)
    met = EventVJP(part, log, cotangents) if problem.has_events else None
    replay = DiscreteBackward(part, trace, cotangents, met, walks)
    end = replay.steps(replay.start(status), num_accepted)
    return eqx.filter(replay.finish(end, num_accepted), perturbed)


def with_stages(tracing: CheckpointRecorder, part: StepVJP) -> CheckpointRecorder:
    """`tracing`, with places for what is kept of the stages."""
    problem, method = part.problem, part.config.method
    t, y = problem.ts[0], problem.y0
    carry = jax.eval_shape(lambda: method.stepper.init(part.field(t), t, y))
    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry)
    inside = {"ends": None, "steps": None, "dense": True}.get(part.config.save, jnp.asarray(True))
    if problem.events:
        inside = True
    shapes = kept_of_step(part, (y, carry, t, t, inside), method.max_steps)
    return dataclasses.replace(tracing, residuals=shapes)
