"""Reversible against checkpoints: a double pendulum over 10,000 steps, value and gradient.

Both take the same fixed steps of Tsit5, so that neither controller has a part in it; the gradient
is by the start and the five parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Row, compile_times, run_times
from benchmarks.speed.neural_ode import distance

TITLE = "Double pendulum, Tsit5, 10,000 fixed steps, value and gradient (ms; memory in KiB)"
STEPS, END = 10_000, 10.0
Y0 = jnp.array([1.2, 0.7, 0.3, -0.2])
ARGS = {"m": (1.0, 0.8), "l": (1.0, 1.2), "g": 9.81}


def field(t: Array, y: Array, p: Any) -> Array:
    """Angles and their velocities, from the Lagrangian of two point masses."""
    (m1, m2), (l1, l2), g = p["m"], p["l"], p["g"]
    a, b, u, v = y
    s, c = jnp.sin(a - b), jnp.cos(a - b)
    d = m1 + m2 * s * s
    p1 = m2 * s * (l1 * u * u * c + l2 * v * v) + (m1 + m2) * g * jnp.sin(a)
    p2 = (m1 + m2) * (l1 * u * u * s - g * jnp.sin(b)) + m2 * l2 * v * v * s * c
    du = (m2 * g * jnp.sin(b) * c - p1) / (l1 * d)
    dv = (p2 + (m1 + m2) * g * jnp.sin(a) * c) / (l2 * d)
    return jnp.stack([u, v, du, dv])


def ours(y0: Array, p: Any, **options: Any) -> Array:
    options = {"sensitivity": "reversible", "controller": jo.Fixed(END / STEPS), **options}
    return jnp.sum(jo.solve(field, y0, (0.0, END), p, max_steps=STEPS, **options).y1 ** 2)


def peer(y0: Array, p: Any) -> Array:
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),  # pyright: ignore[reportArgumentType]
        diffrax.Tsit5(),
        0.0,
        END,
        END / STEPS,
        y0,
        p,
        saveat=diffrax.SaveAt(t1=True),
        adjoint=diffrax.RecursiveCheckpointAdjoint(),
        max_steps=STEPS + 1,
    )
    assert solution.ys is not None
    return jnp.sum(solution.ys**2)


def make(loss: Callable, pendulums: int = 1) -> tuple[Any, tuple]:
    """The compiled value and gradient; of many pendulums, all as one state."""
    args = jax.tree.map(jnp.asarray, ARGS)
    y0 = Y0 if pendulums == 1 else Y0[:, None] * jnp.linspace(0.9, 1.1, pendulums)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), (y0, args)


def kibibytes(loss: Callable, pendulums: int) -> float:
    """What XLA sets aside for it."""
    function, args = make(loss, pendulums)
    analysis = function.lower(*args).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / 2**10


def rows() -> list[Row]:
    (mine, args), (theirs, _) = make(ours), make(peer)
    tight = {"sensitivity": "discrete", "solver": "dopri8", "controller": None}
    exact = make(functools.partial(ours, **tight, rtol=1e-13, atol=1e-13))[0](*args)[1]
    times = run_times(lambda: mine(*args), lambda: theirs(*args), repeats=15)
    errors = [distance(function(*args)[1], exact) for function in (mine, theirs)]
    found = [Row("time", times[0], times[1], ">= 1.3", errors[0], errors[1])]
    for pendulums in (1, 1000):
        memory = kibibytes(ours, pendulums), kibibytes(peer, pendulums)
        found.append(Row(f"temporary memory, {pendulums} at once", *memory, ">= 5"))
    compiled = compile_times(lambda: make(ours), lambda: make(peer), repeats=3)
    found.append(Row("compile", compiled[0], compiled[1], "", note="no target"))
    return found
