"""Lotka and Volterra with an unknown interaction: a universal equation beside a plain network."""

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
from benchmarks.harness.results_section import publish, spread, table

# Parameters and start of Rackauckas et al. (2020), arXiv 2001.04385, section 3.1.
ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
START, SHOWN, TESTED, POINTS, WINDOW = (0.44249296, 4.6280594), 3.0, 30.0, 31, 6
WIDTH, STEPS = 32, 4000


def known(t: Array, y: Array, args: Any) -> Array:
    return jnp.stack([ALPHA * y[0], -DELTA * y[1]])


def whole(t: Array, y: Array, args: Any) -> Array:
    return known(t, y, args) + jnp.stack([-BETA, GAMMA]) * y[0] * y[1]


def network(key: Array) -> eqx.nn.MLP:
    return eqx.nn.MLP(2, 2, WIDTH, 2, jnp.tanh, key=key)


def solution(ts: Array) -> Array:
    return jo.solve(whole, jnp.array(START), ts, solver="vern7", rtol=1e-10, atol=1e-10).ys


def loss(model: jo.NeuralODE, windows: Array) -> Array:
    """Mean squared error over windows, shape (batch, WINDOW, 2), from their first points."""
    ts = SHOWN / (POINTS - 1) * jnp.arange(WINDOW)
    return jnp.mean((jnp.moveaxis(model(windows[:, 0], ts), 0, 1) - windows) ** 2)


def trained(field: Callable, seed: int, steps: int) -> tuple[jo.NeuralODE, jo.Log]:
    shown = solution(jnp.linspace(0.0, SHOWN, POINTS))
    windows = shown[jnp.arange(POINTS - WINDOW + 1)[:, None] + jnp.arange(WINDOW)]
    model = jo.NeuralODE(field, rtol=1e-6, atol=1e-6, throw=False)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps, alpha=0.01))
    return jo.fit(
        model, windows, loss=loss, steps=steps, optimizer=optimizer, key=jax.random.key(seed)
    )


def extrapolation(model: jo.NeuralODE) -> float:
    """Root mean square error from what was shown to ten times as far."""
    ts = jnp.linspace(0.0, TESTED, 601)
    found, true = model(jnp.array(START), ts), solution(ts)
    later = ts > SHOWN
    return float(jnp.sqrt(jnp.mean((found[later] - true[later]) ** 2)))


def recovered(interaction: Callable) -> np.ndarray:
    """The interaction as a sum of monomials, by least squares with the small ones struck out.

    Rows are those of `monomials`, columns the two equations. (Sequential thresholding: Brunton et
    al. (2016), arXiv 1509.03517.)
    """
    points = solution(jnp.linspace(0.0, SHOWN, 200))
    library = np.asarray(jax.vmap(monomials)(points))
    target = np.asarray(jax.vmap(interaction)(points))
    found = np.linalg.lstsq(library, target, rcond=None)[0]
    for _ in range(10):
        small = np.abs(found) < 0.1
        found[small] = 0.0
        for column in range(2):
            kept = ~small[:, column]
            solved = np.linalg.lstsq(library[:, kept], target[:, column], rcond=None)[0]
            found[kept, column] = solved
    return found


def monomials(y: Array) -> Array:
    """1, x, y, x^2, x y, y^2."""
    return jnp.stack([jnp.ones_like(y[0]), *y, y[0] ** 2, y[0] * y[1], y[1] ** 2])


def with_term(model: jo.NeuralODE, coefficients: Array) -> jo.NeuralODE:
    """The model with monomials in the place of its network."""
    field = jo.nn.UDE(known, lambda y: monomials(y) @ coefficients)
    return eqx.tree_at(lambda m: m.field, model, field)


def term(found: np.ndarray) -> str:
    """What was found, in words of the equations."""
    names = ("", "x", "y", "x²", "xy", "y²")
    sums = []
    for column in found.T:
        terms = [f"{c:.3f} {n}".strip() for c, n in zip(column, names, strict=True) if c]
        sums.append(" + ".join(terms) or "0")
    return "; ".join(sums)


def main() -> None:
    """Train both by each seed and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    names = "plain network", "universal equation", "the same, with the term that was read off it"
    errors: dict[str, list[float]] = {name: [] for name in names}
    terms = []
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        for name, field in (
            (names[0], network(key)),
            (names[1], jo.nn.UDE(known, network(key))),
        ):
            model, log = trained(field, seed, options.steps)
            errors[name].append(extrapolation(model))
            print(name, seed, errors[name][-1], log.summary(), flush=True)
            if isinstance(model.field, jo.nn.UDE):
                found = recovered(model.field.network)
                errors[names[2]].append(extrapolation(with_term(model, jnp.asarray(found))))
                terms.append(term(found))
                print(terms[-1], errors[names[2]][-1], flush=True)
    plain = errors["plain network"]
    rows = [
        [name, spread(found), spread([a / b for a, b in zip(plain, found, strict=True)])]
        for name, found in errors.items()
    ]
    header = ["field", f"error from t = {SHOWN:.0f} to {TESTED:.0f}", "times under the plain one's"]
    lines = [*table(header, rows), "", f"The true terms are -{BETA} xy; {GAMMA} xy. Found:", ""]
    lines += [f"- {found}" for found in terms]
    print(publish("ude", "Lotka-Volterra with an unknown interaction", lines))


if __name__ == "__main__":
    main()
