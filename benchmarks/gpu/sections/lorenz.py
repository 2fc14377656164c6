"""Lorenz ensembles of all sizes by Tsit5 in float32: steps that adapt, and a constant one."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu import torchdiffeq_peer as peer_torch
from benchmarks.gpu.ensemble import Ensemble, forward
from benchmarks.gpu.ensemble_jobs import jobs, torch_job
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes

TOL = 1e-8
SIGMA, BETA = 10.0, 8.0 / 3.0
START = np.array([1.0, 0.0, 0.0], np.float32)
ADAPTIVE, CONSTANT = "adaptive", "constant steps"


def field(t: Array, y: Array, rho: Array) -> Array:
    return jnp.stack([SIGMA * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - BETA * y[2]])


def ensemble(count: int, tol: float, dt: float, fixed: bool = False) -> Ensemble:
    """With rho from 0 to 21."""
    rhos = np.linspace(0.0, 21.0, count, dtype=np.float32)
    return Ensemble(field, rhos, START, 1.0, (0, None), tol, tol, dt=dt, fixed=fixed)


def section(sizes: Sizes) -> Section:
    found = []
    for count in sizes.ensembles:
        for work, dt, fixed in ((ADAPTIVE, 1e-3, False), (CONSTANT, sizes.dt, True)):
            one = ensemble(count, TOL, dt, fixed)
            found += jobs(work, one)
            if count in sizes.torch:
                found += torch_job(work, one, forward, partial(peer_torch.lorenz, one))
    text = (
        f"sigma = 10, beta = 8/3, rho from 0 to 21, from (1, 0, 0); end states. Adaptive steps: "
        f"rtol = atol = {TOL:g}, the first one 1e-3; constant ones: {sizes.dt:g}. torchdiffeq has "
        "one step size for all of an ensemble (dopri5; rk4, four evaluations a step)."
    )
    return Section("Lorenz ensembles to t = 1, Tsit5, float32", text, found)
