r"""The integral $\int a^T f_\theta\, dt$ of the parameters' cotangent, by Gauss quadrature.

Nothing in the adjoint equation depends on this integral, so it need not be part of it: each
accepted step adds the integral over it, with the dense output of state and adjoint at the nodes.

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
    """The integrand over one step of one trajectory, or of each lane.

    - `states(theta)`: times, states and adjoints at `theta` in [0, 1] of the steps.
    - `rhs(own, shared, rows, t, y)`: the vector field of one trajectory.
    - `per_trajectory`, `shared`: the parameters to differentiate by, `own` and `shared` of `rhs`.
    - `order`: of the solver.
    """

    states: Callable[[Array], tuple[Array, Array, Array]]
    rhs: Callable[..., Array]
    per_trajectory: PyTree
    shared: PyTree
    order: int

    @property
    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes in [0, 1] and their weights, exact for polynomials up to the solver's order."""
        nodes, weights = np.polynomial.legendre.leggauss(num_nodes(self.order))
        return 0.5 * (1 + nodes), 0.5 * weights


def num_nodes(order: int) -> int:
    """Return the number of Gauss nodes, each an evaluation of the field, per accepted step."""
    return order // 2 + 1


def integrate_step(
    integrand: Integrand, rows: PyTree, accept: Array, h: Array
) -> tuple[PyTree, PyTree]:
    """Integrate over one trajectory's step, node by node; zero where the step is rejected."""
    nodes, weights = (jnp.asarray(x, h.dtype) for x in integrand.nodes)
    parameters = integrand.per_trajectory, integrand.shared

    def add_node(i: Array, total: PyTree) -> PyTree:
        t, y, a = integrand.states(nodes[i])
        _, pull = jax.vjp(lambda own, shared: integrand.rhs(own, shared, rows, t, y), *parameters)
        size = (weights[i] * h).astype(jnp.finfo(a.dtype).dtype)
        return jax.tree.map(jnp.add, total, pull(-size * a))

    count = jnp.where(accept, len(nodes), 0)
    return lax.fori_loop(0, count, add_node, jax.tree.map(jnp.zeros_like, parameters))


def integrate_steps_in_lanes(
    integrand: Integrand,
    rows: PyTree,
    accept: Array,
    h: Array,
    placeholder: tuple[PyTree, Array, Array],
) -> tuple[PyTree, PyTree]:
    """Integrate over the steps of all lanes, all nodes at once; shared parts are summed over lanes.

    Lanes whose step is not accepted evaluate the field at `placeholder`, the rows, time and state
    of a trajectory where it is finite.
    """
    nodes, weights = integrand.nodes
    t, y, a = zip(*(integrand.states(jnp.full_like(h, node)) for node in nodes), strict=True)

    def join_nodes(x: list[Array] | tuple[Array, ...]) -> Array:
        return jnp.concatenate(x, axis=-1)

    def repeat_for_nodes(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: join_nodes([x] * len(nodes)), tree)

    accept, rows = repeat_for_nodes((accept, rows))
    zero = jnp.zeros_like(placeholder[2])
    rows, t, y, a = jax.tree.map(
        lambda x, b: jnp.where(accept, x, b[..., None]),
        (rows, *map(join_nodes, (t, y, a))),
        (*placeholder, zero),
    )
    size = join_nodes([weight * h for weight in weights])
    size = jnp.where(accept, size, 0).astype(jnp.finfo(a.dtype).dtype)

    def slopes(own: PyTree, shared: PyTree) -> Array:
        in_lanes = jax.vmap(integrand.rhs, in_axes=(-1, None, -1, -1, -1), out_axes=-1)
        return in_lanes(own, shared, rows, t, lax.optimization_barrier(y))

    _, pull = jax.vjp(slopes, repeat_for_nodes(integrand.per_trajectory), integrand.shared)
    own, shared = pull(-size * a)
    width = h.shape[0]
    own = jax.tree.map(lambda x: jnp.sum(x.reshape(*x.shape[:-1], -1, width), axis=-2), own)
    return own, shared
