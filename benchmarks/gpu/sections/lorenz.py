"""Lorenz ensembles of all sizes by Tsit5 in float32, with adaptive and with constant steps."""

from functools import partial

import numpy as np

from benchmarks.gpu.ensemble import GpuEnsemble, forward
from benchmarks.gpu.ensemble_jobs import ensemble_jobs, torchdiffeq_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.torchdiffeq_peer import torchdiffeq_lorenz
from benchmarks.problems.lorenz import lorenz_of_rho

TOL = 1e-8
Y0 = np.array([1.0, 0.0, 0.0], np.float32)
ADAPTIVE, CONSTANT = "adaptive", "constant steps"


def lorenz_ensemble(count: int, tol: float, dt: float, fixed: bool = False) -> GpuEnsemble:
    """Lorenz systems with rho from 0 to 21."""
    rhos = np.linspace(0.0, 21.0, count, dtype=np.float32)
    return GpuEnsemble(lorenz_of_rho, rhos, Y0, 1.0, (0, None), tol, tol, dt=dt, fixed=fixed)


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = []
    for count in sizes.ensembles:
        for work, dt, fixed in ((ADAPTIVE, 1e-3, False), (CONSTANT, sizes.dt, True)):
            ensemble = lorenz_ensemble(count, TOL, dt, fixed)
            found += ensemble_jobs(work, ensemble)
            if count in sizes.torch:
                make = partial(torchdiffeq_lorenz, ensemble)
                found += torchdiffeq_jobs(work, ensemble, forward, make)
    text = (
        f"sigma = 10, beta = 8/3, rho from 0 to 21, from (1, 0, 0); end states. Adaptive steps: "
        f"rtol = atol = {TOL:g}, first step 1e-3; constant steps: {sizes.dt:g}. torchdiffeq has "
        "one step size for all of an ensemble (dopri5; rk4, four evaluations a step)."
    )
    return Section("Lorenz ensembles to t = 1, Tsit5, float32", text, found)
