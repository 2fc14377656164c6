"""States and networks of growing size, by a kernel and by XLA, to find where a kernel pays."""

import numpy as np

from benchmarks.gpu.ensemble import GpuEnsemble, forward, gradient
from benchmarks.gpu.ensemble_jobs import KERNEL, XLA, ensemble_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.networks import network_ensemble
from benchmarks.gpu.sizes import Sizes
from benchmarks.problems.lorenz_96 import lorenz_96

RTOL, ATOL = 1e-5, 1e-7
QUANTITIES = {"forward": forward, "gradient": gradient}
STATE, WIDTH = "Lorenz-96, state", "network, width"
# The works of this section, with a place for the size.
WORKS = tuple(f"{family} {{}}, {name}" for family in (STATE, WIDTH) for name in QUANTITIES)


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = []
    for name, quantity in QUANTITIES.items():
        # Gradients take the longest to compile, so only the largest ensembles have them.
        for count in sizes.thresholds if quantity is forward else sizes.thresholds[-1:]:
            for size in sizes.states:
                ensemble, work = lorenz_96_ensemble(size, count), f"{STATE} {size}, {name}"
                found += ensemble_jobs(work, ensemble, quantity, (KERNEL, XLA))
            for width in sizes.widths:
                ensemble, work = network_ensemble(width, count), f"{WIDTH} {width}, {name}"
                found += ensemble_jobs(work, ensemble, quantity, (KERNEL, XLA))
    text = (
        "Lorenz-96 to t = 1, Tsit5, gradients by the forcing of each trajectory, rtol "
        f"{RTOL:g}, atol {ATOL:g}; networks 2-width-width-2 as above, gradients by their "
        'weights. "Times as fast" is the time of the XLA path over that of the kernel.'
    )
    title = "Where a kernel pays: sizes of states, widths of networks, float32"
    return Section(title, text, found, base=XLA)


def lorenz_96_ensemble(size: int, count: int) -> GpuEnsemble:
    """Lorenz-96 systems with states of `size` components, each with its own forcing."""
    forcing = np.linspace(1.0, 8.0, count)
    y0 = 1 + 0.1 * np.sin(np.arange(size))
    return GpuEnsemble(lorenz_96, forcing, y0, 1.0, (0, None), RTOL, ATOL)
