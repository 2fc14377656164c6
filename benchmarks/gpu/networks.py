"""Neural ODEs of two components: a tanh network of two hidden layers, samples of its own steps."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu.ensemble import Ensemble

RTOL, ATOL = 1e-4, 1e-6
# Larger batches repeat these, so that a gradient's exact value is theirs.
UNLIKE = 256
Layers = list[tuple[Array, Array]]


def field(t: Array, y: Array, layers: Layers) -> Array:
    *hidden, (last, bias) = layers
    for weight, shift in hidden:
        y = jnp.tanh(weight @ y + shift)
    return last @ y + bias


def ensemble(width: int, count: int) -> Ensemble:
    """Samples that share the weights of a network 2-width-width-2."""
    draw = np.random.default_rng(0)
    sizes = (2, width, width, 2)
    layers = [(draw.normal(size=(b, a)) / a**0.5, np.zeros(b)) for a, b in pairwise(sizes)]
    few = draw.normal(size=(min(count, UNLIKE), 2))
    y0 = np.tile(few, (-(-count // len(few)), 1))[:count]
    return Ensemble(field, layers, y0, 1.0, (None, 0), RTOL, ATOL, unlike=UNLIKE)
