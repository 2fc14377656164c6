"""Layers that depend on time: the gated and shifted layers of FFJORD, and ConcatConv2d."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ...problem.validation import check_count, check_counts, check_key
from ..convolution import convolve
from .checks import check_callable, check_convolution
from .concat import with_time
from .sequential import Sequential


class ConcatSquash(eqx.Module):
    """A linear layer gated by the time: `(W x + b) * sigmoid(w_g t + b_g) + w_b t`.

    **Arguments:**

    - `in_features`, `out_features`: sizes of `x` and of the result.

    A layer of `(t, x)`, for `jo.nn.Sequential`.

    Source: Grathwohl et al., FFJORD (2019), arXiv 1810.01367, and its code.
    """

    layer: eqx.nn.Linear
    gate: eqx.nn.Linear
    shift: eqx.nn.Linear

    def __init__(self, in_features: int, out_features: int, *, key: Array) -> None:
        sizes = {"in_features": in_features, "out_features": out_features}
        in_features, out_features = check_counts("ConcatSquash", **sizes)
        first, second, third = jax.random.split(check_key(key), 3)
        self.layer = eqx.nn.Linear(in_features, out_features, key=first)
        self.gate = eqx.nn.Linear(1, out_features, key=second)
        self.shift = eqx.nn.Linear(1, out_features, use_bias=False, key=third)

    def __call__(self, t: Array, x: Float[Array, " features"]) -> Float[Array, " out"]:
        """The layer at time `t`."""
        return _gate_and_shift(self, t, x, self.layer(x))


class ConcatSquashConv2d(eqx.Module):
    """A convolution gated by the time, channel by channel, as `ConcatSquash`.

    **Arguments:**

    - `in_channels`, `out_channels`, `kernel_size`: as of `eqx.nn.Conv2d`; so are the options
      `stride`, `padding`, `dilation` and others.

    A layer of `(t, x)` for images `(channels, height, width)`.

    Source: Grathwohl et al., FFJORD (2019), arXiv 1810.01367, and its code.
    """

    layer: eqx.nn.Conv2d
    gate: eqx.nn.Linear
    shift: eqx.nn.Linear

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, *, key: Array, **options: Any
    ) -> None:
        check_convolution("ConcatSquashConv2d", in_channels, out_channels, kernel_size)
        first, second, third = jax.random.split(check_key(key), 3)
        self.layer = eqx.nn.Conv2d(in_channels, out_channels, kernel_size, key=first, **options)
        self.gate = eqx.nn.Linear(1, out_channels, key=second)
        self.shift = eqx.nn.Linear(1, out_channels, use_bias=False, key=third)

    def __call__(self, t: Array, x: Float[Array, "c h w"]) -> Float[Array, "out h2 w2"]:
        """The layer at time `t`."""
        return _gate_and_shift(self, t, x, convolve(self.layer, x))


class ConcatConv2d(eqx.Module):
    """A convolution with the time as one more channel.

    **Arguments:**

    - `in_channels`: of the image; the inner convolution has one more.
    - `out_channels`, `kernel_size`: as of `eqx.nn.Conv2d`; so are the options `stride`, `padding`,
      `dilation` and others.

    A layer of `(t, x)` for images `(channels, height, width)`.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366.
    """

    layer: eqx.nn.Conv2d

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, *, key: Array, **options: Any
    ) -> None:
        check_convolution("ConcatConv2d", in_channels, out_channels, kernel_size)
        check_key(key)
        self.layer = eqx.nn.Conv2d(in_channels + 1, out_channels, kernel_size, key=key, **options)

    def __call__(self, t: Array, x: Float[Array, "c h w"]) -> Float[Array, "out h2 w2"]:
        """The layer at time `t`."""
        return convolve(self.layer, with_time(t, x))


def concat_squash_mlp(
    size: int, width: int, depth: int, *, activation: Callable = jnp.tanh, key: Array
) -> Sequential:
    """The network of FFJORD: `depth` `ConcatSquash` layers of `width`, and one to `size`.

    **Raises:** `OptionError` for sizes that are not positive integers.
    """
    size, width = check_counts("concat_squash_mlp", size=size, width=width)
    depth = check_count("concat_squash_mlp: depth", depth, least=0)
    sizes = [size, *[width] * depth, size]
    check_callable("concat_squash_mlp", "activation", activation)
    keys = jax.random.split(check_key(key), depth + 1)
    layers: list[Any] = []
    for size_in, size_out, layer_key in zip(sizes[:-1], sizes[1:], keys, strict=True):
        layers += [ConcatSquash(size_in, size_out, key=layer_key), activation]
    return Sequential(layers[:-1])


def _gate_and_shift(layer: Any, t: Array, x: Array, output: Array) -> Array:
    time = jnp.full((1,), t, x.dtype)
    shape = (-1,) + (1,) * (output.ndim - 1)
    gate, shift = jax.nn.sigmoid(layer.gate(time)), layer.shift(time)
    return output * gate.reshape(shape) + shift.reshape(shape)
