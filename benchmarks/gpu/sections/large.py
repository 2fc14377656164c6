"""Large states, solved by XLA without a kernel, with the device's activity."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu.ensemble import GpuEnsemble, gradient
from benchmarks.gpu.ensemble_jobs import DIFFRAX, XLA, ensemble_jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes

RTOL, ATOL = 1e-5, 1e-7


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    points, side = sizes.points, sizes.wave
    rates = np.array([1.0, 3.0, 0.5])
    reaction = GpuEnsemble(
        brusselator, rates, brusselator_start(points), 10.0, (None, None), RTOL, ATOL
    )
    name = f"Brusselator, 1-D, {2 * points:,} unknowns"
    # Two waves are the sample, because the exact solution of all would take the processor long.
    waves = GpuEnsemble(
        wave, np.float64(1.0), standing_waves(side, sizes.waves), 50.0, (None, 0), RTOL, ATOL,
        sample_size=2,
    )  # fmt: skip
    methods = XLA, DIFFRAX
    found = [
        *ensemble_jobs(name, reaction, methods=methods, profiled=True),
        *ensemble_jobs(f"{name}, gradient", reaction, gradient, methods, profiled=True),
        *ensemble_jobs(f"wave, {side} x {side}", waves, methods=methods, profiled=True),
    ]
    text = (
        f"Tsit5, rtol {RTOL:g}, atol {ATOL:g}, points a unit apart; a single state by `jo.solve`, "
        "waves by `jo.solve_batch(kernel=False)`; the gradient is by the three rates. Idle: the "
        "share of a run in which the device did nothing; reads: copies to the host per step of the "
        "longest trajectory (of a gradient: per step of both passes), by `jax.profiler`."
    )
    return Section("Large states, float32, without a kernel", text, found)


def brusselator(t: Array, y: Array, rates: Array) -> Array:
    """The vector field of rows u and v, with fixed values at both ends and unit spacing."""
    (u, v), (a, b, diffusion) = y, rates
    reaction = u * u * v
    du = a + reaction - (b + 1) * u + diffusion * _second_difference(u, a)
    return jnp.stack([du, b * u - reaction + diffusion * _second_difference(v, b / a)])


def _second_difference(w: Array, boundary: Array) -> Array:
    w = jnp.concatenate([boundary[None], w, boundary[None]])
    return w[2:] - 2 * w[1:-1] + w[:-2]


def brusselator_start(points: int) -> np.ndarray:
    """The initial state of the Brusselator."""
    x = np.arange(1, points + 1) / (points + 1)
    return np.stack([1 + np.sin(2 * np.pi * x), np.full(points, 3.0)])


def wave(t: Array, y: Array, speed: Array) -> Array:
    """The vector field of heights and velocities, zero at the boundary."""
    u, velocity = y
    w = jnp.pad(u, 1)
    neighbours = w[2:, 1:-1] + w[:-2, 1:-1] + w[1:-1, 2:] + w[1:-1, :-2]
    return jnp.stack([velocity, speed**2 * (neighbours - 4 * u)])


def standing_waves(side: int, count: int) -> np.ndarray:
    """Initial states at rest: products of sines, with different modes in each trajectory."""
    x = np.pi * np.arange(1, side + 1) / (side + 1)
    waves = [np.outer(np.sin((k + 1) * x), np.sin((2 * k + 1) * x)) for k in range(count)]
    return np.stack([np.stack([u, np.zeros_like(u)]) for u in waves])
