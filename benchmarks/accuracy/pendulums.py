"""A pendulum: fields with an energy beside a plain network, far beyond what they were shown."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table

GRAVITY, DAMPING, SPACING = 9.81, 0.15, 0.05
SHOWN, WINDOW, HORIZON = 41, 9, 401  # points of a trajectory shown, of a window, and tested
WIDTH, BATCH = 64, 256


class System(NamedTuple):
    """A pendulum: its field and its energy by angles and velocities, and how it is thrown."""

    title: str
    field: Callable
    energy: Callable[[Array], Array]
    momentum: Callable[[Array, Array], Array]
    angles: int
    reach: float
    trajectories: int
    rate: float
    steps: int
    finish: int  # steps of L-BFGS behind those of Adam


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
    100,
    3e-3,
    1000,
    0,
)
DAMPED = System(
    "damped pendulum",
    lambda t, y, args: jnp.stack([y[1], -GRAVITY * jnp.sin(y[0]) - DAMPING * y[1]]),
    lambda y: 0.5 * y[1] ** 2 - GRAVITY * jnp.cos(y[0]),
    lambda q, v: v,
    1,
    2.0,
    25,
    1e-2,
    1000,
    300,
)
SYSTEMS = {"double": DOUBLE, "damped": DAMPED}


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


class Mechanical(eqx.Module):
    """The energy of one coordinate with a constant mass: `p^2 / 2m` and a potential."""

    log_mass: Array
    potential: Callable

    def __call__(self, y: Array) -> Array:
        return 0.5 * y[1] ** 2 * jnp.exp(-self.log_mass) + self.potential(y[:1])


class Constant(eqx.Module):
    """A number that is learned, the same everywhere."""

    value: Array

    def __call__(self, q: Array) -> Array:
        return self.value[None]


class Friction(eqx.Module):
    """A force against the velocity, in proportion to it."""

    rate: Array

    def __call__(self, y: Array) -> Array:
        return -jax.nn.softplus(self.rate) * y[1:]


def fields_of_double(keys: Array) -> dict[str, tuple[Callable, bool]]:
    """The fields that learn, and whether their state has momenta in the place of velocities."""
    mass, potential = OfAngles(2, 0, 3, keys[1]), OfAngles(2, 0, "scalar", keys[2])
    return {
        "plain": (OfAngles(2, 2, 4, keys[3]), False),
        "Hamiltonian": (jo.nn.Hamiltonian(OfAngles(2, 2, "scalar", keys[0])), True),
        "Lagrangian": (jo.nn.MechanicalLagrangian(mass, potential), False),
    }


def fields_of_damped(keys: Array) -> dict[str, tuple[Callable, bool]]:
    """The same; networks see the angle itself, as it does not turn over."""

    def network(size: int, out: Any, key: Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(size, out, WIDTH, 2, jax.nn.softplus, key=key)

    potential, zero = network(1, "scalar", keys[2]), jnp.zeros(())
    mechanical = jo.nn.MechanicalLagrangian(Constant(zero), potential, Friction(zero))
    return {
        "plain": (network(2, 2, keys[3]), False),
        "port-Hamiltonian": (jo.nn.PortHamiltonian(Mechanical(zero, potential), 2), True),
        "Lagrangian": (mechanical, False),
    }


FIELDS = {"double": fields_of_double, "damped": fields_of_damped}


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


def trained(
    system: System, field: Callable, momenta: bool, seed: int, steps: int
) -> tuple[Any, float]:
    shown = trajectories(system, system.trajectories, SHOWN, jax.random.key(1000 + seed))
    shown = with_momenta(system, shown) if momenta else shown
    starts = jnp.arange(SHOWN - WINDOW + 1)[:, None] + jnp.arange(WINDOW)
    windows = shown[:, starts].reshape(-1, WINDOW, shown.shape[-1])
    model = jo.NeuralODE(field, rtol=1e-5, atol=1e-5, throw=False, max_steps=4096)
    optimizer = optax.adam(optax.cosine_decay_schedule(system.rate, steps))
    model, log = jo.fit(
        model, windows, loss=loss, steps=steps, batch_size=BATCH, optimizer=optimizer,
        key=jax.random.key(seed),
    )  # fmt: skip
    if not system.finish:
        return model, float(log.loss[-1])
    return finished(model, windows[::2], system.finish)  # the other half overlaps


def finished(model: jo.NeuralODE, windows: Array, steps: int) -> tuple[jo.NeuralODE, float]:
    """The model after `steps` of L-BFGS on all windows, and its loss."""
    model = eqx.tree_at(lambda m: (m.settings.rtol, m.settings.atol), model, (1e-7, 1e-7))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.lbfgs(memory_size=20)

    def value(params: Any) -> Array:
        return loss(eqx.combine(params, static), windows)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        found, slope = optax.value_and_grad_from_state(value)(params, state=state)
        updates, state = optimizer.update(
            slope, state, params, value=found, grad=slope, value_fn=value
        )
        return optax.apply_updates(params, updates), state, found

    state, found = optimizer.init(params), jnp.inf
    for _ in range(steps):
        params, state, found = step(params, state)
    return eqx.combine(params, static), float(found)


def compared(name: str, seeds: int, steps: int) -> list[list[str]]:
    """A row for each field: its training loss, its energy error, and how the plain one's is."""
    system, found = SYSTEMS[name], {}
    for seed in range(seeds):
        every = FIELDS[name](jax.random.split(jax.random.key(seed), 4))
        for field_name, (field, momenta) in every.items():
            model, last = trained(system, field, momenta, seed, steps)
            error = energy_error(system, model, momenta, jax.random.key(2000 + seed))
            found.setdefault(field_name, []).append((error, last))
            print(name, field_name, seed, found[field_name][-1], flush=True)
    plain = [error for error, _ in found["plain"]]
    rows = []
    for field_name, values in found.items():
        errors, losses = zip(*values, strict=True)
        ratios = [a / b for a, b in zip(plain, errors, strict=True)]
        rows.append([field_name, *(spread(v) for v in (losses, errors, ratios))])
    return rows


def main() -> None:
    """Train every field on one pendulum and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, default="double")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    system = SYSTEMS[options.system]
    rows = compared(options.system, options.seeds, options.steps or system.steps)
    header = ["field", "training loss", "energy error", "times under the plain one's"]
    shown = (
        f"Shown: {(SHOWN - 1) * SPACING:.0f} s of {system.trajectories} trajectories. Energy "
        f"error: root mean square over {(HORIZON - 1) * SPACING:.0f} s of 32 others, in standard "
        "deviations of their first energies."
    )
    if system is DAMPED:
        shown += (
            " All networks see the angle itself, and all are trained by Adam, then by L-BFGS: with "
            "Adam alone they stop at training losses of 1e-5, where the plain one is as good."
        )
    title = f"A {system.title}: fields with an energy"
    print(publish(f"{options.system}_pendulum", title, [*table(header, rows), "", shown]))


if __name__ == "__main__":
    main()
