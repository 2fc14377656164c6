"""Two interleaved spirals, a toy classification problem."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ..problem.validation import check_count, check_key, check_level


@dataclasses.dataclass(frozen=True)
class Spiral:
    """Two spiral arms of one and a half turns each, one per class.

    **Arguments:**

    - `n_points`: samples in all, half of them in each arm.
    - `noise`: standard deviation of the normal noise on both coordinates; the arms reach out to a
      radius of about three.
    - `key`: of the draw; `jax.random.key(0)` if None. Same key, same data.

    **Raises:** `OptionError` for fewer than two points or negative noise.
    """

    n_points: int = 1000
    noise: float = 0.1
    key: Array | None = None

    def __post_init__(self) -> None:
        check_count("n_points", self.n_points, 2)
        check_level("noise", self.noise)
        if self.key is not None:
            check_key(self.key)

    def __call__(self) -> tuple[Float[Array, "n_points 2"], Int[Array, " n_points"]]:
        """The points `X` and their labels `y`, 0 or 1, in random order."""
        key = jax.random.key(0) if self.key is None else self.key
        radius_key, noise_key, order_key = jax.random.split(key, 3)
        labels = jnp.arange(self.n_points) % 2
        turn = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(radius_key, (self.n_points,)))
        arm = jnp.where(labels == 0, 1.0, -1.0) * turn / 3
        points = arm[:, None] * jnp.stack([-jnp.cos(turn), jnp.sin(turn)], axis=-1)
        points = points + self.noise * jax.random.normal(noise_key, points.shape)
        order = jax.random.permutation(order_key, self.n_points)
        return points[order], labels[order]
