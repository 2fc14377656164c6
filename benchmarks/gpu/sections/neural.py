"""A neural ODE 2-64-64-2, each sample with steps of its own: forward, and a training step."""

from functools import partial

from benchmarks.gpu import torchdiffeq_peer as peer_torch
from benchmarks.gpu.ensemble import forward, gradient
from benchmarks.gpu.ensemble_jobs import jobs, torch_job
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.networks import ATOL, RTOL, UNLIKE, ensemble
from benchmarks.gpu.sizes import Sizes

WIDTH = 64
FORWARD, TRAINING = "end states", "value and gradient"
WORKS = {FORWARD: forward, TRAINING: gradient}


def section(sizes: Sizes) -> Section:
    found = []
    for count in sizes.neural:
        one = ensemble(WIDTH, count)
        for work, what in WORKS.items():
            found += jobs(work, one, what)
            make = partial(peer_torch.neural, one, what is gradient)
            found += torch_job(work, one, what, make)
    text = (
        f"Tsit5, rtol {RTOL:g}, atol {ATOL:g}; the loss is the mean square of the end states, the "
        f"gradient that by the weights. Batches of more than {UNLIKE} samples repeat these. "
        "Products of matrices are as precise as the device has them by default. torchdiffeq has "
        "one step size for a batch."
    )
    return Section("Neural ODE 2-64-64-2 tanh, float32", text, found)
