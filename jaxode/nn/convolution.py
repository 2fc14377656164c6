"""Convolution by a matrix product, which is fast inside a loop on a CPU."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def convolve(
    layer: eqx.nn.Conv2d, x: Float[Array, "channels height width"]
) -> Float[Array, "out_channels height2 width2"]:
    """Apply the layer, by a matrix product if it has no stride, dilation or groups.

    Inside a loop XLA on a CPU runs a convolution by a naive kernel. Stacking the shifted images
    (im2col) and one product avoid that, for as many times the memory of `x` as the kernel has
    entries.
    """
    if not _is_plain(layer):
        return layer(x)
    rows, columns = layer.kernel_size
    padding: Any = layer.padding
    padded = jnp.pad(x, ((0, 0), *padding))
    height, width = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    shifted = [
        padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)
    ]
    weight = jnp.moveaxis(layer.weight, 1, -1).reshape(layer.out_channels, -1)
    y = jnp.tensordot(weight, jnp.concatenate(shifted), 1)
    return y if layer.bias is None else y + layer.bias


def _is_plain(layer: eqx.nn.Conv2d) -> bool:
    dense = all(n == 1 for n in (*layer.stride, *layer.dilation, layer.groups))
    zero_padded = layer.padding_mode.upper() == "ZEROS" and not isinstance(layer.padding, str)
    return dense and zero_padded
