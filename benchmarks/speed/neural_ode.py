"""A neural ODE 2-64-64-2 on a batch of 256 as one system: value and gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, compile_times, run_times

TITLE = "Neural ODE 2-64-64-2 tanh, 256 samples as one system, Tsit5, rtol 1e-4, atol 1e-6 (ms)"
RTOL, ATOL = 1e-4, 1e-6

_NET = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
PARAMS, STATIC = eqx.partition(_NET, eqx.is_inexact_array)
PARAMS = jax.tree.map(lambda x: 2.0 * x.astype(jnp.float64), PARAMS)
X = jax.random.normal(jax.random.key(1), (256, 2), jnp.float64)
TS = jnp.array([0.0, 1.0])


def field(t: Array, y: Array, params: PyTree) -> Array:
    return jax.vmap(eqx.combine(params, STATIC))(y)


def our_loss(params: PyTree, rtol: float, atol: float) -> Array:
    return jnp.mean(jo.solve(field, X, TS, params, rtol=rtol, atol=atol).y1 ** 2)


def peer_loss(params: PyTree, rtol: float, atol: float) -> Array:
    return jnp.mean(peers.solve(field, X, TS, params, rtol, atol, ends=True)[-1] ** 2)


def bare_loop(evaluations: int, pulls: int):
    """As many evaluations of the field, then of the field with its vjp, in two plain loops."""

    def run(params: PyTree) -> tuple[Array, PyTree]:
        def forward(_: int, y: Array) -> Array:
            return y + 1e-3 * field(jnp.zeros(()), y, params)

        def backward(_: int, state: tuple) -> tuple:
            y, a, g = state
            slope, pull = jax.vjp(lambda y, p: field(jnp.zeros(()), y, p), y, params)
            da, dg = pull(a)
            return y - 1e-3 * slope, a + 1e-3 * da, jax.tree.map(jnp.add, g, dg)

        y = lax.fori_loop(0, evaluations, forward, X)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return lax.fori_loop(0, pulls, backward, (y, y, zeros))[1:]

    return jax.jit(run)


def rows() -> list[Row]:
    ours, peer = (jax.jit(jax.value_and_grad(loss)) for loss in (our_loss, peer_loss))
    stats = jo.solve(field, X, TS, PARAMS, rtol=RTOL, atol=ATOL).stats
    # Of each step six stages are replayed with their vjp; the slope at the start comes on top.
    bare = bare_loop(int(stats.num_evaluations), 6 * int(stats.num_accepted) + 1)
    mine, theirs, least = run_times(
        lambda: ours(PARAMS, RTOL, ATOL),
        lambda: peer(PARAMS, RTOL, ATOL),
        lambda: bare(PARAMS),
        repeats=51,
    )
    exact = ours(PARAMS, 1e-10, 1e-12)[1]
    errors = [distance(f(PARAMS, RTOL, ATOL)[1], exact) for f in (ours, peer)]
    steps = f"{int(stats.num_accepted)} steps, {int(stats.num_rejected)} rejected"
    found = [Row("value and gradient", mine, theirs, ">= 1.2", errors[0], errors[1], steps)]
    share = f"{mine / least:.2f}x the bare loop"
    found.append(Row("against the bare loop", mine, least, "<= 1.3x", note=share))
    makers = (
        lambda loss=loss: (jax.jit(jax.value_and_grad(loss)), (PARAMS, RTOL, ATOL))
        for loss in (our_loss, peer_loss)
    )
    mine, theirs = compile_times(*makers, repeats=3)
    found.append(Row("compile", mine, theirs, "", note=f"{mine / theirs:.2f}x"))
    return found


def distance(a: PyTree, b: PyTree) -> float:
    """The norm of the difference over that of `b`."""
    flat_a, flat_b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (a, b))
    return float(jnp.linalg.norm(flat_a - flat_b) / jnp.linalg.norm(flat_b))
