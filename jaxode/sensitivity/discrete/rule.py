"""The gradient rule of one solve by replay."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...integrate.forward import Result, run
from ...integrate.ivp import Plan, Problem
from ..ad_direction import forwards_after
from .backward import Replay
from .checkpoints import Clocking, Tracing
from .events import Met
from .stage_residuals import keeping, kept_of_step
from .step_vjp import Differentiated


@eqx.filter_custom_vjp
def replayed(
    problem: Problem, plan: Plan, tracing: Tracing | Clocking, stages: bool = False
) -> Result:
    """Run `problem`; its gradient replays the steps that `tracing` records, and their `stages`."""
    return run(problem, plan)[0]


@replayed.def_fwd
@forwards_after
def _forward(
    perturbed: PyTree,
    problem: Problem,
    plan: Plan,
    tracing: Tracing | Clocking,
    stages: bool = False,
) -> tuple[Result, Any]:
    step = None
    if stages and isinstance(tracing, Tracing):
        part = Differentiated.of(perturbed, problem, plan)
        step, tracing = keeping(part), with_stages(tracing, part)
    result, trace = run(problem, plan, tracing, step)
    # `perturbed` rides along as Python booleans, which stay static through a jitted gradient.
    return result, (trace, result.status, result.stats.num_accepted, result.log, perturbed)


@replayed.def_bwd
@forwards_after
def _backward(
    residuals: Any,
    cotangents: Result,
    _: PyTree,
    problem: Problem,
    plan: Plan,
    tracing: Tracing | Clocking,
    stages: bool = False,
) -> PyTree:
    trace, status, num_accepted, log, perturbed = residuals
    part, walks = Differentiated.of(perturbed, problem, plan), isinstance(tracing, Clocking)
    met = Met(part, log, cotangents) if problem.watched else None
    replay = Replay(part, trace, cotangents, met, walks)
    end = replay.steps(replay.start(status), num_accepted)
    return eqx.filter(replay.finish(end, num_accepted), perturbed)


def with_stages(tracing: Tracing, part: Differentiated) -> Tracing:
    """`tracing`, with places for what is kept of the stages."""
    problem, method = part.problem, part.plan.method
    t, y = problem.ts[0], problem.y0
    carry = jax.eval_shape(lambda: method.stepper.init(part.field(t), t, y))
    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), carry)
    inside = {"ends": None, "steps": None, "dense": True}.get(part.plan.save, jnp.asarray(True))
    if problem.events:
        inside = True
    shapes = kept_of_step(part, (y, carry, t, t, inside), method.max_steps)
    return dataclasses.replace(tracing, residuals=shapes)
