"""Spectral normalisation of weights, computed once per solve instead of at every stage."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ...problem.errors import OptionError
from ...problem.validation import check_count
from ..per_solve_random import Reparametrised

_TINY = 1e-12
# Power iterations when the module is made; those of each solve start from their result.
_FIRST_ITERATIONS = 100


class SpectralNorm(Reparametrised):
    """A layer whose weight is divided by its largest singular value.

    A linear layer then has a Lipschitz constant of 1, which bounds how fast solutions separate. The
    singular value is computed by power iterations that start from the vector found when the module
    was made: a few track the weights during training. Models of `jo.nn` run them once per solve.

    **Arguments:**

    - `layer`: `eqx.nn.Linear`, `eqx.nn.Conv2d` or any layer with a `weight`; a kernel is a
      matrix of its first axis by the others, as in the source.
    - `num_power_iterations`: in each solve.

    A layer of `(x)`.

    **Raises:** `OptionError` for a layer without a weight, or fewer than one iteration.

    Source: Miyato et al., Spectral normalization (2018), arXiv 1802.05957.
    """

    layer: Any
    left: Float[Array, " out"]
    num_power_iterations: int = eqx.field(static=True)

    def __init__(self, layer: Any, num_power_iterations: int = 10) -> None:
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Array) or weight.ndim < 2:
            raise OptionError(
                f"SpectralNorm: layer must have a weight matrix or kernel, got {layer!r}"
            )
        self.layer = layer
        self.num_power_iterations = check_count(
            "SpectralNorm: num_power_iterations", num_power_iterations
        )
        matrix = weight.reshape(weight.shape[0], -1)
        start = jax.random.normal(jax.random.key(0), weight.shape[:1], weight.dtype)
        self.left = _iterate(matrix, start, _FIRST_ITERATIONS)

    def materialise(self) -> Any:
        """The plain layer with the normalised weight."""
        weight = self.layer.weight
        matrix = weight.reshape(weight.shape[0], -1)
        # The singular value's derivative is that of u' W v with both vectors held fixed.
        fixed = jax.lax.stop_gradient(matrix)
        left = _iterate(fixed, jax.lax.stop_gradient(self.left), self.num_power_iterations)
        largest = left @ matrix @ _unit(left @ fixed)
        normalised = weight / (largest + _TINY)
        return eqx.tree_at(lambda layer: layer.weight, self.layer, normalised)

    def __call__(self, x: Array, *, key: Array | None = None) -> Array:
        """The layer with the normalised weight; `key` is ignored."""
        return self.materialise()(x)


def _unit(vector: Array) -> Array:
    return vector / (jnp.linalg.norm(vector) + _TINY)


def _iterate(matrix: Array, left: Array, iterations: int) -> Array:
    """The left singular vector after `count` power iterations."""
    return jax.lax.fori_loop(
        0, iterations, lambda _, left: _unit(matrix @ _unit(left @ matrix)), _unit(left)
    )
