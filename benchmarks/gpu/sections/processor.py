"""The training step of `neural` on the processor: what a GPU has to be faster than."""

from benchmarks.gpu.ensemble import gradient
from benchmarks.gpu.ensemble_jobs import XLA, jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.networks import ensemble
from benchmarks.gpu.sections.neural import TRAINING, WIDTH
from benchmarks.gpu.sizes import Sizes


def section(sizes: Sizes) -> Section:
    found = [
        job for n in sizes.processor for job in jobs(TRAINING, ensemble(WIDTH, n), gradient, (XLA,))
    ]
    text = "By jaxode without a GPU, where JAX takes as many threads as it likes."
    return Section("The same training step on the processor, float32", text, found)
