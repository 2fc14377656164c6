"""Lotka-Volterra with 101 save points: value and gradient by four parameters."""

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness import peers
from benchmarks.harness.timing import Row, compile_times, run_times

TITLE = "Lotka-Volterra fit, Tsit5, rtol 1e-6, atol 1e-8, 101 save points, value and gradient (ms)"
RTOL, ATOL = 1e-6, 1e-8


def field(t: Array, y: Array, p: Array) -> Array:
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


def setting() -> tuple[Array, Array, Array, Array]:
    """Start, times, parameters, and data to fit."""
    y0, ts = jnp.array([1.0, 1.0]), jnp.linspace(0.0, 10.0, 101)
    truth = jnp.array([1.5, 1.0, 3.0, 1.0])
    data = jo.solve(field, y0, ts, truth, solver="dopri8", rtol=1e-12, atol=1e-13).ys
    return y0, ts, 1.02 * truth, data


def our_loss(p: Array, y0: Array, ts: Array, data: Array, rtol: float, atol: float) -> Array:
    return jnp.mean((jo.solve(field, y0, ts, p, rtol=rtol, atol=atol).ys - data) ** 2)


def peer_loss(p: Array, y0: Array, ts: Array, data: Array, rtol: float, atol: float) -> Array:
    return jnp.mean((peers.solve(field, y0, ts, p, rtol, atol) - data) ** 2)


def make(loss):
    y0, ts, p, data = setting()
    return jax.jit(jax.value_and_grad(loss)), (p, y0, ts, data, RTOL, ATOL)


def rows() -> list[Row]:
    (ours, args), (peer, _) = make(our_loss), make(peer_loss)
    exact = ours(*args[:4], 1e-12, 1e-13)[1]
    size = jnp.linalg.norm(exact)
    mine, theirs = run_times(lambda: ours(*args), lambda: peer(*args), repeats=301)
    errors = [float(jnp.linalg.norm(f(*args)[1] - exact) / size) for f in (ours, peer)]
    found = [Row("value and gradient", mine, theirs, ">= 2", errors[0], errors[1])]
    mine, theirs = compile_times(lambda: make(our_loss), lambda: make(peer_loss))
    found.append(Row("compile", mine, theirs, "<= 0.4x", note=f"{mine / theirs:.2f}x"))
    return found
