"""The training step of `neural` on the processor: what a GPU has to be faster than."""

from .comparison import XLA, jobs
from .ensemble import gradient
from .jobs import Section
from .networks import ensemble
from .neural import TRAINING, WIDTH
from .sizes import Sizes


def section(sizes: Sizes) -> Section:
    found = [
        job for n in sizes.processor for job in jobs(TRAINING, ensemble(WIDTH, n), gradient, (XLA,))
    ]
    text = "By jaxode without a GPU, where JAX takes as many threads as it likes."
    return Section("The same training step on the processor, float32", text, found)
