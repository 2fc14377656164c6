"""Gradients of Lorenz ensembles by each one's rho."""

from benchmarks.gpu.ensemble import gradient
from benchmarks.gpu.ensemble_jobs import jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sections.lorenz import ensemble
from benchmarks.gpu.sizes import Sizes

TOL = 1e-6


def section(sizes: Sizes) -> Section:
    found = [
        job for n in sizes.gradients for job in jobs("by rho", ensemble(n, TOL, 1e-3), gradient)
    ]
    text = (
        f"Value and gradient of the mean square of the end states at t = 1, rtol = atol = {TOL:g}; "
        "jaxode by `Discrete`, diffrax by `RecursiveCheckpointAdjoint`. Steps are those forward."
    )
    return Section("Gradients of Lorenz ensembles by rho, Tsit5, float32", text, found)
