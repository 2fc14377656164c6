"""Dropout for fields, with one mask for a whole solve."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, UInt32

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
      broadcasts to it, such as `(channels, 1, 1)` to drop whole channels. If None the shape is that
      of each input, and the mask, the same at all times, is drawn from one key whenever the layer
      is called, which may take longer than the layers around it: with a shape it is drawn once.

    A layer of `(x)`.

    **Raises:** `OptionError` unless `0 <= p < 1` and `shape` is None or of positive integers;
    called, `FieldError` without a mask.

    Source: Srivastava et al. (2014); one mask for all times: Gal and Ghahramani (2016), arXiv
    1512.05287.
    """

    p: float = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)
    # Not static: eqx.nn.inference_mode sets it.
    inference: bool
    # Without a shape, two words of a key.
    random_value: Bool[Array, "..."] | UInt32[Array, "2"] | None

    def __init__(
        self, p: float, shape: int | Sequence[int] | None = None, *, inference: bool = False
    ) -> None:
        self.p = real_number(p)
        if not 0 <= self.p < 1:
            raise OptionError(f"Dropout: p must be at least 0 and below 1, got {p!r}")
        sizes = shape if isinstance(shape, tuple | list) else (shape,)
        checked = None if shape is None else [check_count("Dropout: shape", n) for n in sizes]
        self.shape = None if checked is None else tuple(checked)
        self.inference = check_flag("Dropout: inference", inference)
        self.random_value = None

    def draw(self, key: Array) -> Array:
        """Draw the mask of one sample, True where a feature is kept, or without a shape its key."""
        if self.shape is None:
            return jax.random.bits(key, (2,), jnp.uint32)
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
        return jnp.where(self._mask(x.shape), x / (1 - self.p), 0)

    def _mask(self, shape: tuple[int, ...]) -> Array:
        """The mask of an input of a shape. **Raises:** `FieldError` if it has another one."""
        assert self.random_value is not None
        if self.shape is None:
            key = jax.random.wrap_key_data(self.random_value, impl="threefry2x32")
            return jax.random.bernoulli(key, 1 - self.p, shape)
        if not _broadcasts_to(self.shape, shape):
            raise FieldError(f"Dropout: the mask of shape {self.shape} does not fit x of {shape}")
        return self.random_value


def _broadcasts_to(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, other) == other
    except ValueError:
        return False
