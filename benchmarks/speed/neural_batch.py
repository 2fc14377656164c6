"""A neural ODE 2-64-64-2 on 256 samples, each with its own steps: value and gradient, float32."""

from collections.abc import Callable
from typing import Any, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, run_times
from benchmarks.speed.neural_ode import distance

TITLE = (
    "Neural ODE 2-64-64-2 tanh, float32, 256 samples with steps of their own, Tsit5, rtol 1e-4, "
    "atol 1e-6, value and gradient (ms)"
)
RTOL, ATOL = 1e-4, 1e-6

# Of the parameters, starts, targets, times and tolerances.
Loss = Callable[[PyTree, Array, Array, Array, float, float], Any]

_NET = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, dtype=jnp.float32, key=jax.random.key(0))
PARAMS, STATIC = eqx.partition(_NET, eqx.is_inexact_array)


def field(t: Array, y: Array, params: PyTree) -> Array:
    return eqx.combine(params, STATIC)(y)


def setting(dtype: DTypeLike = jnp.float32) -> tuple[PyTree, Array, Array, Array]:
    """Parameters, starts, targets, times."""
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    y0, targets = jax.random.normal(jax.random.key(1), (2, 256, 2), jnp.float32).astype(dtype)
    return params, y0, targets, jnp.array([0.0, 1.0], dtype)


def solved(
    params: PyTree, y0: Array, ts: Array, rtol: float, atol: float, sensitivity: str = "discrete"
) -> jo.Solution:
    return jo.solve_batch(
        lambda t, y, _: field(t, y, params), y0, ts, rtol=rtol, atol=atol, sensitivity=sensitivity
    )


def our_loss(sensitivity: str) -> Loss:
    def loss(params, y0, targets, ts, rtol, atol):
        return jnp.mean((solved(params, y0, ts, rtol, atol, sensitivity).y1 - targets) ** 2)

    return loss


def peer_loss(adjoint: diffrax.AbstractAdjoint) -> Loss:
    def loss(params, y0, targets, ts, rtol, atol):
        def end(y0: Array) -> Array:
            found = peers.solution(field, y0, ts, params, rtol, atol, ends=True, adjoint=adjoint)
            return cast(Array, found.ys)[-1]

        return jnp.mean((jax.vmap(end)(y0) - targets) ** 2)

    return loss


def one_size_loss(params, y0, targets, ts, rtol, atol) -> Array:
    """One step size for all samples, which are one system."""

    def together(t: Array, y: Array, params: PyTree) -> Array:
        return jax.vmap(lambda y: field(t, y, params))(y)

    return jnp.mean((jo.solve(together, y0, ts, params, rtol=rtol, atol=atol).y1 - targets) ** 2)


def rows() -> list[Row]:
    inputs = (*setting(), RTOL, ATOL)
    discrete, adjoint = gradient(our_loss("discrete")), gradient(our_loss("adjoint"))
    one_size = gradient(one_size_loss)
    checkpointed = gradient(peer_loss(diffrax.RecursiveCheckpointAdjoint()))
    backsolve = gradient(peer_loss(diffrax.BacksolveAdjoint()))
    exact = discrete(*setting(jnp.float64), 1e-11, 1e-13)[1]

    def row(work: str, target: str, ours: Loss, peer: Loss, repeats: int, note: str = "") -> Row:
        mine, theirs = run_times(lambda: ours(*inputs), lambda: peer(*inputs), repeats=repeats)
        errors = [distance(f(*inputs)[1], exact) for f in (ours, peer)]
        return Row(work, mine, theirs, target, errors[0], errors[1], note)

    return [
        row("discrete; RecursiveCheckpointAdjoint", ">= 2", discrete, checkpointed, 51, steps()),
        row("adjoint; BacksolveAdjoint", ">= 50", adjoint, backsolve, 5),
        row("discrete; one step size for all, by jo.solve", "", discrete, one_size, 51),
    ]


def gradient(loss: Loss) -> Loss:
    """Value and gradient by the parameters."""
    return jax.jit(jax.value_and_grad(loss))


def steps() -> str:
    params, y0, _, ts = setting()
    found = solved(params, y0, ts, RTOL, ATOL).stats.num_steps
    return f"{int(found.min())} to {int(found.max())} steps"
