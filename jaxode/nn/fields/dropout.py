"""Dropout for fields, with one mask for a whole solve."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from ...problem.errors import FieldError, OptionError
from ...problem.validation import check_count, check_flag, real_number
from ..per_solve_random import SampledPerSolve


class Dropout(SampledPerSolve):
    """Dropout whose mask is drawn once for each solve and each sample.

    A mask that changed from stage to stage would make the field random, and an adaptive solver
    would take tiny steps. Models of `jo.nn` draw the mask when they are called with `key=`;
    `eqx.nn.inference_mode(model)` turns dropout off, and then no key is needed.

    **Arguments:**

    - `p`: the probability that a feature is set to zero; the others are divided by `1 - p`.
    - `shape`: of the input, an integer for a vector; or a shape that
      broadcasts to it, such as `(channels, 1, 1)` to drop whole channels.

    A layer of `(x)`.

    **Raises:** `OptionError` unless `0 <= p < 1` and `shape` is of positive integers; called,
    `FieldError` without a mask.

    Source: Srivastava et al. (2014); one mask for all times: Gal and Ghahramani (2016), arXiv
    1512.05287.
    """

    p: float = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    # Not static: eqx.nn.inference_mode sets it.
    inference: bool
    random_value: Bool[Array, "..."] | None

    def __init__(self, p: float, shape: int | Sequence[int], *, inference: bool = False) -> None:
        self.p = real_number(p)
        if not 0 <= self.p < 1:
            raise OptionError(f"Dropout: p must be at least 0 and below 1, got {p!r}")
        sizes = shape if isinstance(shape, tuple | list) else (shape,)
        self.shape = tuple(check_count("Dropout: shape", size) for size in sizes)
        self.inference = check_flag("Dropout: inference", inference)
        self.random_value = None

    def draw(self, key: Array) -> Array:
        """Draw the mask of one sample, True where a feature is kept."""
        return jax.random.bernoulli(key, 1 - self.p, self.shape)

    def is_random(self) -> bool:
        """Tell whether dropout is on and `p` is positive."""
        return not self.inference and self.p > 0

    def __call__(self, x: Array, *, key: Array | None = None) -> Array:
        """Apply the mask; `key`, which `eqx.nn.Sequential` passes, is ignored."""
        if not self.is_random():
            return x
        if self.random_value is None:
            raise FieldError(
                "Dropout has no mask: call the model with key=jax.random.key(...), or turn dropout "
                "off by eqx.nn.inference_mode(model)"
            )
        if not self._fits(x.shape):
            raise FieldError(f"Dropout: the mask of shape {self.shape} does not fit x of {x.shape}")
        return jnp.where(self.random_value, x / (1 - self.p), 0)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        try:
            return np.broadcast_shapes(shape, self.shape) == shape
        except ValueError:
            return False
