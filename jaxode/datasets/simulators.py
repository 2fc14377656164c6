"""Simulated dynamical systems, observed with noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

from ..drivers.solve_batch import solve_batch
from ..problem.errors import OptionError, unknown_name
from ..problem.validation import check_count, check_flag, check_key, check_level, check_positive


class Simulated(NamedTuple):
    """Simulated trajectories of a system.

    - `ts`: times, increasing from 0, shape `(n, times)`.
    - `ys`: observations, shape `(n, times, size)`. `truth`: the values without noise.
    """

    ts: Float[Array, "n times"]
    ys: Float[Array, "n times size"]
    truth: Float[Array, "n times size"]


class System(NamedTuple):
    """A dynamical system: its equations, default parameters and range of initial states.

    - `field`: the right-hand side, of `(t, y, parameters)`. `names`: of the state's components.
    - `parameters`: by name. `starts`: the lowest and highest initial state, each `(size,)`.
    - `end`: the last time, in units of the equations.
    """

    field: Callable
    names: tuple[str, ...]
    parameters: dict[str, float]
    starts: tuple[tuple[float, ...], tuple[float, ...]]
    end: float


def simulate(
    system: str | System,
    n: int = 1,
    *,
    key: Array,
    times: int = 100,
    end: float | None = None,
    noise: float = 0.0,
    irregular: bool = False,
    **parameters: ArrayLike,
) -> Simulated:
    """Draw initial states, solve, and observe with noise.

    **Arguments:**

    - `system`: "lotka_volterra", "fitzhugh_nagumo", "sir", "rlc", "damped_pendulum",
      "double_pendulum", "duffing", or a `System`; `SYSTEMS` has them by name.
    - `n`: trajectories; their initial states are uniform between the system's bounds.
    - `key`: of `jax.random`. Same key, same data.
    - `times`: number per trajectory, from 0 to `end`: evenly spaced, or if `irregular` drawn
      uniformly for each trajectory, except the first.
    - `noise`: standard deviation of the observations, in units of each component's own over all
      trajectories.
    - `parameters`: replace the system's, by name: a number for all trajectories, or
      one for each, shape `(n,)`.

    **Returns:** `Simulated(ts, ys, truth)`; solved to `rtol=1e-10` in float64.

    **Raises:** `OptionError` for an unknown system or parameter, bad counts, negative noise or an
    invalid key; `SolveError`, outside `jit`, for a trajectory that cannot be solved.
    """
    chosen = _find_system(system)
    _check_options(n, times, end, noise, irregular, key)
    values, axes = _parameter_values(chosen, n, parameters)
    start_key, time_key, noise_key = jax.random.split(key, 3)
    low, high = (jnp.asarray(bound, float) for bound in chosen.starts)
    y0 = jax.random.uniform(start_key, (n, low.size), minval=low, maxval=high)
    ts = _observation_times(n, times, chosen.end if end is None else end, irregular, time_key)
    tolerance = max(1e-10, 20 * float(jnp.finfo(y0.dtype).eps))
    truth = solve_batch(
        chosen.field,
        y0,
        ts,
        values,
        in_axes=(0, 0, axes),
        solver="vern7",
        rtol=tolerance,
        atol=tolerance,
        max_steps=100_000,
        throw=True,
    ).ys
    scale = noise * jnp.std(truth, axis=(0, 1))
    return Simulated(ts, truth + scale * jax.random.normal(noise_key, truth.shape), truth)


def _find_system(system: str | System) -> System:
    if isinstance(system, System):
        return system
    if not isinstance(system, str):
        raise OptionError(f"system must be a name or a System, got {system!r}")
    if system not in SYSTEMS:
        raise unknown_name("system", system, SYSTEMS)
    return SYSTEMS[system]


def _check_options(n: int, times: int, end: Any, noise: float, irregular: Any, key: Array) -> None:
    check_count("n", n)
    check_count("times", times, 2)
    check_level("noise", noise)
    check_key(key)
    check_positive("end", end)
    check_flag("irregular", irregular)


def _parameter_values(
    system: System, n: int, parameters: dict[str, ArrayLike]
) -> tuple[dict[str, ArrayLike], dict[str, int | None]]:
    """The parameters, by default the system's, and the mapped axis of each."""
    for name, value in parameters.items():
        if name not in system.parameters:
            raise unknown_name("parameter", name, system.parameters)
        if jnp.shape(value) not in ((), (n,)):
            raise OptionError(
                f"{name} must be a number or have shape ({n},), got shape {jnp.shape(value)}"
            )
    values = {
        name: jnp.asarray(x, float) for name, x in {**system.parameters, **parameters}.items()
    }
    return dict(values), {name: 0 if x.ndim else None for name, x in values.items()}


def _observation_times(n: int, times: int, end: float, irregular: bool, key: Array) -> Array:
    if not irregular:
        return jnp.broadcast_to(jnp.linspace(0.0, end, times), (n, times))
    random_times = jnp.sort(end * jax.random.uniform(key, (n, times)), axis=1)
    return random_times.at[:, 0].set(0.0)  # the initial state's time


