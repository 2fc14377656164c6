"""Robertson's problem with random rates: Rodas5P beside diffrax's Kvaerno5, in float64."""

import numpy as np

from benchmarks.gpu.ensemble import GpuEnsemble
from benchmarks.gpu.ensemble_jobs import ensemble_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes
from benchmarks.problems.stiff import ROBER

RTOL, ATOL = 1e-6, 1e-9
SPREAD = 1.3


def rober_ensemble(count: int, t1: float) -> GpuEnsemble:
    """Trajectories to `t1`, each with its own rates."""
    factors = np.random.default_rng(0).uniform(-np.log(SPREAD), np.log(SPREAD), (count, 3))
    rates = np.exp(factors) * np.array(ROBER.rates)
    return GpuEnsemble(
        ROBER.field, rates, np.array(ROBER.y0), t1, (0, None), RTOL, ATOL, "rodas5p",
        dtype=np.float64,
    )  # fmt: skip


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = [
        job
        for count in sizes.rober
        for job in ensemble_jobs("end states", rober_ensemble(count, sizes.rober_end))
    ]
    text = (
        f"Each rate of each trajectory times a random factor, log-uniform from 1/{SPREAD} to "
        f"{SPREAD}; t from 0 to {sizes.rober_end:g}; rtol {RTOL:g}, atol {ATOL:g} (the second "
        "component is about 1e-6). jaxode by Rodas5P, diffrax by Kvaerno5."
    )
    return Section("ROBER with random rates, float64", text, found, x64=True)
