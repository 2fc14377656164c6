"""Simulated fluorescence microscopy: images of cells, and where the cells are."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ..problem.validation import check_count, check_key, check_level

_MOST = 12  # cells in an image


def cells(
    n_images: int, key: Array, *, size: int = 64, noise: float = 0.05
) -> tuple[Float[Array, "n_images 1 size size"], Int[Array, "n_images size size"]]:
    """Images of glowing cells on an uneven background, as a fluorescence microscope takes them.

    Each has four to twelve cells, which are bent ellipses; some lie over others. Their brightness
    differs from cell to cell, the lamp is brighter on one side, and a haze from out of focus lies
    over a part of the image, so that no single threshold finds them all.

    **Arguments:**

    - `n_images`; `key`: of the draw. Same key, same data.
    - `size`: pixels along each side. A cell has a radius of 5 to 10 % of it.
    - `noise`: standard deviation of the normal noise of a pixel of brightness 1; it falls with the
      square root of the brightness, as counts of photons do.

    **Returns:** the images, shape `(n_images, 1, size, size)`, with brightnesses from about 0 to
    1.5, and the masks, shape `(n_images, size, size)`: 1 inside of a cell, else 0.

    **Raises:** `OptionError` for sizes that are not positive integers, negative noise, or an
    invalid key.
    """
    n_images, size = check_count("n_images", n_images), check_count("size", size, 8)
    check_level("noise", noise)
    keys = jax.random.split(check_key(key), n_images)
    images, masks = _images_and_masks(keys, size, noise)
    return images[:, None], masks


@functools.partial(jax.jit, static_argnums=1)
def _images_and_masks(keys: Array, size: int, noise: float) -> tuple[Array, Array]:
    return jax.vmap(lambda key: _image_and_mask(key, size, noise))(keys)


def _image_and_mask(key: Array, size: int, noise: float) -> tuple[Array, Array]:
    cell_key, count_key, light_key, noise_key = jax.random.split(key, 4)
    at = (jnp.arange(size) + 0.5) / size
    x, y = jnp.meshgrid(at, at)
    depths, glows = jax.vmap(lambda key: _cell(key, x, y))(jax.random.split(cell_key, _MOST))
    there = jnp.arange(_MOST) < jax.random.randint(count_key, (), 4, _MOST + 1)
    depths = jnp.where(there[:, None, None], depths, -jnp.inf)
    # The edge is blurred over about a pixel, as wide as the optics resolve.
    light = jnp.max(glows * jax.nn.sigmoid(1.5 * size * depths), axis=0)
    light = _uneven(light_key, light, x, y)
    spread = noise * jnp.sqrt(jnp.maximum(light, 0.0))
    image = light + spread * jax.random.normal(noise_key, light.shape)
    return image, jnp.any(depths > 0, axis=0).astype(int)


def _cell(key: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """How deep each point lies inside of a cell (negative outside), and how the cell glows there.

    Lengths are in widths of the image.
    """
    place_key, radius_key, shape_key, glow_key = jax.random.split(key, 4)
    right, up = jax.random.uniform(place_key, (2,), minval=0.05, maxval=0.95)
    radius = jax.random.uniform(radius_key, minval=0.05, maxval=0.1)
    tilt, bend, stretch = jax.random.uniform(shape_key, (3,)) * jnp.array([3.1416, 6.2832, 0.35])
    dx, dy = x - right, y - up
    along = (jnp.cos(tilt) * dx + jnp.sin(tilt) * dy) / (1 + stretch)
    across = (jnp.cos(tilt) * dy - jnp.sin(tilt) * dx) * (1 + stretch)
    angle = jnp.arctan2(across, along)
    outline = radius * (1 + 0.15 * jnp.cos(3 * angle + bend))
    depth = outline - jnp.hypot(along, across)
    brightness = jax.random.uniform(glow_key, minval=0.25, maxval=0.9)
    return depth, brightness * (0.8 + 0.2 * jnp.clip(depth / radius, 0.0, 1.0))


def _uneven(key: Array, light: Array, x: Array, y: Array) -> Array:
    """The light under a lamp that is brighter on one side, with a background and a haze."""
    lamp_key, place_key, haze_key = jax.random.split(key, 3)
    slope = jax.random.uniform(lamp_key, (2,), minval=-0.5, maxval=0.5)
    lamp = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    right, up = jax.random.uniform(place_key, (2,))
    haze = jax.random.uniform(haze_key, minval=0.1, maxval=0.5)
    around = jnp.exp(-((x - right) ** 2 + (y - up) ** 2) / 0.15)
    return lamp * (light + 0.08) + haze * around
