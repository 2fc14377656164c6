"""Toy series: spirals and sines, observed with noise and with values missing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from ..problem.errors import OptionError
from ..problem.validation import check_count, check_key, check_level, real_number
from .draw import balanced_labels, random_subsets


class LatentSpirals(NamedTuple):
    """The observations and true values that `latent_spirals` returns.

    - `ts`: the times of the observations, shape `(100,)`.
    - `xs`: noisy observations, shape `(n_series, 100, 2)`.
    - `mask`: which of them are shown, shape `(n_series, 100)`.
    - `truth`: the spirals without noise, at these points and the next 100, `(n_series, 200, 2)`.
    - `times`: the times of the truth, shape `(200,)`.
    """

    ts: Float[Array, " 100"]
    xs: Float[Array, "n_series 100 2"]
    mask: Bool[Array, "n_series 100"]
    truth: Float[Array, "n_series 200 2"]
    times: Float[Array, " 200"]


class Periodic(NamedTuple):
    """The observations and true values that `periodic` returns.

    - `ts`: times of each series, increasing in `[0, 5]`, shape `(n_series, 100)`.
    - `xs`: noisy observations, shape `(n_series, 100, 1)`.
    - `mask`: which of them are shown, shape `(n_series, 100)`.
    - `truth`: the series without noise, shape `(n_series, 100, 1)`.
    """

    ts: Float[Array, "n_series 100"]
    xs: Float[Array, "n_series 100 1"]
    mask: Bool[Array, "n_series 100"]
    truth: Float[Array, "n_series 100 1"]


def latent_spirals(
    n_series: int = 1000, *, key: Array, shown: int = 100, noise: float = 0.3, future: int = 100
) -> LatentSpirals:
    """Draw segments of a clockwise and an anticlockwise spiral, the toy problem of latent ODEs.

    Each spiral has 500 points; a series is 100 successive ones from a random index of at least 100,
    and the truth has the next ones too, to forecast.

    **Arguments:**

    - `n_series`: how many; each direction has probability 1/2.
    - `key`: of `jax.random`. Same key, same data.
    - `shown`: how many of the 100 points the mask keeps, drawn for each series.
    - `future`: how many points of the truth follow the 100, from 0 (series then begin at any index
      up to 400, as in the source's code) to 300.
    - `noise`: standard deviation of the normal noise on both coordinates; the spirals reach out
      to a radius of six about (5, 0), and about (-5, 0) clockwise.

    **Returns:** `LatentSpirals(ts, xs, mask, truth, times)`, whose times begin at 0 and are
    `6 pi / 499` apart.

    **Raises:** `OptionError` for counts out of range and negative noise.

    Source: R. T. Q. Chen et al., arXiv:1806.07366, section 5.1, as in its published code.
    """
    _check_options(n_series, noise, key)
    _check_shown(shown, 100)
    check_count("future", future, 0, 300)
    keys = jax.random.split(key, 4)
    ts = jnp.linspace(0, 6 * jnp.pi, 500)
    clockwise = jax.random.bernoulli(keys[0], 0.5, (n_series,))
    start = jax.random.randint(keys[1], (n_series,), 100, 401 - future)
    places = ts[start[:, None] + jnp.arange(100 + future)]
    truth = jnp.where(clockwise[:, None, None], _inward_spiral(places), _outward_spiral(places))
    xs = truth[:, :100] + noise * jax.random.normal(keys[2], (n_series, 100, 2))
    return LatentSpirals(
        ts[:100], xs, random_subsets(n_series, 100, shown, keys[3]), truth, ts[: 100 + future]
    )


def _outward_spiral(t: Array) -> Array:
    radius = 0.3 * t
    return jnp.stack([radius * jnp.cos(t) + 5, radius * jnp.sin(t)], axis=-1)


def _inward_spiral(t: Array) -> Array:
    angle = 6 * jnp.pi + 1 - t
    radius = 0.3 * 50 / angle
    return jnp.stack([radius * jnp.cos(angle) - 5, radius * jnp.sin(angle)], axis=-1)


def periodic(n_series: int = 1000, *, key: Array, shown: int = 50, noise: float = 0.01) -> Periodic:
    """Draw sines of varying frequency at irregular times, the toy problem of ODE-RNNs.

    Series `i` is `z + sin(phase(t))`: its frequency varies linearly, over `t` from 0 to 5, from
    one draw of U(0.4, 0.8) to another; its offset `z` is normal, of mean 1 and deviation 0.1.

    **Arguments:**

    - `n_series`: how many.
    - `key`: of `jax.random`. Same key, same data.
    - `shown`: how many of a series' 100 points the mask keeps, drawn for each.
    - `noise`: the width of the uniform noise, from 0 upwards.

    **Returns:** `Periodic(ts, xs, mask, truth)`; each series has times of its own.

    **Raises:** `OptionError` for counts out of range and negative noise.

    Source: Y. Rubanova et al., arXiv:1907.03907, as in its published code.
    """
    _check_options(n_series, noise, key)
    _check_shown(shown, 100)
    keys = jax.random.split(key, 6)
    span = 5.0
    ts = jnp.sort(jax.random.uniform(keys[0], (n_series, 100), maxval=span), axis=1)
    first = jax.random.uniform(keys[1], (n_series, 1), minval=0.4, maxval=0.8)
    last = jax.random.uniform(keys[2], (n_series, 1), minval=0.4, maxval=0.8)
    offset = 1 + 0.1 * jax.random.normal(keys[3], (n_series, 1))
    phase = 2 * jnp.pi * (first * ts + (last - first) * ts**2 / (2 * span))
    truth = (offset + jnp.sin(phase))[:, :, None]
    xs = truth + noise * jax.random.uniform(keys[4], truth.shape)
    return Periodic(ts, xs, random_subsets(n_series, 100, shown, keys[5]), truth)


def spiral_chirality(
    n_series: int = 128, *, key: Array, missing: float = 0.0, noise: float = 0.01
) -> tuple[Float[Array, " 100"], Float[Array, "n_series 100 2"], Int[Array, " n_series"]]:
    """Draw spirals labelled by their direction of rotation, the toy problem of neural CDEs.

    **Arguments:**

    - `n_series`: how many, half of them in either direction.
    - `key`: of `jax.random`. Same key, same data.
    - `missing`: the share of each series' points that is NaN, both coordinates at once, drawn for
      each series from all but its first and last; less than one.
    - `noise`: standard deviation of the normal noise on both coordinates; the spirals begin at a
      radius of one.

    **Returns:** the times, 100 in `[0, 4 pi]`, shape `(100,)`; the series, shape
    `(n_series, 100, 2)`; their labels, shape `(n_series,)`: 0 anticlockwise, 1 clockwise.

    **Raises:** `OptionError` for counts out of range, negative noise, and another `missing`.

    Source: P. Kidger et al., arXiv:2005.08926; the spirals are the example of its authors' library.
    """
    _check_options(n_series, noise, key)
    if not 0 <= real_number(missing) < 1:
        raise OptionError(f"missing must be a share, 0 <= missing < 1, got {missing!r}")
    keys = jax.random.split(key, 4)
    ts = jnp.linspace(0, 4 * jnp.pi, 100)
    labels = balanced_labels(n_series, 2, keys[0])
    angle = 2 * jnp.pi * jax.random.uniform(keys[1], (n_series, 1)) + ts
    x = jnp.where(labels[:, None] == 1, -1.0, 1.0) * jnp.cos(angle)
    spirals = jnp.stack([x, jnp.sin(angle)], axis=-1) / (1 + ts / 2)[:, None]
    spirals = spirals + noise * jax.random.normal(keys[2], spirals.shape)
    inner_shown = random_subsets(n_series, 98, 98 - min(round(100 * missing), 98), keys[3])
    shown = jnp.pad(inner_shown, ((0, 0), (1, 1)), constant_values=True)
    return ts, jnp.where(shown[:, :, None], spirals, jnp.nan), labels


def _check_options(n_series: int, noise: float, key: Array) -> None:
    check_count("n_series", n_series)
    check_level("noise", noise)
    check_key(key)


def _check_shown(shown: int, n: int) -> None:
    check_count("shown", shown, 2)
    if shown > n:
        raise OptionError(f"shown must be at most {n}, got {shown}")
