"""A hypersolver on a trained normalizing flow: evaluations for a terminal error of 1e-2."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo

from .report import publish, spread, table

DENSITY, STEPS, FITTED, SAMPLES, TESTED = "moons", 4000, 4000, 256, 2000


def trained_flow(key: Array, steps: int) -> jo.nn.FFJORD:
    model = jo.nn.FFJORD(2, key=key, rtol=1e-5, atol=1e-5)
    draw = jo.datasets.DENSITIES[DENSITY]

    def loss(model: Any, _: Array, key: Array) -> Array:
        of_data, of_loss = jax.random.split(key)
        return jo.nn.flow_matching_loss(model, draw(512, of_data), of_loss)

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    return jo.fit(model, jnp.zeros(1), loss=loss, steps=steps, optimizer=optimizer, key=key)[0]


def states(model: jo.nn.FFJORD, z: Array, ts: Array, **options: Any) -> jo.Solution:
    """The flow from the base to the data, at `ts`."""
    chosen: Any = {"rtol": 1e-7, "atol": 1e-7, **options}
    return jo.solve_batch(model.field, z, ts, **chosen)


def trained_solver(model: jo.nn.FFJORD, base: str, count: int, key: Array, steps: int) -> Any:
    """A hypersolver for `count` steps, fitted to what its base misses on the way."""
    ts = jnp.linspace(0.0, 1.0, count + 1)
    of_solver, of_data = jax.random.split(key)
    paths = states(model, jax.random.normal(of_data, (4096, 2)), ts).ys
    solver = jo.nn.HyperSolver(2, base, key=of_solver)

    def loss(solver: Any, paths: Array) -> Array:
        each = jax.vmap(lambda ys: jo.nn.hypersolver_loss(solver, model.field, ts, ys))
        return jnp.mean(each(paths))

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    return jo.fit(
        solver, paths, loss=loss, steps=steps, batch_size=SAMPLES, optimizer=optimizer, key=key
    )[0]


def error(found: Array, true: Array) -> float:
    """The mean distance of the end states from the true ones."""
    return float(jnp.mean(jnp.linalg.norm(found - true, axis=-1)))


def cheapest(
    model: jo.nn.FFJORD, z: Array, true: Array, key: Array, steps: int
) -> dict[str, float]:
    """The fewest evaluations by which each solver is within 1e-2 of the truth."""
    found = {}
    span = jnp.array([0.0, 1.0])
    for rtol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        sol = states(model, z, span, solver="dopri5", rtol=rtol, atol=rtol)
        if error(sol.y1, true) <= 1e-2:
            found["dopri5"] = float(jnp.mean(sol.stats.num_evaluations))
            break
    for base, stages in (("euler", 1), ("midpoint", 2)):
        for trained in (False, True):
            for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
                solver: Any = base
                if trained:
                    solver = trained_solver(model, base, count, key, steps)
                end = states(model, z, span, solver=solver, dt=1.0 / count).y1
                if error(end, true) <= 1e-2:
                    name = f"hypersolver on {base}" if trained else base
                    found[name] = float(stages * count)
                    break
    return found


def main() -> None:
    """Train flows and hypersolvers by each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=FITTED)
    options = parser.parse_args()
    every: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        of_flow, of_test, of_solver = jax.random.split(jax.random.key(seed), 3)
        model = trained_flow(of_flow, STEPS)
        z = jax.random.normal(of_test, (TESTED, 2))
        true = states(model, z, jnp.array([0.0, 1.0])).y1
        found = cheapest(model, z, true, of_solver, options.steps)
        print(seed, found, flush=True)
        for name, evaluations in found.items():
            every.setdefault(name, []).append(evaluations)
    peer = every["dopri5"]
    rows = [
        [name, spread(n), spread([a / b for a, b in zip(peer, n, strict=False)])]
        for name, n in every.items()
    ]
    header = ["solver", "evaluations", "times fewer than dopri5"]
    note = (
        "The fewest evaluations of the field by which 2,000 samples of a flow trained on the moons "
        "end within 1e-2 of where it leads, in the mean: over tolerances or numbers of steps."
    )
    title = "Hypersolvers: a trained flow with few evaluations"
    print(publish("hypersolver", title, [*table(header, rows), "", note]))


if __name__ == "__main__":
    main()
