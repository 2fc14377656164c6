"""Ensembles by diffrax under `vmap`: Tsit5, or Kvaerno5 where jaxode has a Rosenbrock method."""

from typing import Any, cast

import jax
from jax import Array

from benchmarks.gpu.ensemble import EndStates, GpuEnsemble
from benchmarks.harness.peers import diffrax_stiff, diffrax_tsit5


def diffrax_ends(e: GpuEnsemble) -> EndStates:
    """End states and numbers of steps, with `RecursiveCheckpointAdjoint`."""

    def end_state(args: Any, y0: Array, ts: Array) -> tuple[Array, Array]:
        if e.solver == "tsit5":
            solution = diffrax_tsit5(
                e.field, y0, ts, args, e.rtol, e.atol, ends=True, dt=e.dt, fixed=e.fixed,
                throw=False,
            )  # fmt: skip
        else:
            solution = diffrax_stiff(e.field, args, y0, ts, e.rtol, e.atol, 4096)
        return cast(Array, solution.ys)[-1], solution.stats["num_steps"]

    return end_state if e.single else jax.vmap(end_state, (*e.axes, None))
