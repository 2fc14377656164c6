"""Pendulums: vector fields with an energy beside a plain network, extrapolated in time."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.selection import (
    Settings,
    best_settings,
    cosine_adam,
    grid,
    num_weights,
    settings_text,
    width_for,
)
from benchmarks.harness.trained import Asked, Result, TrainedModel

GRAVITY, DAMPING, SPACING = 9.81, 0.15, 0.05
# Points of a training trajectory, of a window of it, and of a test trajectory.
POINTS, WINDOW, HORIZON = 41, 9, 401
BATCH, VALIDATED, TESTED = 64, 16, 32
# What was asked: an energy error under a tenth of the plain network's.
ASKED = 0.1


class System(NamedTuple):
    """A pendulum in angles and velocities, and the options of its training."""

    title: str
    field: Callable
    energy: Callable[[Array], Array]
    momentum: Callable[[Array, Array], Array]
    angles: int
    max_angle: float
    trajectories: int
    candidates: list[Settings]
    steps: int
    lbfgs_steps: int  # after the steps of Adam


def _double_mass(q: Array) -> Array:
    """The mass matrix of the double pendulum."""
    c = jnp.cos(q[0] - q[1])
    return jnp.array([[2.0, 0.0], [0.0, 1.0]]) + c * jnp.array([[0.0, 1.0], [1.0, 0.0]])


def _double_potential(q: Array) -> Array:
    """The potential energy of the double pendulum."""
    return -GRAVITY * (2 * jnp.cos(q[0]) + jnp.cos(q[1]))


DOUBLE = System(
    title="double pendulum",
    field=jo.nn.Lagrangian(
        lambda y: 0.5 * y[2:] @ _double_mass(y[:2]) @ y[2:] - _double_potential(y)
    ),
    energy=lambda y: 0.5 * y[2:] @ _double_mass(y[:2]) @ y[2:] + _double_potential(y),
    momentum=lambda q, v: _double_mass(q) @ v,
    angles=2,
    max_angle=1.0,
    trajectories=50,
    candidates=grid(rate=(3e-3, 1e-2), weights=(1500, 5000)),
    steps=400,
    lbfgs_steps=0,
)
DAMPED = System(
    title="damped pendulum",
    field=lambda t, y, args: jnp.stack([y[1], -GRAVITY * jnp.sin(y[0]) - DAMPING * y[1]]),
    energy=lambda y: 0.5 * y[1] ** 2 - GRAVITY * jnp.cos(y[0]),
    momentum=lambda q, v: v,
    angles=1,
    max_angle=2.0,
    trajectories=25,
    candidates=grid(rate=(3e-3, 1e-2), weights=(1500, 5000)),
    steps=400,
    lbfgs_steps=100,
)
SYSTEMS = {"double": DOUBLE, "damped": DAMPED}


class AngleNetwork(eqx.Module):
    """A network of the cosines and sines of the angles, and of the remaining components."""

    network: eqx.nn.MLP
    angles: int = eqx.field(static=True)

    def __init__(self, angles: int, rest: int, out: Any, width: int, key: Array) -> None:
        size = 2 * angles + rest
        self.network = eqx.nn.MLP(size, out, width, 2, jax.nn.softplus, key=key)
        self.angles = angles

    def __call__(self, y: Array) -> Array:
        q = y[: self.angles]
        return self.network(jnp.concatenate([jnp.cos(q), jnp.sin(q), y[self.angles :]]))


class Mechanical(eqx.Module):
    """The Hamiltonian of one coordinate with a constant mass: `p^2 / 2m` and a potential."""

    log_mass: Array
    potential: Callable

    def __call__(self, y: Array) -> Array:
        return 0.5 * y[1] ** 2 * jnp.exp(-self.log_mass) + self.potential(y[:1])


class Constant(eqx.Module):
    """A trained constant."""

    value: Array

    def __call__(self, q: Array) -> Array:
        return self.value[None]


class Friction(eqx.Module):
    """A friction force proportional to the velocity."""

    rate: Array

    def __call__(self, y: Array) -> Array:
        return -jax.nn.softplus(self.rate) * y[1:]


def plain_double(width: int, key: Array) -> Callable:
    """A network of angles and velocities."""
    return AngleNetwork(2, 2, 4, width, key)


def hamiltonian_double(width: int, key: Array) -> Callable:
    """The flow of a Hamiltonian network."""
    return jo.nn.Hamiltonian(AngleNetwork(2, 2, "scalar", width, key))


def lagrangian_double(width: int, key: Array) -> Callable:
    """The flow of a mass matrix and a potential that are networks."""
    keys = jax.random.split(key)
    mass, potential = (
        AngleNetwork(2, 0, out, width, k) for out, k in zip((3, "scalar"), keys, strict=True)
    )
    return jo.nn.MechanicalLagrangian(mass, potential)


def _network(size: int, out: Any, width: int, key: Array) -> eqx.nn.MLP:
    """A network of the angle itself, since the damped pendulum never turns over."""
    return eqx.nn.MLP(size, out, width, 2, jax.nn.softplus, key=key)


def plain_damped(width: int, key: Array) -> Callable:
    """A network of angle and velocity."""
    return _network(2, 2, width, key)


def port_hamiltonian_damped(width: int, key: Array) -> Callable:
    """The flow of a potential that is a network, with a trained mass and dissipation."""
    return jo.nn.PortHamiltonian(Mechanical(jnp.zeros(()), _network(1, "scalar", width, key)), 2)


def lagrangian_damped(width: int, key: Array) -> Callable:
    """A potential that is a network, with a trained mass and friction."""
    zero, potential = jnp.zeros(()), _network(1, "scalar", width, key)
    return jo.nn.MechanicalLagrangian(Constant(zero), potential, Friction(zero))


# Each field by its name, with a flag: its state has the true momenta instead of velocities.
PLAIN = "plain network"
FIELDS: dict[str, dict[str, tuple[Callable, bool]]] = {
    "double": {
        PLAIN: (plain_double, False),
        "Hamiltonian, true momenta given": (hamiltonian_double, True),
        "Hamiltonian, velocities for momenta": (hamiltonian_double, False),
        "Lagrangian": (lagrangian_double, False),
    },
    "damped": {
        PLAIN: (plain_damped, False),
        # Mass and length are one: the momentum is the velocity.
        "port-Hamiltonian": (port_hamiltonian_damped, True),
        "Lagrangian": (lagrangian_damped, False),
    },
}


def trajectories(system: System, count: int, points: int, key: Array) -> Array:
    """Angles and velocities, shape (count, points, size), from rest at random angles."""
    angles = jax.random.uniform(key, (count, system.angles), minval=-1.0) * system.max_angle
    y0 = jnp.concatenate([angles, jnp.zeros_like(angles)], axis=1)
    ts = SPACING * jnp.arange(points)
    return jo.solve_batch(
        system.field, y0, ts, solver="dopri8", rtol=1e-10, atol=1e-10, max_steps=20_000
    ).ys


def with_momenta(system: System, ys: Array) -> Array:
    """States with velocities converted to states with momenta."""
    n = system.angles
    momenta = jnp.vectorize(system.momentum, signature="(n),(n)->(n)")(ys[..., :n], ys[..., n:])
    return jnp.concatenate([ys[..., :n], momenta], axis=-1)


def with_velocities(system: System, ys: Array) -> Array:
    """States with momenta converted to states with velocities."""
    n = system.angles

    def convert(y: Array) -> Array:
        mass = jax.jacfwd(lambda v: system.momentum(y[:n], v))(jnp.zeros(n))
        return jnp.concatenate([y[:n], jnp.linalg.solve(mass, y[n:])])

    return jnp.vectorize(convert, signature="(n)->(n)")(ys)


def loss(model: jo.NeuralODE, windows: Array) -> Array:
    """Mean squared error over windows, shape (batch, WINDOW, size), from their first points."""
    found = model(windows[:, 0], SPACING * jnp.arange(WINDOW))
    return jnp.mean((found - windows) ** 2)


def energy_error(system: System, model: jo.NeuralODE, momenta: bool, key: Array) -> float:
    """The root mean square error of the energy over the horizon, in units of its spread."""
    exact = trajectories(system, TESTED, HORIZON, key)
    y0 = with_momenta(system, exact[:, 0]) if momenta else exact[:, 0]
    found = model(y0, SPACING * jnp.arange(HORIZON))
    found = with_velocities(system, found) if momenta else found
    energy = jnp.vectorize(system.energy, signature="(n)->()")
    exact_energy = energy(exact)
    error = jnp.sqrt(jnp.mean((energy(found) - exact_energy) ** 2))
    return float(error / jnp.std(exact_energy[:, 0]))


def windows_of(system: System, count: int, momenta: bool, key: Array) -> Array:
    """All windows of new trajectories, shape (windows, WINDOW, size)."""
    data = trajectories(system, count, POINTS, key)
    data = with_momenta(system, data) if momenta else data
    starts = jnp.arange(POINTS - WINDOW + 1)[:, None] + jnp.arange(WINDOW)
    return data[:, starts].reshape(-1, WINDOW, data.shape[-1])


def train(
    system: System, make: Callable, momenta: bool, settings: Settings, seed: int, effort: float
) -> jo.NeuralODE:
    """The model trained by Adam and, for some systems, L-BFGS."""
    windows = windows_of(system, system.trajectories, momenta, jax.random.key(1000 + seed))
    key, steps = jax.random.key(seed), max(2, int(effort * system.steps))
    field = make(width_for(partial(make, key=key), settings["weights"]), key)
    model = jo.NeuralODE(field, rtol=1e-5, atol=1e-5, throw=False, max_steps=4096)
    model, _ = jo.fit(
        model, windows, loss=loss, steps=steps, batch_size=BATCH, key=key, progress=False,
        optimizer=cosine_adam(settings["rate"], steps),
    )  # fmt: skip
    if not system.lbfgs_steps:
        return model
    # Every fourth window is enough, since windows overlap.
    return train_by_lbfgs(model, windows[::4], max(2, int(effort * system.lbfgs_steps)))


def train_by_lbfgs(model: jo.NeuralODE, windows: Array, steps: int) -> jo.NeuralODE:
    """The model after `steps` of L-BFGS on all windows."""
    model = eqx.tree_at(lambda m: (m.settings.rtol, m.settings.atol), model, (1e-7, 1e-7))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.lbfgs(memory_size=20)

    def loss_of_params(params: Any) -> Array:
        return loss(eqx.combine(params, static), windows)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradient = optax.value_and_grad_from_state(loss_of_params)(params, state=state)
        updates, state = optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss_of_params
        )
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return eqx.combine(params, static)


def field_row(
    name: str, system: System, make: Callable, momenta: bool, seeds: int, effort: float
) -> TrainedModel:
    """The energy errors of one field on test trajectories, with settings of its own."""

    def validation_loss(settings: Settings) -> float:
        model = train(system, make, momenta, settings, 500, effort)
        windows = windows_of(system, VALIDATED, momenta, jax.random.key(3000))
        return float(loss(model, windows))

    chosen = best_settings(name, system.candidates, validation_loss)
    errors, weights = [], 0
    for seed in range(seeds):
        model = train(system, make, momenta, chosen, seed, effort)
        error = energy_error(system, model, momenta, jax.random.key(2000 + seed))
        errors.append(math.inf if math.isnan(error) else error)
        weights = num_weights(model.field)
    print(name, errors, flush=True)
    return TrainedModel(name, weights, {ERROR: errors}, settings_text(chosen))


ERROR = "energy error"


def pendulum_result(name: str, seeds: int, effort: float) -> Result:
    """Every field on one pendulum."""
    system = SYSTEMS[name]
    rows = [field_row(n, system, *field, seeds, effort) for n, field in FIELDS[name].items()]
    finish = f", then {system.lbfgs_steps} of L-BFGS" if system.lbfgs_steps else ""
    return Result(
        title=f"A {system.title}: fields with an energy",
        columns={ERROR: ".3g"},
        rows=rows,
        settings={
            "data": f"{(POINTS - 1) * SPACING:.0f} s of {system.trajectories} trajectories, no "
            "noise",
            "test": f"{(HORIZON - 1) * SPACING:.0f} s of {TESTED} others: root mean square error "
            "of the energy, in standard deviations of their first energies",
            "validation": f"mean squared error over windows of {VALIDATED} other trajectories",
            "candidates": "learning rate 0.003, 0.01; 1,500, 5,000 weights, within 10 per cent",
            "training": f"{system.steps} steps of Adam, cosine decay{finish}; batches of {BATCH} "
            f"windows of {WINDOW} points",
            "solver": "tsit5, rtol 1e-5, atol 1e-5, discrete adjoint, float64",
        },
        asked=[asked(row, rows[0]) for row in rows[1:]],
        notes=NOTES[name],
    )


NOTES = {
    "double": [
        "Momenta are made of the velocities by the true mass matrix, which the other fields do not "
        "see: the first Hamiltonian knows more than they do. The second takes velocities as if "
        "they were momenta; no Hamiltonian of these coordinates has the true flow."
    ],
    "damped": ["All networks take the angle itself."],
}


def asked(row: TrainedModel, plain: TrainedModel) -> Asked:
    """Whether the mean energy error is a tenth of the plain network's."""
    ratio = sum(row.figures[ERROR]) / sum(plain.figures[ERROR])
    return Asked(f"{row.name}: a tenth of the plain network's error", ratio, ratio <= ASKED)
