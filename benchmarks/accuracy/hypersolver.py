"""A hypersolver on a trained normalizing flow: evaluations for a terminal error of 1e-2."""

import argparse
import statistics
import timeit
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table

SPAN = jnp.array([0.0, 1.0])
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
    chosen: Any = {"rtol": 1e-6, "atol": 1e-6, **options}
    return jo.solve_batch(model.field, z, ts, **chosen)


def trained_solver(model: jo.nn.FFJORD, base: str, count: int, key: Array, steps: int) -> Any:
    """A hypersolver for `count` steps, fitted to what its base misses, then to where it ends."""
    ts = jnp.linspace(0.0, 1.0, count + 1)
    of_solver, of_data = jax.random.split(key)
    paths = states(model, jax.random.normal(of_data, (4096, 2)), ts).ys
    solver = jo.nn.HyperSolver(2, base, key=of_solver)
    for fitted, rate in (
        (jo.nn.hypersolver_loss, 3e-3),
        (jo.nn.hypersolver_trajectory_loss, 1e-3),
    ):

        def loss(solver: Any, paths: Array) -> Array:
            each = jax.vmap(lambda ys: fitted(solver, model.field, ts, ys))  # noqa: B023
            return jnp.mean(each(paths))

        optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
        solver, _ = jo.fit(
            solver, paths, loss=loss, steps=steps, batch_size=SAMPLES, optimizer=optimizer, key=key
        )
    return solver


def error(found: Array, true: Array) -> float:
    """The mean distance of the end states from the true ones."""
    return float(jnp.mean(jnp.linalg.norm(found - true, axis=-1)))


def seconds(model: jo.nn.FFJORD, z: Array, **options: Any) -> float:
    """The median time of a solve of all samples together."""
    run = jax.jit(lambda z: states(model, z, SPAN, throw=False, **options).y1)
    return statistics.median(timeit.repeat(lambda: run(z).block_until_ready(), number=1, repeat=9))


def cheapest(
    model: jo.nn.FFJORD, z: Array, true: Array, key: Array, steps: int
) -> dict[str, tuple[float, float]]:
    """The fewest evaluations by which each solver is within 1e-2 of the truth, and its time."""
    found = {}
    for rtol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        chosen: Any = {"solver": "dopri5", "rtol": rtol, "atol": rtol}
        sol = states(model, z, SPAN, **chosen)
        if error(sol.y1, true) <= 1e-2:
            count = float(jnp.mean(sol.stats.num_evaluations))
            found["dopri5"] = count, seconds(model, z, **chosen)
            break
    for base, stages in (("euler", 1), ("midpoint", 2)):
        for trained in (False, True):
            for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
                solver: Any = base
                if trained:
                    solver = trained_solver(model, base, count, key, steps)
                chosen = {"solver": solver, "dt": 1.0 / count}
                if error(states(model, z, SPAN, **chosen).y1, true) <= 1e-2:
                    name = f"hypersolver on {base}" if trained else base
                    found[name] = float(stages * count), seconds(model, z, **chosen)
                    break
    return found


def main() -> None:
    """Train flows and hypersolvers by each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=FITTED)
    options = parser.parse_args()
    every: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        of_flow, of_test, of_solver = jax.random.split(jax.random.key(seed), 3)
        model = trained_flow(of_flow, STEPS)
        z = jax.random.normal(of_test, (TESTED, 2))
        true = states(model, z, SPAN).y1
        found = cheapest(model, z, true, of_solver, options.steps)
        print(seed, found, flush=True)
        for name, pair in found.items():
            every.setdefault(name, []).append(pair)
    peer = [evaluations for evaluations, _ in every["dopri5"]]
    rows = []
    for name, pairs in every.items():
        counts, times = zip(*pairs, strict=True)
        fewer = [a / b for a, b in zip(peer, counts, strict=False)]
        rows.append([name, spread(counts), spread(fewer), spread([1e3 * t for t in times])])
    header = ["solver", "evaluations", "times fewer than dopri5", "ms"]
    note = (
        "The fewest evaluations of the field by which 2,000 samples of a flow trained on the moons "
        "end within 1e-2 of where it leads, in the mean: over tolerances or numbers of steps. The "
        "time is that of all samples on one core, with what a hypersolver's network takes."
    )
    title = "Hypersolvers: a trained flow with few evaluations"
    print(publish("hypersolver", title, [*table(header, rows), "", note]))


if __name__ == "__main__":
    main()
