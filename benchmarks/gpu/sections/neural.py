"""A neural ODE 2-64-64-2, each sample with its own steps: end states, and a training step."""

from functools import partial

from benchmarks.gpu.ensemble import forward, gradient
from benchmarks.gpu.ensemble_jobs import ensemble_jobs, torchdiffeq_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.networks import ATOL, DISTINCT, RTOL, network_ensemble
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.torchdiffeq_peer import torchdiffeq_network

WIDTH = 64
FORWARD, TRAINING = "end states", "value and gradient"
QUANTITIES = {FORWARD: forward, TRAINING: gradient}


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = []
    for count in sizes.neural:
        ensemble = network_ensemble(WIDTH, count)
        for work, quantity in QUANTITIES.items():
            found += ensemble_jobs(work, ensemble, quantity)
            make = partial(torchdiffeq_network, ensemble, quantity is gradient)
            found += torchdiffeq_jobs(work, ensemble, quantity, make)
    text = (
        f"Tsit5, rtol {RTOL:g}, atol {ATOL:g}; the loss is the mean square of the end states, the "
        f"gradient is by the weights. Batches of more than {DISTINCT} samples repeat these. "
        "Matrix products have the device's default precision. torchdiffeq has "
        "one step size for a batch."
    )
    return Section("Neural ODE 2-64-64-2 tanh, float32", text, found)
