"""The training step of the section `neural` on the processor, for comparison with the GPU."""

from benchmarks.gpu.ensemble import gradient
from benchmarks.gpu.ensemble_jobs import XLA, ensemble_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.networks import network_ensemble
from benchmarks.gpu.sections.neural import TRAINING, WIDTH
from benchmarks.gpu.sizes import Sizes


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    found = [
        job
        for count in sizes.processor
        for job in ensemble_jobs(TRAINING, network_ensemble(WIDTH, count), gradient, (XLA,))
    ]
    text = "By jaxode without a GPU, where JAX chooses the number of threads."
    return Section("The training step of the neural ODE on the processor, float32", text, found)
