"""Toy densities in the plane for normalizing flows, as FFJORD draws them.

All are called alike: `moons(n_points, key)` gives points, `(n_points, 2)`, and for mixtures
`moons(n_points, key, labels=True)` gives `(points, labels)`, with the components' counts equal or
one apart, in random order. `n_points` is static, so under `jit` a training step can draw its own.
Same key, same data.

Source: W. Grathwohl et al., FFJORD, arXiv:1810.01367, and the constants of its published code.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, overload

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ..problem.validation import check_count, check_flag, check_key
from .draw import balanced_labels

Points = Float[Array, "n_points 2"]
Labels = Int[Array, " n_points"]


class Density(Protocol):
    """A mixture in the plane whose points may be drawn with their component's number."""

    @overload
    def __call__(self, n_points: int, key: Array, *, labels: Literal[False] = False) -> Points: ...

    @overload
    def __call__(
        self, n_points: int, key: Array, *, labels: Literal[True]
    ) -> tuple[Points, Labels]: ...

    def __call__(self, n_points: int, key: Array, *, labels: bool = False) -> Any:
        """Draw `n_points`."""


def _mixture(components: int) -> Callable[[Callable[[Array, Labels], Points]], Density]:
    """Decorate a sampler of points given labels as a mixture of equally likely components."""

    def make_density(sample_points: Callable[[Array, Labels], Points]) -> Density:
        def density(n_points: int, key: Array, *, labels: bool = False) -> Any:
            _check_draw(n_points, key)
            check_flag("labels", labels)
            label_key, point_key = jax.random.split(key)
            drawn_labels = balanced_labels(n_points, components, label_key)
            points = sample_points(point_key, drawn_labels)
            return (points, drawn_labels) if labels else points

        density.__name__ = density.__qualname__ = sample_points.__name__
        density.__module__, density.__doc__ = sample_points.__module__, sample_points.__doc__
        return density

    return make_density


def swiss_roll(n_points: int, key: Array) -> Points:
    """A spiral of one and a half turns, blurred evenly along its length.

    **Arguments:** `n_points`; `key`, of the draw.

    **Returns:** the points, shape `(n_points, 2)`; the outer turn has a radius of 2.8.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    _check_draw(n_points, key)
    turn_key, noise_key = jax.random.split(key)
    turn = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(turn_key, (n_points,)))
    roll = turn[:, None] * _unit_vectors(turn)
    return (roll + jax.random.normal(noise_key, roll.shape)) / 5


@_mixture(2)
def circles(key: Array, labels: Labels) -> Points:
    """Two circles about the origin of radii 3 and 1.5, blurred by 0.24.

    Called as `circles(n_points, key, labels=False)`. **Returns:** the points, shape
    `(n_points, 2)`, and with `labels=True` their labels too: 0 for the outer circle, 1 for the
    inner one.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    return 3 * _noisy_circles(key, jnp.asarray([1.0, 0.5])[labels], blur=0.08)


@_mixture(4)
def rings(key: Array, labels: Labels) -> Points:
    """Four circles about the origin of radii 3, 2.25, 1.5 and 0.75, blurred by 0.08.

    Called as `rings(n_points, key, labels=False)`. **Returns:** the points, shape `(n_points, 2)`,
    and with `labels=True` their labels too, 0 to 3 from the outside to the inside.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    return _noisy_circles(key, 3 - 0.75 * labels, blur=0.08)


@_mixture(2)
def moons(key: Array, labels: Labels) -> Points:
    """Two interleaved half circles of radius 2, blurred by 0.2.

    Called as `moons(n_points, key, labels=False)`. **Returns:** the points, shape `(n_points, 2)`,
    and with `labels=True` their labels too: 0 for the upper moon, 1 for the lower one.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    angle_key, noise_key = jax.random.split(key)
    upper = _unit_vectors(jnp.pi * jax.random.uniform(angle_key, labels.shape))
    moon = jnp.where(labels[:, None] == 0, upper, jnp.asarray([1.0, 0.5]) - upper)
    moon = moon + 0.1 * jax.random.normal(noise_key, moon.shape)
    return 2 * moon - jnp.asarray([1.0, 0.2])


