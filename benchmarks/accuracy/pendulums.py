"""Pendulums: vector fields with an energy beside a plain network, extrapolated in time."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

GRAVITY, DAMPING, SPACING = 9.81, 0.15, 0.05
# Points of a training trajectory, of a window of it, and of a test trajectory.
POINTS, WINDOW, HORIZON = 41, 9, 401
WIDTH, BATCH = 64, 256


class System(NamedTuple):
    """A pendulum in angles and velocities, and the options of its training."""

    title: str
    field: Callable
    energy: Callable[[Array], Array]
    momentum: Callable[[Array, Array], Array]
    angles: int
    max_angle: float
    trajectories: int
    learning_rate: float
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
    trajectories=100,
    learning_rate=3e-3,
    steps=1000,
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
    learning_rate=1e-2,
    steps=1000,
    lbfgs_steps=300,
)
SYSTEMS = {"double": DOUBLE, "damped": DAMPED}


class AngleNetwork(eqx.Module):
    """A network of the cosines and sines of the angles, and of the remaining components."""

    network: eqx.nn.MLP
    angles: int = eqx.field(static=True)

    def __init__(self, angles: int, rest: int, out: Any, key: Array) -> None:
        size = 2 * angles + rest
        self.network = eqx.nn.MLP(size, out, WIDTH, 2, jax.nn.softplus, key=key)
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


def double_pendulum_fields(keys: Array) -> dict[str, tuple[Callable, bool]]:
    """Trainable vector fields, each with a flag: its state has momenta instead of velocities."""
    mass, potential = AngleNetwork(2, 0, 3, keys[1]), AngleNetwork(2, 0, "scalar", keys[2])
    return {
        "plain": (AngleNetwork(2, 2, 4, keys[3]), False),
        "Hamiltonian": (jo.nn.Hamiltonian(AngleNetwork(2, 2, "scalar", keys[0])), True),
        "Lagrangian": (jo.nn.MechanicalLagrangian(mass, potential), False),
    }


def damped_pendulum_fields(keys: Array) -> dict[str, tuple[Callable, bool]]:
    """Trainable vector fields of the angle itself, since this pendulum never turns over."""

    def network(size: int, out: Any, key: Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(size, out, WIDTH, 2, jax.nn.softplus, key=key)

    potential, zero = network(1, "scalar", keys[2]), jnp.zeros(())
    mechanical = jo.nn.MechanicalLagrangian(Constant(zero), potential, Friction(zero))
    return {
        "plain": (network(2, 2, keys[3]), False),
        "port-Hamiltonian": (jo.nn.PortHamiltonian(Mechanical(zero, potential), 2), True),
        "Lagrangian": (mechanical, False),
    }


FIELDS = {"double": double_pendulum_fields, "damped": damped_pendulum_fields}


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
    return jnp.mean((jnp.moveaxis(found, 0, 1) - windows) ** 2)


def energy_error(system: System, model: jo.NeuralODE, momenta: bool, key: Array) -> float:
    """The root mean square error of the energy over the horizon, in units of its spread."""
    exact = trajectories(system, 32, HORIZON, key)
    y0 = with_momenta(system, exact[:, 0]) if momenta else exact[:, 0]
    found = jnp.moveaxis(model(y0, SPACING * jnp.arange(HORIZON)), 0, 1)
    found = with_velocities(system, found) if momenta else found
    energy = jnp.vectorize(system.energy, signature="(n)->()")
    exact_energy = energy(exact)
    error = jnp.sqrt(jnp.mean((energy(found) - exact_energy) ** 2))
    return float(error / jnp.std(exact_energy[:, 0]))


def train(
    system: System, field: Callable, momenta: bool, seed: int, steps: int
) -> tuple[Any, float]:
    """The model trained by Adam and, for some systems, L-BFGS, and its training loss."""
    data = trajectories(system, system.trajectories, POINTS, jax.random.key(1000 + seed))
    data = with_momenta(system, data) if momenta else data
    starts = jnp.arange(POINTS - WINDOW + 1)[:, None] + jnp.arange(WINDOW)
    windows = data[:, starts].reshape(-1, WINDOW, data.shape[-1])
    model = jo.NeuralODE(field, rtol=1e-5, atol=1e-5, throw=False, max_steps=4096)
    optimizer = optax.adam(optax.cosine_decay_schedule(system.learning_rate, steps))
    model, log = jo.fit(
        model, windows, loss=loss, steps=steps, batch_size=BATCH, optimizer=optimizer,
        key=jax.random.key(seed),
    )  # fmt: skip
    if not system.lbfgs_steps:
        return model, float(log.loss[-1])
    # Every second window is left out, since windows overlap.
    return train_by_lbfgs(model, windows[::2], system.lbfgs_steps)


def train_by_lbfgs(model: jo.NeuralODE, windows: Array, steps: int) -> tuple[jo.NeuralODE, float]:
    """The model after `steps` of L-BFGS on all windows, and its loss."""
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
        return optax.apply_updates(params, updates), state, value

    state, value = optimizer.init(params), jnp.inf
    for _ in range(steps):
        params, state, value = step(params, state)
    return eqx.combine(params, static), float(value)


def field_rows(name: str, seeds: int, steps: int) -> list[list[str]]:
    """A row for each field: training loss, energy error, and its ratio to the plain network's."""
    system, results = SYSTEMS[name], {}
    for seed in range(seeds):
        fields = FIELDS[name](jax.random.split(jax.random.key(seed), 4))
        for field_name, (field, momenta) in fields.items():
            model, final_loss = train(system, field, momenta, seed, steps)
            error = energy_error(system, model, momenta, jax.random.key(2000 + seed))
            results.setdefault(field_name, []).append((error, final_loss))
            print(name, field_name, seed, results[field_name][-1], flush=True)
    plain = [error for error, _ in results["plain"]]
    rows = []
    for field_name, pairs in results.items():
        errors, losses = zip(*pairs, strict=True)
        ratios = [a / b for a, b in zip(plain, errors, strict=True)]
        rows.append([field_name, *map(mean_and_range, (losses, errors, ratios))])
    return rows


def main() -> None:
    """Train every vector field on one pendulum and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, default="double")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    system = SYSTEMS[options.system]
    rows = field_rows(options.system, options.seeds, options.steps or system.steps)
    header = ["field", "training loss", "energy error", "times under the plain one's"]
    lines = [*markdown_table(header, rows), "", explanation(system)]
    title = f"A {system.title}: fields with an energy"
    print(publish_section(f"{options.system}_pendulum", title, lines))


def explanation(system: System) -> str:
    """The note below the table."""
    note = (
        f"Trained on {(POINTS - 1) * SPACING:.0f} s of {system.trajectories} trajectories. Energy "
        f"error: root mean square over {(HORIZON - 1) * SPACING:.0f} s of 32 others, in standard "
        "deviations of their first energies."
    )
    if system is DAMPED:
        note += (
            " All networks take the angle itself, and all are trained by Adam, then by L-BFGS: "
            "with Adam alone they stop at training losses of 1e-5, where the plain network is as "
            "good as the others."
        )
    return note


if __name__ == "__main__":
    main()
