"""A solve that is called outside of `jit`, beside one fresh trace of its vector field and peers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.integrate import solve_ivp

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.peers import diffrax_tsit5
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import run_times
from benchmarks.problems.lotka_volterra import lotka_volterra

TITLE = (
    "Calls outside of jit, Lotka-Volterra over 0.1 at rtol 1e-4, beside one fresh trace of the "
    "field, which is part of a call (ms)"
)
Y0, P = jnp.array([1.0, 0.5]), jnp.array([1.5, 1.0, 3.0, 1.0])
SPAN = (0.0, 0.1)
RTOL, ATOL = 1e-4, 1e-6
SETTINGS = beside_diffrax(
    "1e-4",
    "1e-6",
    solver=("Tsit5; rodas5p as the row says", "a trace of the field; in the note Tsit5, RK45"),
    adjoint="not differentiated",
)


def trace() -> Any:
    """One fresh trace of the field: JAX keeps traces by the identity of the function."""
    t = jax.ShapeDtypeStruct((), Y0.dtype)
    jax.make_jaxpr(lambda t, y, p: lotka_volterra(t, y, p))(t, Y0, P)


def diffrax() -> Array:
    ys = diffrax_tsit5(lotka_volterra, Y0, jnp.asarray(SPAN), P, RTOL, ATOL, ends=True).ys
    assert ys is not None
    return ys[-1]


def scipy() -> np.ndarray:
    a, b, c, d = map(float, P)

    def field(t: float, y: Any) -> tuple[float, float]:
        return a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]

    return solve_ivp(field, SPAN, np.asarray(Y0), rtol=RTOL, atol=ATOL).y[:, -1]


def batch() -> Array:
    return jo.solve_batch(lotka_volterra, jnp.stack([Y0] * 4), SPAN, P, rtol=RTOL, atol=ATOL).y1


def solve(**options: Any) -> Array:
    return jo.solve(lotka_volterra, Y0, SPAN, P, rtol=RTOL, atol=ATOL, **options).y1


def odeint() -> Array:
    swapped = lambda y, t, p: lotka_volterra(t, y, p)  # noqa: E731
    return jo.odeint(swapped, Y0, jnp.asarray(SPAN), P, rtol=RTOL, atol=ATOL)


def rows() -> list[Comparison]:
    calls = {
        "solve": solve,
        "solve, rodas5p": lambda: solve(solver="rodas5p"),
        "odeint": odeint,
        "solve_batch, four": batch,
    }
    tracing, peer, other, *times = run_times(trace, diffrax, scipy, *calls.values(), repeats=301)
    note = f"diffrax, under jit: {peer:.3f}, SciPy: {other:.3f}"
    return [
        Comparison(
            name,
            time,
            tracing,
            "<= 0.3 beyond it",
            note=f"{time - tracing:.3f} beyond; {note}",
            is_met=time - tracing <= 0.3,
        )
        for name, time in zip(calls, times, strict=True)
    ]
