"""Convolutional neural ODEs for images: the field, the ODE block, and a classifier."""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError
from ..problem.validation import check_count, check_counts, check_key
from .batch_axes import merge, part, part_solution
from .call_arguments import with_checked_arguments
from .fields import ConcatConv2d
from .neural_ode import NeuralODE
from .solve_options import SolveOptions


class ConvField(eqx.Module):
    """A convolutional field: twice group norm, ReLU and a convolution that sees `t`, then a norm.

    **Arguments:** `channels` of the image; `groups`: the largest number of groups
    of a group norm.

    Source: Chen et al. (2018), arXiv 1806.07366, the ODE-Net of section 3.
    """

    norms: tuple[eqx.nn.GroupNorm, ...]
    convolutions: tuple[ConcatConv2d, ...]

    def __init__(self, channels: int, *, groups: int = 32, key: Array) -> None:
        channels, groups = check_counts("ConvField", channels=channels, groups=groups)
        check_key(key)
        self.norms = tuple(group_norm(channels, groups) for _ in range(3))
        self.convolutions = tuple(
            ConcatConv2d(channels, channels, 3, padding=1, key=k) for k in jax.random.split(key)
        )

    def __call__(
        self, t: Array, y: Float[Array, "channels height width"], args: PyTree = None
    ) -> Float[Array, "channels height width"]:
        """The time derivative of one image."""
        for norm, convolution in zip(self.norms[:2], self.convolutions, strict=True):
            y = convolution(t, jax.nn.relu(norm(y)))
        return self.norms[2](y)


class ODEBlock(eqx.Module):
    """The flow of a `ConvField` from t = 0 to 1, the continuous limit of residual blocks.

    **Arguments:** `channels`, `groups` as of `ConvField`; `augment`: channels of zeros appended;
    the options of `solve`, but `rtol` is 1e-3 by default. Calls take one batch axis or several.

    Source: Chen et al. (2018), arXiv 1806.07366; augmentation: Dupont et al. (2019).
    """

    ode: NeuralODE
    batched = True

    def __init__(
        self,
        channels: int,
        *,
        augment: int = 0,
        groups: int = 32,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        channels, groups = check_counts("ODEBlock", channels=channels, groups=groups)
        augment = check_count("augment", augment, least=0)
        field = ConvField(channels + augment, groups=groups, key=key)
        self.ode = NeuralODE(field, augment=augment, **options)

    @with_checked_arguments
    def __call__(
        self, x: Float[Array, "*batch channels height width"], *, key: Array | None = None
    ) -> Float[Array, "*batch channels height width"]:
        """The images at t = 1, with the augmented channels."""
        x = check_images(x)
        return part(self.ode(merge(x, x.ndim - 3), key=key), x.shape[:-3])

    @with_checked_arguments
    def inverse(self, y1: Float[Array, "*batch channels height width"]) -> Array:
        """The images at t = 0 that lead to `y1`, both with the augmented channels."""
        y1 = check_images(y1)
        return part(self.ode.inverse(merge(y1, y1.ndim - 3)), y1.shape[:-3])


class ConvODENet(eqx.Module):
    """An image classifier: a convolution, an `ODEBlock`, the mean over the image, a linear layer.

    **Arguments:**

    - `in_channels`: of the images. `classes`: how many.
    - `channels`: of the block; `stride`: of the first convolution.
    - `augment`, `groups`: as of `ODEBlock`. `key`: of the weights.
    - `solver`, `rtol`, `sensitivity` and so on: as in `solve`, but `rtol` is 1e-3 by default.

    Calls take one batch axis or several.

    **Raises:** `OptionError` for sizes that are not positive.

    Source: Chen et al. (2018), arXiv 1806.07366, section 3; sizes are the caller's.
    """

    stem: eqx.nn.Conv2d
    block: ODEBlock
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear
    batched = True

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: int = 32,
        stride: int = 2,
        augment: int = 0,
        groups: int = 32,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        in_channels, classes, channels, stride, groups = check_counts(
            in_channels=in_channels,
            classes=classes,
            channels=channels,
            stride=stride,
            groups=groups,
        )
        augment = check_count("augment", augment, least=0)
        stem_key, block_key, head_key = jax.random.split(check_key(key), 3)
        self.stem = eqx.nn.Conv2d(in_channels, channels, 3, stride, padding=1, key=stem_key)
        self.block = ODEBlock(channels, augment=augment, groups=groups, key=block_key, **options)
        self.norm = group_norm(channels + augment, groups)
        self.head = eqx.nn.Linear(channels + augment, classes, key=head_key)

    @with_checked_arguments
    def __call__(
        self, x: Float[Array, "*batch channels height width"], *, key: Array | None = None
    ) -> Float[Array, "*batch classes"]:
        """The logits of each image."""
        solution = self.solve(x, key=key)
        return jnp.vectorize(self._logits, signature="(c,h,w)->(k)")(solution.y1)

    @with_checked_arguments
    def solve(self, x: Array, *, key: Array | None = None) -> Solution:
        """The `Solution` of the ODE block; its `stats` count the evaluations of each image."""
        x = check_images(x, self.stem.in_channels)
        batch, stem = x.shape[:-3], jax.vmap(self.stem)
        solution = self.block.ode.solve(stem(merge(x, len(batch))), key=key)
        return part_solution(solution, batch, False)

    def _logits(self, y: Array) -> Array:
        return self.head(jnp.mean(jax.nn.relu(self.norm(y)), axis=(1, 2)))


def group_norm(channels: int, groups: int) -> eqx.nn.GroupNorm:
    """A group norm of at most `groups` groups, as many as divide the channels."""
    return eqx.nn.GroupNorm(int(np.gcd(channels, groups)), channels)


def check_images(x: Any, channels: int | None = None) -> Array:
    """Validate a batch of images. **Raises:** `DataError` for other shapes or channels."""
    shape = np.shape(x)
    if len(shape) < 4 or 0 in shape:
        raise DataError(
            f"images must have shape (batch, channels, height, width), got {shape}"
            + ("; give one image as x[None]" if len(shape) == 3 else "")
        )
    if channels is not None and shape[-3] != channels:
        raise DataError(f"the model takes images of {channels} channels, got {shape[-3]}: {shape}")
    return jnp.asarray(x)
