"""A ball inside a shell: two classes that no flow without augmentation can separate linearly."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ..problem.errors import OptionError
from ..problem.validation import check_count, check_key, check_pair


def annulus(
    n_points: int,
    key: Array,
    dim: int = 2,
    *,
    inner: tuple[float, float] = (0.0, 0.5),
    outer: tuple[float, float] = (1.0, 1.5),
) -> tuple[Float[Array, "n_points dim"], Int[Array, " n_points"]]:
    """Draw two concentric shells, the inner one a ball by default, as for augmented neural ODEs.

    **Arguments:**

    - `n_points`: samples in all; a quarter of them (rounded down) are in the inner shell.
    - `key`: of `jax.random`. Same key, same data.
    - `dim`: the dimension of the space.
    - `inner`, `outer`: the least and the greatest radius of each.

    **Returns:** the points in random order, uniform in the volume of either shell, shape
    `(n_points, dim)`, and their labels, 0 inside and 1 outside. The paper regresses on -1 and 1,
    which is `2 * labels - 1`; its shell is denser towards the inner radius.

    **Raises:** `OptionError` for fewer than four points, no dimension, and radii out of order.

    Source: E. Dupont et al., Augmented Neural ODEs, arXiv:1904.01681.
    """
    check_count("n_points", n_points, 4)
    check_count("dim", dim)
    check_key(key)
    radii = jnp.asarray([_check_radii("inner", inner), _check_radii("outer", outer)])
    if not inner[1] <= outer[0]:
        raise OptionError(f"inner must end before outer begins, got {inner} and {outer}")
    order_key, radius_key, direction_key = jax.random.split(key, 3)
    labels = (jnp.arange(n_points) >= n_points // 4).astype(int)
    labels = jax.random.permutation(order_key, labels)
    low, high = radii[labels].T
    volume = jax.random.uniform(radius_key, (n_points,), minval=low**dim, maxval=high**dim)
    direction = jax.random.normal(direction_key, (n_points, dim))
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return volume[:, None] ** (1 / dim) * direction, labels


def _check_radii(name: str, radii: tuple[float, float]) -> tuple[float, float]:
    low, high = check_pair(name, "a pair of radii (least, greatest)", radii)
    if not 0 <= low < high < float("inf"):
        raise OptionError(f"{name} must hold radii with 0 <= least < greatest, got {radii!r}")
    return low, high
