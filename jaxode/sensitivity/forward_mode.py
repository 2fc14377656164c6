"""Forward mode: tangents that travel through the loop beside the state."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..batch import queue as tiles
from ..batch.forward import Run
from ..batch.queue import Tile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result, run
from ..integrate.ivp import Plan, Problem
from ..kernels.dispatch import Engine
from ..kernels.lowering.unsupported import NoKernelError
from .ad_direction import FORWARD, forwards_only
from .batch_cotangents import where_known

Tree = TypeVar("Tree")


class Forward(eqx.Module):
    """Exact tangents of the computed solution, step sizes held fixed: `jax.jvp`, `jax.jacfwd`.

    One pass, without anything kept of it: the cheapest where few numbers are differentiated by,
    and many come out. It nests: `jax.jacfwd` of `jax.jacfwd` is a Hessian. Works with every solver
    and every `save`. Where a solve fails, the tangents of what was not reached are NaN.

    **Raises:** `DifferentiationError` if it is differentiated backwards, by `jax.grad` for
    example; `jo.Discrete()` is for that.
    """

    def solve(self, problem: Problem, plan: Plan) -> Result:
        """Run `problem`; JAX differentiates the run."""
        return _finished(run(problem, plan)[0])

    def solve_batch(self, ensemble: Ensemble, tile: Tile) -> Result:
        """Run all of `ensemble`; JAX differentiates the run."""
        run = Run(ensemble, tile)
        return _finished(run.close(tiles.run(run.work(), tile, (run.open(), None))))

    def in_kernel(self, ensemble: Ensemble, tile: Tile, engine: Engine) -> Result:
        """**Raises:** `NoKernelError`: there is none."""
        raise NoKernelError("jo.Forward() has none, jo.Discrete() has")


def _finished(result: Result) -> Result:
    ys, y1 = jax.tree.map(_unknown, (result.ys, result.y1))
    return forwards_only(result._replace(ys=ys, y1=y1), FORWARD)


def _unknown(x: Array) -> Array:
    """The same, but the tangents of NaN are NaN: as it was written, it is a constant."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return where_known(~jnp.isnan(x), x)
