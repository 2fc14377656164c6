"""Robertson's problem with many rates: Rodas5P beside diffrax's Kvaerno5, in float64."""

import numpy as np

from benchmarks.gpu.ensemble import Ensemble
from benchmarks.gpu.ensemble_jobs import jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes
from benchmarks.problems.stiff import ROBER

RTOL, ATOL = 1e-6, 1e-9
SPREAD = 1.3


def ensemble(count: int, end: float) -> Ensemble:
    """With rates of their own."""
    factors = np.random.default_rng(0).uniform(-np.log(SPREAD), np.log(SPREAD), (count, 3))
    rates = np.exp(factors) * np.array(ROBER.rates)
    return Ensemble(
        ROBER.field, rates, np.array(ROBER.y0), end, (0, None), RTOL, ATOL, "rodas5p",
        dtype=np.float64,
    )  # fmt: skip


def section(sizes: Sizes) -> Section:
    found = [
        job for n in sizes.rober for job in jobs("end states", ensemble(n, sizes.rober_end))
    ]  # fmt: skip
    text = (
        f"Each of the three rates times a factor of its own, log-uniform from 1/{SPREAD} to "
        f"{SPREAD}; t from 0 to {sizes.rober_end:g}; rtol {RTOL:g}, atol {ATOL:g} (the second "
        "component is about 1e-6). jaxode by Rodas5P, diffrax by Kvaerno5."
    )
    return Section("ROBER with many rates, float64", text, found, x64=True)
