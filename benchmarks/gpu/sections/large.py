"""Large states, one array for each stage: the XLA path itself, and what the device does in it."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.gpu.ensemble import Ensemble, gradient
from benchmarks.gpu.ensemble_jobs import DIFFRAX, XLA, jobs
from benchmarks.gpu.jobs import Section
from benchmarks.gpu.sizes import Sizes

RTOL, ATOL = 1e-5, 1e-7


def section(sizes: Sizes) -> Section:
    points, side = sizes.points, sizes.wave
    rates = np.array([1.0, 3.0, 0.5])
    heap = Ensemble(brusselator, rates, humps(points), 10.0, (None, None), RTOL, ATOL)
    name = f"Brusselator, 1-D, {2 * points:,} unknowns"
    # A sample of two: sixteen large waves in float64 would keep the processor busy.
    waves = Ensemble(
        wave, np.float64(1.0), standing(side, sizes.waves), 50.0, (None, 0), RTOL, ATOL, sample=2
    )
    by = XLA, DIFFRAX
    found = [
        *jobs(name, heap, by=by, traced=True),
        *jobs(f"{name}, gradient", heap, gradient, by, traced=True),
        *jobs(f"wave, {side} x {side}", waves, by=by, traced=True),
    ]
    text = (
        f"Tsit5, rtol {RTOL:g}, atol {ATOL:g}, points a unit apart; a single state by `jo.solve`, "
        "waves by `jo.solve_batch(kernel=False)`; the gradient is by the three rates. Idle: the "
        "share of a run in which the device did nothing, and how often the host read from it, per "
        "step of the longest trajectory (of a gradient: per step there and back), by "
        "`jax.profiler`."
    )
    return Section("Large states, float32, without a kernel", text, found)


def brusselator(t: Array, y: Array, rates: Array) -> Array:
    """Rows u and v, with diffusion on points a unit apart, held fast at both ends."""
    (u, v), (a, b, diffusion) = y, rates
    made = u * u * v
    du = a + made - (b + 1) * u + diffusion * _bent(u, a)
    return jnp.stack([du, b * u - made + diffusion * _bent(v, b / a)])


def _bent(w: Array, end: Array) -> Array:
    w = jnp.concatenate([end[None], w, end[None]])
    return w[2:] - 2 * w[1:-1] + w[:-2]


def humps(points: int) -> np.ndarray:
    places = np.arange(1, points + 1) / (points + 1)
    return np.stack([1 + np.sin(2 * np.pi * places), np.full(points, 3.0)])


def wave(t: Array, y: Array, speed: Array) -> Array:
    """Heights and their velocities, zero around the edge."""
    u, velocity = y
    w = jnp.pad(u, 1)
    around = w[2:, 1:-1] + w[:-2, 1:-1] + w[1:-1, 2:] + w[1:-1, :-2]
    return jnp.stack([velocity, speed**2 * (around - 4 * u)])


def standing(side: int, count: int) -> np.ndarray:
    """Sines along both sides, another pair of them in each of a batch; at rest."""
    places = np.pi * np.arange(1, side + 1) / (side + 1)
    waves = [np.outer(np.sin((k + 1) * places), np.sin((2 * k + 1) * places)) for k in range(count)]
    return np.stack([np.stack([u, np.zeros_like(u)]) for u in waves])