@_mixture(8)
def eight_gaussians(key: Array, labels: Labels) -> Points:
    """Eight round Gaussians of width 0.354 on a circle of radius 2.83.

    Called as `eight_gaussians(n_points, key, labels=False)`. **Returns:** the points, shape
    `(n_points, 2)`, and with `labels=True` their labels too, 0 to 7 anticlockwise from the right.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    centres = 4 * _unit_vectors(labels * jnp.pi / 4)
    return (centres + 0.5 * jax.random.normal(key, centres.shape)) / 1.414


@_mixture(5)
def pinwheel(key: Array, labels: Labels) -> Points:
    """Five bent blades around the origin, out to a radius of about 4.

    Called as `pinwheel(n_points, key, labels=False)`. **Returns:** the points, shape
    `(n_points, 2)`, and with `labels=True` their labels too, 0 to 4.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    blade = jax.random.normal(key, (*labels.shape, 2)) * jnp.asarray([0.3, 0.1])
    along, across = blade[:, 0] + 1, blade[:, 1]
    angle = 2 * jnp.pi * labels / 5 + 0.25 * jnp.exp(along)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return 2 * jnp.stack([cos * along + sin * across, cos * across - sin * along], axis=-1)


@_mixture(2)
def two_spirals(key: Array, labels: Labels) -> Points:
    """Two spiral arms of one and a half turns, out to a radius of about 3.2.

    Called as `two_spirals(n_points, key, labels=False)`. **Returns:** the points, shape
    `(n_points, 2)`, and with `labels=True` their labels too, 0 or 1; the second arm is the first
    one turned by half a turn. `jo.datasets.Spiral` has thinner arms, evenly filled.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    turn_key, width_key, noise_key = jax.random.split(key, 3)
    turn = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(turn_key, labels.shape))
    arm = turn[:, None] * _unit_vectors(turn) * jnp.asarray([-1.0, 1.0])
    arm = arm + 0.5 * jax.random.uniform(width_key, arm.shape)
    points = jnp.where(labels[:, None] == 0, arm, -arm) / 3
    return points + 0.1 * jax.random.normal(noise_key, points.shape)


def checkerboard(n_points: int, key: Array) -> Points:
    """The black squares of a board of four by four, each of side 2, about the origin.

    **Arguments:** `n_points`; `key`, of the draw.

    **Returns:** the points, shape `(n_points, 2)`, between -4 and 4.

    **Raises:** `OptionError` for fewer than one point or an invalid key.
    """
    _check_draw(n_points, key)
    column_key, row_key, half_key = jax.random.split(key, 3)
    column = 4 * jax.random.uniform(column_key, (n_points,)) - 2
    half = jax.random.bernoulli(half_key, 0.5, (n_points,))
    row = jax.random.uniform(row_key, (n_points,)) - 2 * half + jnp.floor(column) % 2
    return 2 * jnp.stack([column, row], axis=-1)


def _check_draw(n_points: int, key: Array) -> None:
    check_count("n_points", n_points)
    check_key(key)


def _unit_vectors(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _noisy_circles(key: Array, radius: Array, blur: float) -> Array:
    angle_key, noise_key = jax.random.split(key)
    circle = radius[:, None] * _unit_vectors(
        2 * jnp.pi * jax.random.uniform(angle_key, radius.shape)
    )
    return circle + blur * jax.random.normal(noise_key, circle.shape)


DENSITIES: dict[str, Callable[..., Points]] = {
    "swiss_roll": swiss_roll,
    "circles": circles,
    "rings": rings,
    "moons": moons,
    "eight_gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "two_spirals": two_spirals,
    "checkerboard": checkerboard,
}
"""The densities by name, each a function `(n_points, key)`."""

ENTROPY_FLOORS: dict[str, float] = {
    "swiss_roll": 2.670,
    "circles": 3.268,
    "rings": 2.623,
    "moons": 2.394,
    "eight_gaussians": 2.832,
    "pinwheel": 2.318,
    "two_spirals": 2.645,
    "checkerboard": 3.466,
}
"""The differential entropies in nats: lower bounds of any model's mean negative log-likelihood.

The checkerboard's is ln 32, of its area. The others are quadratures of -p ln p, to 0.001: of `p` as
an integral along the curves on a grid of 900 by 900 points, over the radius for circles and rings
(Bessel functions), and in polar coordinates for the pinwheel.
"""
