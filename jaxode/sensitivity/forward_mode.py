"""Forward mode: tangents that travel through the loop beside the state."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..batch import queue as tiles
from ..batch.forward import BatchRun
from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result, run
from ..integrate.ivp import IVP, SolveConfig
from .ad_direction import FORWARD, forwards_only
from .base import Sensitivity
from .batch_cotangents import nan_unless

Tree = TypeVar("Tree")


class Forward(Sensitivity):
    """Exact tangents of the computed solution, step sizes held fixed: `jax.jvp`, `jax.jacfwd`.

    One pass, without anything kept of it: the cheapest where few numbers are differentiated by,
    and many come out. It nests: `jax.jacfwd` of `jax.jacfwd` is a Hessian. Works with every solver
    and every `save`. Where a solve fails, the tangents of what was not reached are NaN.

    **Raises:** `DifferentiationError` if it is differentiated backwards, by `jax.grad` for
    example; `jo.Discrete()` is for that.
    """

    def solve(self, problem: IVP, config: SolveConfig) -> Result:
        """Run `problem`; JAX differentiates the run."""
        return _finished(run(problem, config)[0])

    def solve_batch(self, ensemble: Ensemble, tile: LaneTile) -> Result:
        """Run all of `ensemble`; JAX differentiates the run."""
        run = BatchRun(ensemble, tile)
        return _finished(run.close(tiles.run(run.work(), tile, (run.open(), None))))

    def restrict_direction(self, inputs: PyTree) -> PyTree:
        """The inputs of a solve as they are: its result is marked instead."""
        return inputs


def _finished(result: Result) -> Result:
    ys, y1 = jax.tree.map(_unknown, (result.ys, result.y1))
    return forwards_only(result._replace(ys=ys, y1=y1), FORWARD)


def _unknown(x: Array) -> Array:
    """The same, but the tangents of NaN are NaN: as it was written, it is a constant."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return nan_unless(~jnp.isnan(x), x)
