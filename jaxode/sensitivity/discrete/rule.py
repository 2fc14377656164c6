"""The gradient rule of one solve by replay."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...integrate.forward import Result, run
from ...integrate.ivp import IVP, SolveConfig
from ..ad_direction import forwards_after
from .backward import DiscreteBackward
from .checkpoints import CheckpointRecorder, TimeRecorder
from .layout import StepLayout
from .stage_residuals import residual_shapes, step_with_residuals
from .step_vjp import StepStart


@eqx.filter_custom_vjp
def solve_discrete(
    problem: IVP,
    config: SolveConfig,
    tracing: CheckpointRecorder | TimeRecorder,
    stages: bool = False,
) -> Result:
    """Run `problem`; its gradient replays the steps that `tracing` records, and their `stages`."""
    return run(problem, config)[0]


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
        layout = StepLayout.single(perturbed, problem, config)
        step, tracing = step_with_residuals(layout), with_stages(tracing, layout)
    result, trace = run(problem, config, tracing, step)
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
    layout = StepLayout.single(perturbed, problem, config)
    steps_back = isinstance(tracing, TimeRecorder)
    backward = DiscreteBackward.of(layout, trace, cotangents, log, steps_back)
    return eqx.filter(backward.run(status, num_accepted), perturbed)


def with_stages(tracing: CheckpointRecorder, layout: StepLayout) -> CheckpointRecorder:
    """`tracing`, with places for what is kept of the stages."""
    problem, method = layout.problem, layout.config.method
    t, y = problem.ts[0], problem.y0
    carry = jax.eval_shape(lambda: method.stepper.init(layout.field(t), t, y))
    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry)
    inside = {"ends": None, "steps": None, "dense": True}.get(layout.config.save, jnp.asarray(True))
    if problem.events:
        inside = True
    shapes = residual_shapes(layout, StepStart(y, carry, t, t, inside), method.max_steps)
    return dataclasses.replace(tracing, residuals=shapes)
