"""Where a kernel stops paying: states and networks of growing size, by a kernel and by XLA."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu import networks
from benchmarks.gpu.ensemble import Ensemble, forward, gradient
from benchmarks.gpu.ensemble_jobs import KERNEL, XLA, jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes

RTOL, ATOL = 1e-5, 1e-7
WHAT = {"forward": forward, "gradient": gradient}
STATE, WIDTH = "Lorenz-96, state", "network, width"


def section(sizes: Sizes) -> Section:
    found = []
    for what, function in WHAT.items():
        # Gradients take the longest to compile: of the largest ensembles alone.
        for count in sizes.thresholds if function is forward else sizes.thresholds[-1:]:
            for size in sizes.states:
                one = states(size, count)
                found += jobs(f"{STATE} {size}, {what}", one, function, (KERNEL, XLA))
            for width in sizes.widths:
                one = networks.ensemble(width, count)
                found += jobs(f"{WIDTH} {width}, {what}", one, function, (KERNEL, XLA))
    text = (
        "Lorenz-96 with a forcing for each trajectory, by which it is differentiated, to t = 1, "
        f"Tsit5, rtol {RTOL:g}, atol {ATOL:g}; networks 2-width-width-2 as above, by their "
        'weights. "Times as fast" is the time of the XLA path over that of the kernel.'
    )
    title = "Where a kernel pays: sizes of states, widths of networks, float32"
    return Section(title, text, found, base=XLA)


def lorenz_96(t: Array, y: Array, forcing: Array) -> Array:
    return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + forcing


def states(size: int, count: int) -> Ensemble:
    forcing = np.linspace(1.0, 8.0, count)
    y0 = 1 + 0.1 * np.sin(np.arange(size))
    return Ensemble(lorenz_96, forcing, y0, 1.0, (0, None), RTOL, ATOL)
