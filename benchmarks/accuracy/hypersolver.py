"""A hypersolver on a trained normalising flow: evaluations for an end-state error of 1e-2."""

import argparse
import statistics
import timeit
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

SPAN, ERROR = jnp.array([0.0, 1.0]), 1e-2
DENSITY, FLOW_STEPS, SOLVER_STEPS, BATCH, TESTS = "moons", 4000, 4000, 256, 2000


def train_flow(key: Array, steps: int) -> jo.nn.FFJORD:
    """A flow trained by flow matching."""
    model = jo.nn.FFJORD(2, key=key, rtol=1e-5, atol=1e-5)
    sample = jo.datasets.DENSITIES[DENSITY]

    def loss(model: Any, _: Array, key: Array) -> Array:
        data_key, loss_key = jax.random.split(key)
        return jo.nn.flow_matching_loss(model, sample(512, data_key), loss_key)

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    return jo.fit(model, jnp.zeros(1), loss=loss, steps=steps, optimizer=optimizer, key=key)[0]


def solve_flow(model: jo.nn.FFJORD, z: Array, ts: Array, **options: Any) -> jo.Solution:
    """The solution of the flow from the base distribution to the data, saved at `ts`."""
    chosen: Any = {"rtol": 1e-6, "atol": 1e-6, **options}
    return jo.solve_batch(model.field, z, ts, **chosen)


def train_hypersolver(model: jo.nn.FFJORD, base: str, count: int, key: Array, steps: int) -> Any:
    """A hypersolver for `count` steps, trained on residuals of its base, then on trajectories."""
    ts = jnp.linspace(0.0, 1.0, count + 1)
    solver_key, data_key = jax.random.split(key)
    paths = solve_flow(model, jax.random.normal(data_key, (4096, 2)), ts).ys
    solver = jo.nn.HyperSolver(2, base, key=solver_key)
    for loss_of_path, rate in (
        (jo.nn.hypersolver_loss, 3e-3),
        (jo.nn.hypersolver_trajectory_loss, 1e-3),
    ):

        def loss(solver: Any, paths: Array) -> Array:
            losses = jax.vmap(lambda ys: loss_of_path(solver, model.field, ts, ys))  # noqa: B023
            return jnp.mean(losses(paths))

        optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
        solver, _ = jo.fit(
            solver, paths, loss=loss, steps=steps, batch_size=BATCH, optimizer=optimizer, key=key
        )
    return solver


def error(found: Array, exact: Array) -> float:
    """The mean distance of the end states from the exact ones."""
    return float(jnp.mean(jnp.linalg.norm(found - exact, axis=-1)))


def solve_time(model: jo.nn.FFJORD, z: Array, **options: Any) -> float:
    """The median time in seconds of a solve of all samples together."""
    end_states = jax.jit(lambda z: solve_flow(model, z, SPAN, throw=False, **options).y1)
    times = timeit.repeat(lambda: end_states(z).block_until_ready(), number=1, repeat=9)
    return statistics.median(times)


def cheapest(
    model: jo.nn.FFJORD, z: Array, exact: Array, key: Array, steps: int
) -> dict[str, tuple[float, float]]:
    """For each solver, the fewest evaluations that reach the error `ERROR`, and the time."""
    found = {"dopri5": cheapest_dopri5(model, z, exact)}
    for base, stages in (("euler", 1), ("midpoint", 2)):
        for trained in (False, True):
            for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
                solver: Any = base
                if trained:
                    solver = train_hypersolver(model, base, count, key, steps)
                options = {"solver": solver, "dt": 1.0 / count}
                if error(solve_flow(model, z, SPAN, **options).y1, exact) <= ERROR:
                    name = f"hypersolver on {base}" if trained else base
                    found[name] = float(stages * count), solve_time(model, z, **options)
                    break
    return {name: result for name, result in found.items() if result is not None}


def cheapest_dopri5(model: jo.nn.FFJORD, z: Array, exact: Array) -> tuple[float, float] | None:
    """The evaluations and the time of dopri5 at the loosest tolerance that reaches `ERROR`."""
    for rtol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        options: dict[str, Any] = {"solver": "dopri5", "rtol": rtol, "atol": rtol}
        solution = solve_flow(model, z, SPAN, **options)
        if error(solution.y1, exact) <= ERROR:
            evaluations = float(jnp.mean(solution.stats.num_evaluations))
            return evaluations, solve_time(model, z, **options)
    return None


def main() -> None:
    """Train flows and hypersolvers with each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=SOLVER_STEPS)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        flow_key, test_key, solver_key = jax.random.split(jax.random.key(seed), 3)
        model = train_flow(flow_key, FLOW_STEPS)
        z = jax.random.normal(test_key, (TESTS, 2))
        exact = solve_flow(model, z, SPAN).y1
        found = cheapest(model, z, exact, solver_key, options.steps)
        print(seed, found, flush=True)
        for name, result in found.items():
            results.setdefault(name, []).append(result)
    note = (
        "The fewest evaluations of the vector field with which 2,000 samples of a flow trained on "
        "the moons end within 1e-2 of the exact end states, in the mean: over tolerances or "
        "numbers of steps. The time is that of all samples on one core, including the "
        "hypersolver's network."
    )
    title = "Hypersolvers: a trained flow with few evaluations"
    print(publish_section("hypersolver", title, [*result_lines(results), "", note]))


def result_lines(results: dict[str, list[tuple[float, float]]]) -> list[str]:
    """The table of evaluations and times, with the ratio to dopri5."""
    dopri5 = [evaluations for evaluations, _ in results["dopri5"]]
    rows = []
    for name, pairs in results.items():
        counts, times = zip(*pairs, strict=True)
        ratios = [a / b for a, b in zip(dopri5, counts, strict=False)]
        cells = counts, ratios, [1e3 * t for t in times]
        rows.append([name, *map(mean_and_range, cells)])
    return markdown_table(["solver", "evaluations", "times fewer than dopri5", "ms"], rows)


if __name__ == "__main__":
    main()
