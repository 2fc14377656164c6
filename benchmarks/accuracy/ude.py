"""Lotka-Volterra with an unknown interaction: a universal ODE beside a plain network."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxode as jo
from benchmarks.harness.selection import (
    Settings,
    best_settings,
    cosine_adam,
    grid,
    num_weights,
    settings_text,
)
from benchmarks.harness.trained import Asked, Result, TrainedModel

# Parameters and initial state are those of Rackauckas et al. (2020), arXiv 2001.04385, section 3.1.
ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
# Training data end at `T_TRAIN`. Settings are chosen by a forecast of the last of them, from
# `T_FIT` on, by models trained on those before; then models are trained on all.
Y0, SPACING, T_FIT, T_TRAIN, WINDOW = (0.44249296, 4.6280594), 0.1, 2.4, 3.0, 6
T_TESTS = (6.0, 30.0)
STEPS, THRESHOLDS = 3000, (0.05, 0.1, 0.2)
CANDIDATES = grid(rate=(2e-3, 5e-3, 1e-2), width=(16, 32))
FLOAT64 = True


def known_field(t: Array, y: Array, args: Any) -> Array:
    """The known part of the vector field."""
    return jnp.stack([ALPHA * y[0], -DELTA * y[1]])


def true_field(t: Array, y: Array, args: Any) -> Array:
    """The vector field that made the data."""
    return known_field(t, y, args) + jnp.stack([-BETA, GAMMA]) * y[0] * y[1]


def plain_field(width: int, key: Array) -> eqx.nn.MLP:
    """A network of the state."""
    return eqx.nn.MLP(2, 2, width, 2, jnp.tanh, key=key)


def universal_field(width: int, key: Array) -> jo.nn.UDE:
    """The known terms, and a network for the interaction."""
    return jo.nn.UDE(known_field, plain_field(width, key))


def exact_solution(ts: Array) -> Array:
    """The states of the true equations at `ts`."""
    return jo.solve(true_field, jnp.array(Y0), ts, solver="vern7", rtol=1e-10, atol=1e-10).ys


def shown_points(until: float) -> Array:
    """The points of training up to a time."""
    return exact_solution(SPACING * jnp.arange(round(until / SPACING) + 1))


def loss(model: jo.NeuralODE, windows: Array) -> Array:
    """Mean squared error over windows, shape (batch, WINDOW, 2), from their first points."""
    ts = SPACING * jnp.arange(WINDOW)
    return jnp.mean((model(windows[:, 0], ts) - windows) ** 2)


def train(
    make: Callable, settings: Settings, until: float, seed: int, effort: float
) -> jo.NeuralODE:
    """The model trained on windows of the points up to a time."""
    data = shown_points(until)
    windows = data[jnp.arange(len(data) - WINDOW + 1)[:, None] + jnp.arange(WINDOW)]
    key, steps = jax.random.key(100 + seed), max(1, int(effort * STEPS))
    field = make(settings["width"], key)
    model = jo.NeuralODE(field, rtol=1e-6, atol=1e-6, throw=False)
    optimizer = cosine_adam(settings["rate"], steps)
    return jo.fit(
        model, windows, loss=loss, steps=steps, optimizer=optimizer, key=key, progress=False
    )[0]


def forecast_error(model: jo.NeuralODE, begin: float, end: float) -> float:
    """The root mean square error from `begin` to `end` of the solution from the first state."""
    ts = jnp.linspace(0.0, end, 601)
    found, exact = model(jnp.array(Y0), ts), exact_solution(ts)
    later = ts > begin
    error = float(jnp.sqrt(jnp.mean((found[later] - exact[later]) ** 2)))
    return math.inf if math.isnan(error) else error


def sparse_coefficients(interaction: Callable, points: Array, threshold: float) -> np.ndarray:
    """The interaction as a sparse sum of monomials, by sequentially thresholded least squares.

    Rows belong to `monomials`, columns to the two equations. Source: Brunton et al. (2016), arXiv
    1509.03517.
    """
    library = np.asarray(jax.vmap(monomials)(points))
    target = np.asarray(jax.vmap(interaction)(points))
    coefficients = np.linalg.lstsq(library, target, rcond=None)[0]
    for _ in range(10):
        small = np.abs(coefficients) < threshold
        coefficients[small] = 0.0
        for column in range(2):
            kept = ~small[:, column]
            solved = np.linalg.lstsq(library[:, kept], target[:, column], rcond=None)[0]
            coefficients[kept, column] = solved
    return coefficients


def monomials(y: Array) -> Array:
    """The monomials 1, x, y, x^2, x y, y^2."""
    return jnp.stack([jnp.ones_like(y[0]), *y, y[0] ** 2, y[0] * y[1], y[1] ** 2])


def with_polynomial(model: jo.NeuralODE, coefficients: np.ndarray) -> jo.NeuralODE:
    """The model with a polynomial in place of its network."""
    exact = jnp.asarray(coefficients)
    field = jo.nn.UDE(known_field, lambda y: monomials(y) @ exact)
    return eqx.tree_at(lambda m: m.field, model, field)


def recovered(model: jo.NeuralODE, until: float, threshold: float) -> tuple[jo.NeuralODE, str]:
    """The model with the polynomial read off its network at the points it was shown."""
    coefficients = sparse_coefficients(model.field.network, shown_points(until), threshold)
    return with_polynomial(model, coefficients), polynomial_text(coefficients)


def polynomial_text(coefficients: np.ndarray) -> str:
    """The polynomials of the two equations as text."""
    names = ("", "x", "y", "x²", "xy", "y²")
    sums = []
    for column in coefficients.T:
        terms = [f"{c:.3f} {n}".strip() for c, n in zip(column, names, strict=True) if c]
        sums.append(" + ".join(terms) or "0")
    return "; ".join(sums)


PLAIN, UNIVERSAL = "plain network", "universal equation"
RECOVERED = "universal equation, its network replaced by the polynomial read off it"
COLUMNS = {f"error, t = {T_TRAIN:.0f} to {end:.0f}": end for end in T_TESTS}


def measure(seeds: int, effort: float) -> Result:
    """Both models with each seed, and the polynomials read off the universal equation."""
    rows, models, chosen = [], {}, {}
    for name, make in ((PLAIN, plain_field), (UNIVERSAL, universal_field)):
        chosen[name] = best_settings(
            name,
            CANDIDATES,
            lambda s: forecast_error(train(make, s, T_FIT, -1, effort), T_FIT, T_TRAIN),  # noqa: B023
        )
        models[name] = [train(make, chosen[name], T_TRAIN, seed, effort) for seed in range(seeds)]
        rows.append(row(name, models[name], settings_text(chosen[name])))
    part = train(universal_field, chosen[UNIVERSAL], T_FIT, -1, effort)
    threshold = best_settings(
        RECOVERED,
        grid(threshold=THRESHOLDS),
        lambda s: forecast_error(recovered(part, T_FIT, **s)[0], T_FIT, T_TRAIN),
    )
    read_off = [recovered(model, T_TRAIN, **threshold) for model in models[UNIVERSAL]]
    rows.append(row(RECOVERED, [model for model, _ in read_off], settings_text(threshold)))
    found = "; or ".join(text for _, text in read_off)
    return Result(
        title="Lotka-Volterra with an unknown interaction",
        columns=dict.fromkeys(COLUMNS, ".3g"),
        rows=rows,
        settings=SETTINGS,
        asked=[
            Asked(f"{name}: error to t = 30 a tenth of the plain network's", ratio, ratio <= 0.1)
            for name, ratio in ((r.name, mean_ratio(r, rows[0])) for r in rows[1:])
        ],
        notes=[
            f"The true terms are -{BETA} xy; {GAMMA} xy. Read off, seed by seed: {found}.",
            "A polynomial is read off at the points that training saw, "
            f"{round(T_TRAIN / SPACING) + 1} of one solution without noise.",
        ],
    )


SETTINGS = {
    "data": f"{round(T_TRAIN / SPACING) + 1} points of one solution up to t = {T_TRAIN:g}",
    "validation": f"forecast from t = {T_FIT:g} to {T_TRAIN:g}, trained on the points before",
    "candidates": "learning rate 0.002, 0.005, 0.01; width 16, 32; threshold 0.05, 0.1, 0.2",
    "network": "two hidden layers, tanh",
    "training": f"{STEPS} steps of Adam, cosine decay, windows of {WINDOW} points, all in a batch",
    "solver": "tsit5, rtol 1e-6, atol 1e-6, discrete adjoint, float64",
}


def row(name: str, models: list[jo.NeuralODE], chosen: str) -> TrainedModel:
    """The forecast errors of the models of all seeds."""
    figures = {
        column: [forecast_error(model, T_TRAIN, end) for model in models]
        for column, end in COLUMNS.items()
    }
    print(name, figures, flush=True)
    weights = None if name == RECOVERED else num_weights(models[0])
    return TrainedModel(name, weights, figures, chosen)


def mean_ratio(one: TrainedModel, other: TrainedModel) -> float:
    """The ratio of the mean errors in the last column."""
    column = list(COLUMNS)[-1]
    return sum(one.figures[column]) / sum(other.figures[column])
