"""Forward mode: tangents that travel through the loop beside the state."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..batch import queue as tiles
from ..batch.forward import BatchRun
from ..batch.queue import LaneTile
from ..integrate.ensemble import Ensemble
from ..integrate.forward import Result, run
from ..integrate.ivp import IVP, SolveConfig
from ..kernels.dispatch import KernelPolicy
from ..kernels.lowering.unsupported import NoKernelError
from .ad_direction import FORWARD, forwards_only
from .batch_cotangents import nan_unless

Tree = TypeVar("Tree")


class Forward(eqx.Module):
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
        return _finished(
            run.gather_results(tiles.run(run.lane_program(), tile, (run.initial_record(), None)))
        )

    def in_kernel(self, ensemble: Ensemble, tile: LaneTile, engine: KernelPolicy) -> Result:
        """**Raises:** `NoKernelError`: there is none."""
        raise NoKernelError("jo.Forward() has none, jo.Discrete() has")


def _finished(result: Result) -> Result:
    ys, y1 = jax.tree.map(_unknown, (result.ys, result.y1))
    return forwards_only(result._replace(ys=ys, y1=y1), FORWARD)


def _unknown(x: Array) -> Array:
    """The same, but the tangents of NaN are NaN: as it was written, it is a constant."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return nan_unless(~jnp.isnan(x), x)
