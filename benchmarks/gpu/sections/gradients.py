"""Gradients of Lorenz ensembles by each trajectory's rho."""

from benchmarks.gpu.ensemble import gradient
from benchmarks.gpu.ensemble_jobs import ensemble_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sections.lorenz import lorenz_ensemble
from benchmarks.gpu.sizes import Sizes

TOL = 1e-6


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = [
        job
        for count in sizes.gradients
        for job in ensemble_jobs("by rho", lorenz_ensemble(count, TOL, 1e-3), gradient)
    ]
    text = (
        f"Value and gradient of the mean square of the end states at t = 1, rtol = atol = {TOL:g}; "
        "jaxode by `Discrete`, diffrax by `RecursiveCheckpointAdjoint`. Steps are those of the "
        "forward pass."
    )
    return Section("Gradients of Lorenz ensembles by rho, Tsit5, float32", text, found)
