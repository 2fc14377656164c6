"""The reversible gradient against checkpoints: a double pendulum over 10,000 steps.

Both take the same fixed steps of Tsit5, so that no step size controller is involved; the gradient
is by the initial state and the five parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.side_by_side import NOT_USED, beside_diffrax
from benchmarks.harness.timing import compile_times, run_times

TITLE = "Double pendulum, Tsit5, 10,000 fixed steps, value and gradient (ms; memory in KiB)"
SETTINGS = beside_diffrax(
    rtol=NOT_USED,
    atol=NOT_USED,
    solver=("ReversibleRK(Tsit5(), None)", "Tsit5"),
    first_step="1e-3",
    controller=("jo.Fixed(1e-3)", "ConstantStepSize()"),
    adjoint=("jo.Reversible()", "RecursiveCheckpointAdjoint()"),
    max_steps=("10,000", "10,001"),
)
STEPS, END = 10_000, 10.0
Y0 = jnp.array([1.2, 0.7, 0.3, -0.2])
ARGS = {"m": (1.0, 0.8), "l": (1.0, 1.2), "g": 9.81}


def field(t: Array, y: Array, p: Any) -> Array:
    """The vector field of angles and velocities, from the Lagrangian of two point masses."""
    (m1, m2), (l1, l2), g = p["m"], p["l"], p["g"]
    a, b, u, v = y
    s, c = jnp.sin(a - b), jnp.cos(a - b)
    d = m1 + m2 * s * s
    p1 = m2 * s * (l1 * u * u * c + l2 * v * v) + (m1 + m2) * g * jnp.sin(a)
    p2 = (m1 + m2) * (l1 * u * u * s - g * jnp.sin(b)) + m2 * l2 * v * v * s * c
    du = (m2 * g * jnp.sin(b) * c - p1) / (l1 * d)
    dv = (p2 + (m1 + m2) * g * jnp.sin(a) * c) / (l2 * d)
    return jnp.stack([u, v, du, dv])


def our_loss(y0: Array, p: Any, **options: Any) -> Array:
    """The sum of squares of the end state by jaxode's reversible solve."""
    if not options:
        solver = jo.ReversibleRK(jo.Tsit5(), None)  # `jo.Reversible` chooses the coupling
        options = {"sensitivity": "reversible", "solver": solver}
    options = {"controller": jo.Fixed(END / STEPS), **options}
    return jnp.sum(jo.solve(field, y0, (0.0, END), p, max_steps=STEPS, **options).y1 ** 2)


def peer_loss(y0: Array, p: Any) -> Array:
    """The sum of squares of the end state by diffrax with checkpoints."""
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


def make_gradient(loss: Callable, pendulums: int = 1) -> tuple[Any, tuple]:
    """Value and gradient, jitted, and its inputs; several pendulums are one state."""
    args = jax.tree.map(jnp.asarray, ARGS)
    y0 = Y0 if pendulums == 1 else Y0[:, None] * jnp.linspace(0.9, 1.1, pendulums)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), (y0, args)


def temporary_memory(loss: Callable, pendulums: int) -> float:
    """The temporary memory in KiB that XLA allocates for value and gradient."""
    function, args = make_gradient(loss, pendulums)
    analysis = function.lower(*args).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / 2**10


def rows() -> list[Comparison]:
    memory = {n: [temporary_memory(f, n) for f in (our_loss, peer_loss)] for n in (1, 1000)}
    compiling = compile_times(
        lambda: make_gradient(our_loss), lambda: make_gradient(peer_loss), repeats=3
    )
    return [
        time_row(),
        *(
            Comparison(f"temporary memory, {n} at once", ours, peer, ">= 5")
            for n, (ours, peer) in memory.items()
        ),
        Comparison("compile", compiling[0], compiling[1], "", note="no target"),
    ]


def time_row() -> Comparison:
    """The run times, and the errors against a tight adaptive solve."""
    (ours, args), (peer, _) = make_gradient(our_loss), make_gradient(peer_loss)
    tight = {"sensitivity": "discrete", "solver": "dopri8", "controller": None}
    precise_loss = functools.partial(our_loss, **tight, rtol=1e-13, atol=1e-13)
    exact = make_gradient(precise_loss)[0](*args)[1]
    times = run_times(lambda: ours(*args), lambda: peer(*args), repeats=15)
    errors = [relative_error(f(*args)[1], exact) for f in (ours, peer)]
    return Comparison("time", times[0], times[1], ">= 1.3", errors[0], errors[1])