def _lotka_volterra(t: Array, y: Array, p: dict) -> Array:
    encounters = y[0] * y[1]
    return jnp.stack(
        [p["alpha"] * y[0] - p["beta"] * encounters, p["delta"] * encounters - p["gamma"] * y[1]]
    )


def _fitzhugh_nagumo(t: Array, y: Array, p: dict) -> Array:
    v, w = y
    return jnp.stack([v - v**3 / 3 - w + p["current"], (v + p["a"] - p["b"] * w) / p["tau"]])


def _sir(t: Array, y: Array, p: dict) -> Array:
    infected = p["beta"] * y[0] * y[1] / jnp.sum(y)
    recovered = p["gamma"] * y[1]
    return jnp.stack([-infected, infected - recovered, recovered])


def _rlc(t: Array, y: Array, p: dict) -> Array:
    charge, current = y
    fall = p["resistance"] * current + charge / p["capacitance"]
    return jnp.stack([current, (p["voltage"] - fall) / p["inductance"]])


def _damped_pendulum(t: Array, y: Array, p: dict) -> Array:
    pull = -p["gravity"] / p["length"] * jnp.sin(y[0])
    return jnp.stack([y[1], pull - p["damping"] * y[1]])


def _double_pendulum(t: Array, y: Array, p: dict) -> Array:
    a, b, u, v = y
    g, m, n = p["gravity"], p["mass1"], p["mass2"]
    k, q = p["length1"], p["length2"]
    c, s = jnp.cos(a - b), jnp.sin(a - b)
    first = -n * q * v**2 * s - (m + n) * g * jnp.sin(a)
    second = k * u**2 * s - g * jnp.sin(b)
    effective_mass = m + n * s**2
    du = (first - n * c * second) / (k * effective_mass)
    dv = ((m + n) * second - c * first) / (q * effective_mass)
    return jnp.stack([u, v, du, dv])


def _duffing(t: Array, y: Array, p: dict) -> Array:
    pull = -p["delta"] * y[1] - p["alpha"] * y[0] - p["beta"] * y[0] ** 3
    return jnp.stack([y[1], pull + p["gamma"] * jnp.cos(p["omega"] * t)])


SYSTEMS: dict[str, System] = {
    # Lotka (1925) and Volterra (1926): prey and predators.
    "lotka_volterra": System(
        _lotka_volterra,
        ("prey", "predators"),
        {"alpha": 1.5, "beta": 1.0, "gamma": 3.0, "delta": 1.0},
        ((0.5, 0.5), (3.0, 2.0)),
        10.0,
    ),
    # FitzHugh (1961), the parameters of Nagumo's circuit: membrane potential and recovery.
    "fitzhugh_nagumo": System(
        _fitzhugh_nagumo,
        ("potential", "recovery"),
        {"a": 0.7, "b": 0.8, "tau": 12.5, "current": 0.5},
        ((-2.0, -1.0), (2.0, 1.5)),
        100.0,
    ),
    # Kermack and McKendrick (1927), with the rates of influenza among 763 boys of a school (Murray,
    # Mathematical Biology, after the British Medical Journal, 4 March 1978): persons, days.
    "sir": System(
        _sir,
        ("susceptible", "infected", "recovered"),
        {"beta": 1.66, "gamma": 0.44},
        ((740.0, 1.0, 0.0), (762.0, 10.0, 0.0)),
        14.0,
    ),
    # A resistor, a coil and a capacitor in series: coulombs, amperes, seconds.
    "rlc": System(
        _rlc,
        ("charge", "current"),
        {"resistance": 0.5, "inductance": 1.0, "capacitance": 0.25, "voltage": 0.0},
        ((-1.0, -1.0), (1.0, 1.0)),
        10.0,
    ),
    # Radians, seconds, metres.
    "damped_pendulum": System(
        _damped_pendulum,
        ("angle", "velocity"),
        {"gravity": 9.81, "length": 1.0, "damping": 0.15},
        ((-2.0, -1.0), (2.0, 1.0)),
        10.0,
    ),
    # Two point masses on rods, angles from the vertical: radians, seconds, metres, kilograms.
    "double_pendulum": System(
        _double_pendulum,
        ("angle1", "angle2", "velocity1", "velocity2"),
        {"gravity": 9.81, "mass1": 1.0, "mass2": 1.0, "length1": 1.0, "length2": 1.0},
        ((-1.0, -1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)),
        10.0,
    ),
    # Duffing (1918), the chaotic forcing of Guckenheimer and Holmes (1983).
    "duffing": System(
        _duffing,
        ("position", "velocity"),
        {"alpha": -1.0, "beta": 1.0, "delta": 0.3, "gamma": 0.5, "omega": 1.2},
        ((-1.5, -1.0), (1.5, 1.0)),
        30.0,
    ),
}
