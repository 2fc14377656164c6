"""diffrax: `vmap` of one solve, Tsit5 or, where jaxode has a Rosenbrock method, Kvaerno5."""

from typing import Any, cast

import jax
from jax import Array

from benchmarks.gpu.ensemble import Ends, Ensemble
from benchmarks.harness import peers
from benchmarks.speed.stiff_peers import diffrax_solution


def by_diffrax(e: Ensemble) -> Ends:
    """End states and steps; differentiated by `RecursiveCheckpointAdjoint`."""

    def end(args: Any, y0: Array, ts: Array) -> tuple[Array, Array]:
        if e.solver == "tsit5":
            found = peers.solution(
                e.field, y0, ts, args, e.rtol, e.atol, ends=True, dt=e.dt, fixed=e.fixed,
                throw=False,
            )  # fmt: skip
        else:
            found = diffrax_solution(e.field, args, y0, ts, e.rtol, e.atol, 4096)
        return cast(Array, found.ys)[-1], found.stats["num_steps"]

    return end if e.single else jax.vmap(end, (*e.axes, None))
