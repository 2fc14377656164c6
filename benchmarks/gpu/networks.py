"""Ensembles of neural ODEs with two components: a tanh network with two hidden layers."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu.ensemble import GpuEnsemble

RTOL, ATOL = 1e-4, 1e-6
# Larger batches repeat these samples, so that the exact gradient is that of the distinct samples.
DISTINCT = 256
Layers = list[tuple[Array, Array]]


def network_field(t: Array, y: Array, layers: Layers) -> Array:
    """The network as an autonomous vector field."""
    *hidden, (last, bias) = layers
    for weight, shift in hidden:
        y = jnp.tanh(weight @ y + shift)
    return last @ y + bias


def network_ensemble(width: int, count: int) -> GpuEnsemble:
    """Samples that share the weights of a network 2-width-width-2."""
    rng = np.random.default_rng(0)
    sizes = (2, width, width, 2)
    layers = [(rng.normal(size=(b, a)) / a**0.5, np.zeros(b)) for a, b in pairwise(sizes)]
    samples = rng.normal(size=(min(count, DISTINCT), 2))
    y0 = np.tile(samples, (-(-count // len(samples)), 1))[:count]
    return GpuEnsemble(network_field, layers, y0, 1.0, (None, 0), RTOL, ATOL, distinct=DISTINCT)
