"""Flow matching: training of a `CNF`'s field by regression, without a solve."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, PyTree

from ..problem.errors import DataError, OptionError, unknown_name
from ..problem.field import call_field
from ..problem.state import is_traced
from .batch_axes import merge, merge_args
from .cnf import CNF, StandardNormal
from .per_solve_random import draw, materialise_weights, needs_key

Coupling = Callable[[Array, Array, Array], Array]


def flow_matching_loss(
    model: CNF | Callable[..., Array],
    x: Float[Array, "*batch size"],
    key: Array,
    *,
    coupling: Literal["independent", "ot", "exact"] | Coupling = "independent",
    sigma: float = 0.0,
    args: PyTree = None,
    args_axes: Any = None,
) -> Float[Array, ""]:
    """The conditional flow matching loss: the mean squared distance from straight paths' velocity.

    Each sample is paired with a draw `z` of the base. At a random time, the field at that point of
    the straight path from `z` to the sample is compared with the velocity of the path. The field
    that minimises the expectation transports the base to the distribution of the samples.

    **Arguments:**

    - `model`: a `CNF`, or the field alone, which then transports the standard normal distribution
      at `t = 0` to the data at `t = 1`.
    - `x`: samples of the data, of one batch axis or several, to which a `CNF` with `augment`
      appends noise.
    - `key`: of base, pairs and times.
    - `coupling`: how draws and samples are paired. "independent"; "ot", by an entropic optimal
      transport plan within the batch, for which paths seldom cross, so the targets vary less and
      the flow is straighter; "exact", by the optimal assignment, which SciPy computes on the host,
      under `jit` by a callback; or a function `(z, x, key)` that returns for each sample the row
      of its draw.
    - `sigma`: standard deviation of normal noise about the paths.
    - `args`, `args_axes`: arguments of the field, as in `CNF.log_prob`.

    **Returns:** the mean over samples and times of the squared norm, shape `()`.

    **Raises:** `OptionError` for another coupling; `DataError` for samples of another shape.

    Source: Lipman et al. (2023), arXiv 2210.02747; optimal pairs: Tong et al. (2024), arXiv
    2302.00482.
    """
    couple = _find_coupling(coupling)
    x = _check_batch(model, x)
    if x.ndim > 2:
        args = merge_args(args, args_axes, x.shape[:-1])
        x = merge(x, x.ndim - 1)
    if isinstance(model, CNF):
        x = model.append_noise(x, key)[0]
    base_key, pair_key, time_key, noise_key, field_key = jax.random.split(key, 5)
    field, t0, t1, base = _field_span_and_base(model, x.shape[1])
    z = base.sample(base_key, x.shape[0]).astype(x.dtype)
    z = z[couple(z, x, pair_key)]
    fraction = stratified_uniform(time_key, x.shape[0], x.dtype)
    state = z + fraction[:, None] * (x - z)
    if sigma:
        state = state + sigma * jax.random.normal(noise_key, x.shape, x.dtype)
    target = (x - z) / (t1 - t0)
    velocity = _velocity(field, t0 + (t1 - t0) * fraction, state, args, args_axes, field_key)
    return jnp.mean(jnp.sum((velocity - target) ** 2, axis=-1))


def _check_batch(model: CNF | Callable[..., Array], x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim < 2 or x.size == 0 or (isinstance(model, CNF) and x.shape[-1] != model.size):
        size = model.size if isinstance(model, CNF) else "size"
        raise DataError(f"x must be a batch of samples (n, {size}), got shape {x.shape}")
    return x


def _field_span_and_base(model: CNF | Callable[..., Array], size: int) -> tuple:
    """The field, the times of base and data, and the base distribution."""
    if isinstance(model, CNF):
        return model.field, model.t0, model.t1, model.base
    return model, 0.0, 1.0, StandardNormal(size)


def _velocity(
    field: Callable, t: Array, y: Array, args: PyTree, args_axes: Any, key: Array
) -> Array:
    """Evaluate the field at the time and state of each sample."""
    field = materialise_weights(field)
    if not needs_key(field):
        return jax.vmap(lambda t, y, a: call_field(field, t, y, a), (0, 0, args_axes))(t, y, args)
    keys = jax.random.split(key, t.shape[0])
    return jax.vmap(
        lambda t, y, a, key: call_field(draw(field, key), t, y, a), (0, 0, args_axes, 0)
    )(t, y, args, keys)


def stratified_uniform(key: Array, n: int, dtype: Any = None) -> Float[Array, " n"]:
    """Draw stratified uniform numbers of [0, 1), one in each of `n` equal parts, in random order.

    Each is uniform, and their mean varies less than that of independent numbers.
    """
    order_key, key = jax.random.split(key)
    within = jax.random.uniform(key, (n,), dtype or jnp.result_type(float))
    return (jax.random.permutation(order_key, n) + within) / n


def sinkhorn_plan(
    z: Float[Array, "m size"],
    x: Float[Array, "n size"],
    *,
    regularisation: float = 0.05,
    iterations: int = 50,
) -> Float[Array, "m n"]:
    """The logarithm of the entropic optimal transport plan between two equally weighted sets.

    The cost is the squared distance, `regularisation` a fraction of its mean over all pairs. The
    plan's columns sum to `1 / n` exactly, its rows to `1 / m` up to the iterations' error.

    Source: Cuturi (2013), arXiv 1306.0895.
    """
    cost = jnp.sum(z**2, 1)[:, None] + jnp.sum(x**2, 1)[None] - 2 * z @ x.T
    scores = -cost / (regularisation * jnp.mean(cost))

    def scale_rows_and_columns(_: Any, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        _, columns = potentials
        rows = -jax.nn.logsumexp(scores + columns, axis=1) - jnp.log(z.shape[0])
        return rows, -jax.nn.logsumexp(scores + rows[:, None], axis=0) - jnp.log(x.shape[0])

    start = jnp.zeros(z.shape[0], scores.dtype), jnp.zeros(x.shape[0], scores.dtype)
    rows, columns = jax.lax.fori_loop(0, iterations, scale_rows_and_columns, start)
    return scores + rows[:, None] + columns


def _independent_pairs(z: Array, x: Array, key: Array) -> Int[Array, " n"]:
    return jnp.arange(x.shape[0])


def _sinkhorn_pairs(z: Array, x: Array, key: Array) -> Int[Array, " n"]:
    """For each sample a row of `z`, drawn by the column of the Sinkhorn plan."""
    plan = sinkhorn_plan(jax.lax.stop_gradient(z), jax.lax.stop_gradient(x))
    return jax.random.categorical(key, plan, axis=0)


def _assignment_pairs(z: Array, x: Array, key: Array) -> Int[Array, " n"]:
    if not is_traced((z, x)):
        return jnp.asarray(_assign(z, x))
    rows = jax.ShapeDtypeStruct(x.shape[:1], np.int32)
    z, x = jax.lax.stop_gradient((z, x))
    return jax.pure_callback(_assign, rows, z, x, vmap_method="sequential")


def _assign(z: Any, x: Any) -> np.ndarray:
    """For each sample its row of `z` in the assignment of the least squared distances."""
    from scipy.optimize import linear_sum_assignment  # loaded when needed: it takes a while

    a, b = np.asarray(z, np.float64), np.asarray(x, np.float64)
    cost = np.sum((b[:, None] - a[None]) ** 2, -1)
    return linear_sum_assignment(cost)[1].astype(np.int32)


_COUPLINGS: dict[str, Coupling] = {
    "independent": _independent_pairs,
    "ot": _sinkhorn_pairs,
    "exact": _assignment_pairs,
}


def _find_coupling(coupling: Any) -> Any:
    if isinstance(coupling, str):
        if coupling not in _COUPLINGS:
            raise unknown_name("coupling", coupling, _COUPLINGS)
        return _COUPLINGS[coupling]
    if not callable(coupling):
        raise OptionError(f"coupling must be a name or a function (z, x, key), got {coupling!r}")
    return coupling
