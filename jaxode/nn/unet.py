"""A U-Net whose blocks are ODEs: from images to one vector of logits for each pixel."""

import itertools
from typing import Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..problem.errors import DataError
from ..problem.validation import check_counts, check_key
from .batch_axes import merge, part
from .images import ODEBlock, check_images, group_norm
from .solve_options import SolveOptions


class ODEUNet(eqx.Module):
    """Maps images to images: a U-Net with an `ODEBlock` in place of the convolutions of a level.

    On the way down each level is an ODE block and a convolution of stride 2 that doubles the
    channels. On the way up the image is enlarged, joined with that of the same size on the way
    down, and goes through an ODE block again.

    **Arguments:**

    - `in_channels`: of the images. `out_channels`: of the results, such as classes of a pixel.
    - `channels`: of the uppermost level. `levels`: how many sizes of image there are; the smallest
      is `2 ** (levels - 1)` times smaller.
    - `groups`: the largest number of groups of a group norm. `key`: of the weights.
    - `solver`, `rtol`, `sensitivity` and so on: as in `solve`, but `rtol` is 1e-3 by default.

    Calls take one batch axis or several, and any height and width of at least
    `2 ** (levels - 1)`.

    **Raises:** `OptionError` for sizes that are not positive; `DataError` for images of another
    number of channels, or smaller ones.

    Source: Ronneberger, Fischer and Brox, U-Net (2015), arXiv 1505.04597; with ODE blocks:
    Pinckaers and Litjens, Neural ordinary differential equations for semantic segmentation of
    individual colon glands (2019), arXiv 1910.10470.
    """

    stem: eqx.nn.Conv2d
    down_blocks: tuple[ODEBlock, ...]
    down: tuple[eqx.nn.Conv2d, ...]
    joins: tuple[eqx.nn.Conv2d, ...]
    up_blocks: tuple[ODEBlock, ...]
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Conv2d
    batched = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 16,
        levels: int = 3,
        groups: int = 4,
        key: Array,
        **options: Unpack[SolveOptions],
    ) -> None:
        in_channels, out_channels, channels, levels, groups = check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            levels=levels,
            groups=groups,
        )
        ends, *keys = jax.random.split(check_key(key), 4 * levels - 2)
        stem_key, head_key = jax.random.split(ends)
        widths = [channels * 2**level for level in range(levels)]
        pairs = list(itertools.pairwise(widths))

        def blocks(widths: list[int]) -> tuple[ODEBlock, ...]:
            return tuple(ODEBlock(n, groups=groups, key=keys.pop(), **options) for n in widths)

        self.stem = eqx.nn.Conv2d(in_channels, channels, 3, padding=1, key=stem_key)
        self.down_blocks, self.up_blocks = blocks(widths), blocks(widths[:-1])
        self.down = tuple(
            eqx.nn.Conv2d(a, b, 3, stride=2, padding=1, key=keys.pop()) for a, b in pairs
        )
        self.joins = tuple(eqx.nn.Conv2d(a + b, a, 1, key=keys.pop()) for a, b in pairs)
        self.norm = group_norm(channels, groups)
        self.head = eqx.nn.Conv2d(channels, out_channels, 1, key=head_key)

    def __call__(
        self, x: Float[Array, "*batch channels height width"], *, key: Array | None = None
    ) -> Float[Array, "*batch out_channels height width"]:
        """The logits of each pixel."""
        x = check_images(x, self.stem.in_channels)
        least = 2 ** len(self.down)
        if min(x.shape[-2:]) < least:
            raise DataError(
                f"a U-Net of {len(self.down) + 1} levels takes images of {least} pixels or more "
                f"along each side, got shape {x.shape}"
            )
        batch = x.shape[:-3]
        return part(self._logits(merge(x, len(batch)), key), batch)

    def _logits(self, x: Array, key: Array | None) -> Array:
        y, passed = jax.vmap(self.stem)(x), []
        for block, down in zip(self.down_blocks[:-1], self.down, strict=True):
            y = block(y, key=key)
            passed.append(y)
            y = jax.vmap(down)(y)
        y = self.down_blocks[-1](y, key=key)
        ups = zip(self.up_blocks, self.joins, passed, strict=True)
        for block, join, before in reversed(list(ups)):
            y = jnp.concatenate([before, _enlarge(y, before.shape)], axis=1)
            y = block(jax.vmap(join)(y), key=key)
        return jax.vmap(lambda y: self.head(jax.nn.relu(self.norm(y))))(y)


def _enlarge(y: Array, shape: tuple[int, ...]) -> Array:
    """The images with each pixel doubled along both axes, cut to the last axes of `shape`."""
    return y.repeat(2, axis=-2).repeat(2, axis=-1)[..., : shape[-2], : shape[-1]]
