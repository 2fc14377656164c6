"""Lotka-Volterra with an unknown interaction: a universal ODE beside a plain network."""

import argparse
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

# Parameters and initial state are those of Rackauckas et al. (2020), arXiv 2001.04385, section 3.1.
ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
# Training data end at `T_TRAIN`, and errors are measured up to `T_TEST`.
Y0, T_TRAIN, T_TEST, POINTS, WINDOW = (0.44249296, 4.6280594), 3.0, 30.0, 31, 6
WIDTH, STEPS = 32, 4000


def known_field(t: Array, y: Array, args: Any) -> Array:
    """The known part of the vector field."""
    return jnp.stack([ALPHA * y[0], -DELTA * y[1]])


def true_field(t: Array, y: Array, args: Any) -> Array:
    """The vector field that made the data."""
    return known_field(t, y, args) + jnp.stack([-BETA, GAMMA]) * y[0] * y[1]


def network(key: Array) -> eqx.nn.MLP:
    """A network of the state."""
    return eqx.nn.MLP(2, 2, WIDTH, 2, jnp.tanh, key=key)


def exact_solution(ts: Array) -> Array:
    """The states of the true equations at `ts`."""
    return jo.solve(true_field, jnp.array(Y0), ts, solver="vern7", rtol=1e-10, atol=1e-10).ys


def loss(model: jo.NeuralODE, windows: Array) -> Array:
    """Mean squared error over windows, shape (batch, WINDOW, 2), from their first points."""
    ts = T_TRAIN / (POINTS - 1) * jnp.arange(WINDOW)
    return jnp.mean((jnp.moveaxis(model(windows[:, 0], ts), 0, 1) - windows) ** 2)


def train(field: Callable, seed: int, steps: int) -> tuple[jo.NeuralODE, jo.Log]:
    """The trained model, and the log of the training."""
    data = exact_solution(jnp.linspace(0.0, T_TRAIN, POINTS))
    windows = data[jnp.arange(POINTS - WINDOW + 1)[:, None] + jnp.arange(WINDOW)]
    model = jo.NeuralODE(field, rtol=1e-6, atol=1e-6, throw=False)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps, alpha=0.01))
    return jo.fit(
        model, windows, loss=loss, steps=steps, optimizer=optimizer, key=jax.random.key(seed)
    )


def extrapolation_error(model: jo.NeuralODE) -> float:
    """The root mean square error from the end of the data to ten times that time."""
    ts = jnp.linspace(0.0, T_TEST, 601)
    found, exact = model(jnp.array(Y0), ts), exact_solution(ts)
    later = ts > T_TRAIN
    return float(jnp.sqrt(jnp.mean((found[later] - exact[later]) ** 2)))


def sparse_coefficients(interaction: Callable) -> np.ndarray:
    """The interaction as a sparse sum of monomials, by sequentially thresholded least squares.

    Rows belong to `monomials`, columns to the two equations. Source: Brunton et al. (2016), arXiv
    1509.03517.
    """
    points = exact_solution(jnp.linspace(0.0, T_TRAIN, 200))
    library = np.asarray(jax.vmap(monomials)(points))
    target = np.asarray(jax.vmap(interaction)(points))
    coefficients = np.linalg.lstsq(library, target, rcond=None)[0]
    for _ in range(10):
        small = np.abs(coefficients) < 0.1
        coefficients[small] = 0.0
        for column in range(2):
            kept = ~small[:, column]
            solved = np.linalg.lstsq(library[:, kept], target[:, column], rcond=None)[0]
            coefficients[kept, column] = solved
    return coefficients


def monomials(y: Array) -> Array:
    """The monomials 1, x, y, x^2, x y, y^2."""
    return jnp.stack([jnp.ones_like(y[0]), *y, y[0] ** 2, y[0] * y[1], y[1] ** 2])


def with_polynomial(model: jo.NeuralODE, coefficients: Array) -> jo.NeuralODE:
    """The model with a polynomial in place of its network."""
    field = jo.nn.UDE(known_field, lambda y: monomials(y) @ coefficients)
    return eqx.tree_at(lambda m: m.field, model, field)


def polynomial_text(coefficients: np.ndarray) -> str:
    """The polynomials of the two equations as text."""
    names = ("", "x", "y", "x²", "xy", "y²")
    sums = []
    for column in coefficients.T:
        terms = [f"{c:.3f} {n}".strip() for c, n in zip(column, names, strict=True) if c]
        sums.append(" + ".join(terms) or "0")
    return "; ".join(sums)


PLAIN, UNIVERSAL = "plain network", "universal equation"
RECOVERED = "universal equation, its network replaced by the recovered polynomial"


def main() -> None:
    """Train both models with each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    errors: dict[str, list[float]] = {name: [] for name in (PLAIN, UNIVERSAL, RECOVERED)}
    polynomials = []
    for seed in range(options.seeds):
        found, polynomial = seed_errors(seed, options.steps)
        for name, error in found.items():
            errors[name].append(error)
        polynomials.append(polynomial)
        print(seed, found, polynomial, flush=True)
    lines = [*error_table(errors), "", f"The true terms are -{BETA} xy; {GAMMA} xy. Found:", ""]
    lines += [f"- {polynomial}" for polynomial in polynomials]
    print(publish_section("ude", "Lotka-Volterra with an unknown interaction", lines))


def seed_errors(seed: int, steps: int) -> tuple[dict[str, float], str]:
    """The extrapolation error of each model of one seed, and the recovered polynomial."""
    key = jax.random.key(seed)
    plain, log = train(network(key), seed, steps)
    print(PLAIN, seed, log.summary(), flush=True)
    universal, log = train(jo.nn.UDE(known_field, network(key)), seed, steps)
    print(UNIVERSAL, seed, log.summary(), flush=True)
    coefficients = sparse_coefficients(universal.field.network)
    recovered = with_polynomial(universal, jnp.asarray(coefficients))
    models = {PLAIN: plain, UNIVERSAL: universal, RECOVERED: recovered}
    errors = {name: extrapolation_error(model) for name, model in models.items()}
    return errors, polynomial_text(coefficients)


def error_table(errors: dict[str, list[float]]) -> list[str]:
    """The errors of each model, with their ratios to the plain network's."""
    rows = [
        [
            name,
            mean_and_range(found),
            mean_and_range([a / b for a, b in zip(errors[PLAIN], found, strict=True)]),
        ]
        for name, found in errors.items()
    ]
    end = f"error from t = {T_TRAIN:.0f} to {T_TEST:.0f}"
    return markdown_table(["field", end, "times under the plain one's"], rows)


if __name__ == "__main__":
    main()
