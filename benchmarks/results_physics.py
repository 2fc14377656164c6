"""Two pendulums: fields with an energy beside a plain network, far beyond what they were shown."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo

from .report import publish, spread, table

GRAVITY, DAMPING, SPACING = 9.81, 0.15, 0.05
SHOWN, WINDOW, HORIZON = 41, 9, 401  # points of a trajectory shown, of a window, and tested
WIDTH, BATCH, STEPS = 64, 256, 3000


class System(NamedTuple):
    """A pendulum: its field and its energy by angles and velocities, and how it is thrown."""

    title: str
    field: Callable
    energy: Callable[[Array], Array]
    momentum: Callable[[Array, Array], Array]
    angles: int
    reach: float


def _double_mass(q: Array) -> Array:
    c = jnp.cos(q[0] - q[1])
    return jnp.array([[2.0, 0.0], [0.0, 1.0]]) + c * jnp.array([[0.0, 1.0], [1.0, 0.0]])


def _double_potential(q: Array) -> Array:
    return -GRAVITY * (2 * jnp.cos(q[0]) + jnp.cos(q[1]))


DOUBLE = System(
    "double pendulum",
    jo.nn.Lagrangian(lambda y: 0.5 * y[2:] @ _double_mass(y[:2]) @ y[2:] - _double_potential(y)),
    lambda y: 0.5 * y[2:] @ _double_mass(y[:2]) @ y[2:] + _double_potential(y),
    lambda q, v: _double_mass(q) @ v,
    2,
    1.0,
)
DAMPED = System(
    "damped pendulum",
    lambda t, y, args: jnp.stack([y[1], -GRAVITY * jnp.sin(y[0]) - DAMPING * y[1]]),
    lambda y: 0.5 * y[1] ** 2 - GRAVITY * jnp.cos(y[0]),
    lambda q, v: v,
    1,
    2.0,
)


class OfAngles(eqx.Module):
    """A network that sees angles by their cosine and sine, and the rest as it is."""

    network: eqx.nn.MLP
    angles: int = eqx.field(static=True)

    def __init__(self, angles: int, rest: int, out: Any, key: Array) -> None:
        size = 2 * angles + rest
        self.network = eqx.nn.MLP(size, out, WIDTH, 2, jax.nn.softplus, key=key)
        self.angles = angles

    def __call__(self, y: Array) -> Array:
        q = y[: self.angles]
        return self.network(jnp.concatenate([jnp.cos(q), jnp.sin(q), y[self.angles :]]))


def fields(system: System, key: Array) -> dict[str, tuple[Callable, bool]]:
    """The fields that learn, and whether their state has momenta in the place of velocities."""
    n, lossy = system.angles, system is DAMPED
    keys = jax.random.split(key, 5)
    energy = OfAngles(n, n, "scalar", keys[0])
    with_energy = jo.nn.PortHamiltonian(energy, 2 * n) if lossy else jo.nn.Hamiltonian(energy)
    friction = eqx.nn.Linear(2 * n, n, key=keys[3]) if lossy else None
    mass = OfAngles(n, 0, n * (n + 1) // 2, keys[1])
    potential = OfAngles(n, 0, "scalar", keys[2])
    return {
        "plain": (OfAngles(n, n, 2 * n, keys[4]), False),
        "port-Hamiltonian" if lossy else "Hamiltonian": (with_energy, True),
        "Lagrangian": (jo.nn.MechanicalLagrangian(mass, potential, friction), False),
    }


def trajectories(system: System, count: int, points: int, key: Array) -> Array:
    """Angles and velocities, shape (count, points, size), from rest at random angles."""
    angles = jax.random.uniform(key, (count, system.angles), minval=-1.0) * system.reach
    y0 = jnp.concatenate([angles, jnp.zeros_like(angles)], axis=1)
    ts = SPACING * jnp.arange(points)
    return jo.solve_batch(
        system.field, y0, ts, solver="dopri8", rtol=1e-10, atol=1e-10, max_steps=20_000
    ).ys


def with_momenta(system: System, ys: Array) -> Array:
    n = system.angles
    momenta = jnp.vectorize(system.momentum, signature="(n),(n)->(n)")(ys[..., :n], ys[..., n:])
    return jnp.concatenate([ys[..., :n], momenta], axis=-1)


def velocities(system: System, ys: Array) -> Array:
    """The way back from momenta, for the energy."""
    n = system.angles

    def one(y: Array) -> Array:
        mass = jax.jacfwd(lambda v: system.momentum(y[:n], v))(jnp.zeros(n))
        return jnp.concatenate([y[:n], jnp.linalg.solve(mass, y[n:])])

    return jnp.vectorize(one, signature="(n)->(n)")(ys)


def loss(model: jo.NeuralODE, windows: Array) -> Array:
    """Mean squared error over windows, shape (batch, WINDOW, size), from their first points."""
    found = model(windows[:, 0], SPACING * jnp.arange(WINDOW))
    return jnp.mean((jnp.moveaxis(found, 0, 1) - windows) ** 2)


def energy_error(system: System, model: jo.NeuralODE, momenta: bool, key: Array) -> float:
    """The root mean square error of the energy over the horizon, in units of its spread."""
    true = trajectories(system, 32, HORIZON, key)
    start = with_momenta(system, true[:, 0]) if momenta else true[:, 0]
    found = jnp.moveaxis(model(start, SPACING * jnp.arange(HORIZON)), 0, 1)
    found = velocities(system, found) if momenta else found
    energy = jnp.vectorize(system.energy, signature="(n)->()")
    wanted = energy(true)
    return float(jnp.sqrt(jnp.mean((energy(found) - wanted) ** 2)) / jnp.std(wanted[:, 0]))


def trained(system: System, field: Callable, momenta: bool, seed: int, steps: int) -> Any:
    shown = trajectories(system, 100, SHOWN, jax.random.key(1000 + seed))
    shown = with_momenta(system, shown) if momenta else shown
    starts = jnp.arange(SHOWN - WINDOW + 1)[:, None] + jnp.arange(WINDOW)
    windows = shown[:, starts].reshape(-1, WINDOW, shown.shape[-1])
    model = jo.NeuralODE(field, rtol=1e-5, atol=1e-5, throw=False, max_steps=4096)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    return jo.fit(
        model, windows, loss=loss, steps=steps, batch_size=BATCH, optimizer=optimizer,
        key=jax.random.key(seed),
    )  # fmt: skip


def main() -> None:
    """Train every field on both pendulums and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for system in (DOUBLE, DAMPED):
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(options.seeds):
            for name, (field, momenta) in fields(system, jax.random.key(seed)).items():
                model, log = trained(system, field, momenta, seed, options.steps)
                error = energy_error(system, model, momenta, jax.random.key(2000 + seed))
                found.setdefault(name, []).append((error, float(log.loss[-1])))
                print(system.title, name, seed, found[name][-1], log.summary(), flush=True)
        plain = [error for error, _ in found["plain"]]
        for name, values in found.items():
            errors, losses = zip(*values, strict=True)
            ratios = [a / b for a, b in zip(plain, errors, strict=True)]
            rows.append([system.title, name, *(spread(v) for v in (losses, errors, ratios))])
    header = ["system", "field", "training loss", "energy error", "times under the plain one's"]
    shown = (
        f"Shown: {(SHOWN - 1) * SPACING:.0f} s of 100 trajectories. Energy error: root mean square "
        f"over {(HORIZON - 1) * SPACING:.0f} s of 32 others, in standard deviations of their first "
        "energies."
    )
    lines = [*table(header, rows), "", shown]
    print(publish("physics", "Pendulums: fields with an energy", lines))


if __name__ == "__main__":
    main()
