r"""The parameters' part of the adjoint, $\int a^T f_\theta\, dt$, by Gauss quadrature along steps.

It feeds back into nothing, so it need not be part of the equation that is solved: each accepted
step adds its part, at nodes inside where the dense output of state and adjoint is read.

Source: the GaussAdjoint of Rackauckas et al., SciMLSensitivity.jl.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree


class Integrand(NamedTuple):
    """What is integrated over the steps of a turn.

    - `states(theta)`: times, states and adjoints at a share of the steps.
    - `slope(own, shared, rows, t, y)`: the field of one trajectory; `per_trajectory` and `shared` are what is
      differentiated of it. `order`: of the solver.
    """

    states: Callable[[Array], tuple[Array, Array, Array]]
    slope: Callable[..., Array]
    per_trajectory: PyTree
    shared: PyTree
    order: int

    @property
    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares of a step, and their weights: exact to the order of the solver."""
        nodes, weights = np.polynomial.legendre.leggauss(num_nodes(self.order))
        return 0.5 * (1 + nodes), 0.5 * weights


def num_nodes(order: int) -> int:
    """How often the field is evaluated for the integral of an accepted step."""
    return order // 2 + 1


def integrate_step(
    integrand: Integrand, rows: PyTree, accept: Array, h: Array
) -> tuple[PyTree, PyTree]:
    """That of one trajectory's step, node after node; none where it was rejected."""
    nodes, weights = (jnp.asarray(x, h.dtype) for x in integrand.nodes)
    moving = integrand.per_trajectory, integrand.shared

    def one(i: Array, total: PyTree) -> PyTree:
        t, y, a = integrand.states(nodes[i])
        _, pull = jax.vjp(lambda own, shared: integrand.slope(own, shared, rows, t, y), *moving)
        size = (weights[i] * h).astype(jnp.finfo(a.dtype).dtype)
        return jax.tree.map(jnp.add, total, pull(-size * a))

    count = jnp.where(accept, len(nodes), 0)
    return lax.fori_loop(0, count, one, jax.tree.map(jnp.zeros_like, moving))


def integrate_steps_in_lanes(
    integrand: Integrand, rows: PyTree, accept: Array, h: Array, calm: tuple[PyTree, Array, Array]
) -> tuple[PyTree, PyTree]:
    """That of all lanes, all nodes side by side; what is shared is summed over them.

    The lanes that are not accepted stand at `calm`, rows with a time and a state that are harmless.
    """
    nodes, weights = integrand.nodes
    t, y, a = zip(*(integrand.states(jnp.full_like(h, node)) for node in nodes), strict=True)

    def side_by_side(x: list[Array] | tuple[Array, ...]) -> Array:
        return jnp.concatenate(x, axis=-1)

    def repeated(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: side_by_side([x] * len(nodes)), tree)

    accept, rows = repeated((accept, rows))
    zero = jnp.zeros_like(calm[2])
    rows, t, y, a = jax.tree.map(
        lambda at, b: jnp.where(accept, at, b[..., None]),
        (rows, *map(side_by_side, (t, y, a))),
        (*calm, zero),
    )
    size = side_by_side([weight * h for weight in weights])
    size = jnp.where(accept, size, 0).astype(jnp.finfo(a.dtype).dtype)

    def slopes(own: PyTree, shared: PyTree) -> Array:
        many = jax.vmap(integrand.slope, in_axes=(-1, None, -1, -1, -1), out_axes=-1)
        return many(own, shared, rows, t, lax.optimization_barrier(y))

    _, pull = jax.vjp(slopes, repeated(integrand.per_trajectory), integrand.shared)
    own, shared = pull(-size * a)
    width = h.shape[0]
    own = jax.tree.map(lambda x: jnp.sum(x.reshape(*x.shape[:-1], -1, width), axis=-2), own)
    return own, shared
