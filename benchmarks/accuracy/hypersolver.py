"""A hypersolver on a trained normalising flow: evaluations for an end-state error of 1e-2."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxode as jo
from benchmarks.harness.selection import cosine_adam, num_weights
from benchmarks.harness.trained import Asked, Result, TrainedModel

SPAN, ERROR = jnp.array([0.0, 1.0]), 1e-2
DENSITY, FLOW_STEPS, SOLVER_STEPS, BATCH, VALIDATED, TESTED = "moons", 2000, 1000, 256, 1000, 2000
# Tolerances and numbers of steps, from the cheapest on: the first that reaches `ERROR` is taken.
RTOLS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ADAPTIVE, STAGES = ("dopri5", "tsit5", "bosh3"), {"euler": 1, "midpoint": 2, "rk4": 4}
# What was asked: so many times fewer evaluations than dopri5.
ASKED = 8.0


def train_flow(key: Array, steps: int) -> jo.nn.FFJORD:
    """A flow trained by flow matching."""
    model = jo.nn.FFJORD(2, key=key, rtol=1e-5, atol=1e-5)
    sample = jo.datasets.DENSITIES[DENSITY]

    def loss(model: Any, _: Array, key: Array) -> Array:
        data_key, loss_key = jax.random.split(key)
        return jo.nn.flow_matching_loss(model, sample(512, data_key), loss_key)

    return jo.fit(
        model, jnp.zeros(1), loss=loss, steps=steps, key=key, progress=False,
        optimizer=cosine_adam(3e-3, steps),
    )[0]  # fmt: skip


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

        solver, _ = jo.fit(
            solver, paths, loss=loss, steps=steps, batch_size=BATCH, key=key, progress=False,
            optimizer=cosine_adam(rate, steps),
        )  # fmt: skip
    return solver


class Flow:
    """A trained flow, with samples of validation and of testing and their exact end states."""

    def __init__(self, seed: int, effort: float) -> None:
        flow_key, *sample_keys, self.key = jax.random.split(jax.random.key(seed), 4)
        self.steps = max(2, int(effort * SOLVER_STEPS))
        self.model = train_flow(flow_key, max(2, int(effort * FLOW_STEPS)))
        counts = VALIDATED, TESTED
        samples = [jax.random.normal(k, (n, 2)) for k, n in zip(sample_keys, counts, strict=True)]
        self.validation, self.test = ((z, solve_flow(self.model, z, SPAN).y1) for z in samples)

    def error(self, samples: tuple[Array, Array], options: Any) -> tuple[float, float]:
        """The mean distance of the end states from the exact ones, and the mean evaluations."""
        solution = solve_flow(self.model, samples[0], SPAN, **options)
        distance = jnp.mean(jnp.linalg.norm(solution.y1 - samples[1], axis=-1))
        return float(distance), float(jnp.mean(solution.stats.num_evaluations))

    def cheapest(self, candidates: Any) -> tuple[Any, dict[str, float]] | None:
        """The first candidate that reaches `ERROR` in validation, and its figures in testing."""
        for make, evaluations in candidates:
            options = make()
            if self.error(self.validation, options)[0] <= ERROR:
                distance, counted = self.error(self.test, options)
                return options["solver"], {
                    EVALUATIONS: counted if evaluations is None else evaluations,
                    DISTANCE: distance,
                }
        return None

    def all_cheapest(self) -> dict[str, tuple[Any, dict[str, float]]]:
        """For each solver that reaches `ERROR`, what `cheapest` returns."""
        candidates: dict[str, list] = {
            name: [(partial(dict, solver=name, rtol=tol, atol=tol), None) for tol in RTOLS]
            for name in ADAPTIVE
        }
        for base, stages in STAGES.items():
            candidates[base] = [
                (partial(dict, solver=base, dt=1.0 / n), float(stages * n)) for n in COUNTS
            ]
        for base in ("euler", "midpoint"):
            candidates[f"hypersolver on {base}"] = [
                (partial(self.hypersolver, base, n), float(STAGES[base] * n)) for n in COUNTS
            ]
        found = {name: self.cheapest(those) for name, those in candidates.items()}
        return {name: result for name, result in found.items() if result is not None}

    def hypersolver(self, base: str, count: int) -> dict[str, Any]:
        """The options of a hypersolver that is trained for `count` steps."""
        solver = train_hypersolver(self.model, base, count, self.key, self.steps)
        return {"solver": solver, "dt": 1.0 / count}


EVALUATIONS, DISTANCE, FEWER = "evaluations", "test error", "times fewer than dopri5"


def measure(seeds: int, effort: float) -> Result:
    """Flows and hypersolvers with each seed."""
    found = []
    for seed in range(seeds):
        found.append(Flow(seed, effort).all_cheapest())
        print(seed, {name: figures for name, (_, figures) in found[-1].items()}, flush=True)
    rows = []
    for name in found[0]:
        runs = [run for run in found if name in run]
        figures = {
            column: [run[name][1][column] for run in runs] for column in (EVALUATIONS, DISTANCE)
        }
        dopri5 = [run["dopri5"][1][EVALUATIONS] for run in runs]
        figures[FEWER] = [a / b for a, b in zip(dopri5, figures[EVALUATIONS], strict=True)]
        solver = runs[0][name][0]
        weights = None if isinstance(solver, str) else num_weights(solver)
        rows.append(TrainedModel(name, weights, figures))
    return Result(
        title="Hypersolvers: a trained flow with few evaluations",
        columns={EVALUATIONS: ".3g", FEWER: ".3g", DISTANCE: ".2g"},
        rows=rows,
        settings=SETTINGS,
        asked=[asked(row) for row in rows if row.weights is not None],
        notes=[
            "Evaluations of the flow's field alone. A hypersolver evaluates a network of its own "
            "once a step as well, which is not counted."
        ],
    )


SETTINGS = {
    "work": f"samples of a flow trained on the {DENSITY} end within {ERROR:g} of the exact end "
    "states, in the mean",
    "validation": f"the first tolerance or number of steps that does so for {VALIDATED:,} samples",
    "test": f"{TESTED:,} other samples",
    "candidates": "rtol = atol from 0.1 to 1e-4; 1 to 128 steps, a hypersolver trained for each",
    "training": f"flow matching, {FLOW_STEPS} steps of Adam; hypersolvers on residuals, then on "
    f"trajectories, {SOLVER_STEPS} steps each; cosine decay",
}


def asked(row: TrainedModel) -> Asked:
    """Whether the evaluations are so many times fewer than dopri5's, in the mean."""
    fewer = sum(row.figures[FEWER]) / len(row.figures[FEWER])
    return Asked(f"{row.name}: {ASKED:g} times fewer than dopri5", fewer, fewer >= ASKED)
