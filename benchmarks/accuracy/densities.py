"""Toy densities learned by flow matching: test likelihood beside the entropy, and total mass."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import ArrayLike, PyTree

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

NAMES = ("moons", "circles", "eight_gaussians", "pinwheel", "two_spirals", "checkerboard")
# In nats: the lower bound of the expected negative log-likelihood.
ENTROPIES = {name: jo.datasets.ENTROPY_FLOORS[name] for name in NAMES}
WIDTH, DEPTH, FEATURES = 64, 3, 64
STEPS, BATCH, VALIDATED, TESTED, SIDE = 2000, 256, 2000, 10_000, 101
# `scale`: the standard deviation of the features' frequencies.
CANDIDATES = grid(rate=(3e-3, 1e-2), scale=(0.5, 1.5))
# What was asked: a distance from the entropy in nats, and the mass of the density.
BOUNDS, MASS_BOUND = {"checkerboard": 0.15}, 0.01


class Network(eqx.Module):
    """A perceptron of time, state and Fourier features of both, which resolve sharp edges.

    Source of the features: Tancik et al. (2020), arXiv 2006.10739; here they are trained too.
    """

    features: eqx.nn.Linear
    mlp: eqx.nn.MLP

    def __init__(self, scale: ArrayLike, key: Array) -> None:
        features_key, mlp_key = jax.random.split(key)
        features = eqx.nn.Linear(3, FEATURES, key=features_key)
        weight = scale * jax.random.normal(features_key, (FEATURES, 3))
        self.features = eqx.tree_at(lambda layer: layer.weight, features, weight)
        self.mlp = eqx.nn.MLP(3 + FEATURES, 2, WIDTH, DEPTH, jax.nn.silu, key=mlp_key)

    def __call__(self, t: Array, y: Array) -> Array:
        z = jnp.append(y, t)
        return self.mlp(jnp.concatenate([z, jnp.sin(self.features(z))]))


@partial(jax.jit, static_argnums=(0, 1))
def train(
    sample: Callable[[Array, int], Array], steps: int, rate: Array, scale: Array, key: Array
) -> PyTree:
    """The network's parameters after training, with new samples in each step."""
    network_key, steps_key = jax.random.split(key)
    params, static = eqx.partition(Network(scale, network_key), eqx.is_inexact_array)
    optimizer = cosine_adam(rate, steps)

    def loss(params: PyTree, key: Array) -> Array:
        data_key, loss_key = jax.random.split(key)
        network = eqx.combine(params, static)
        return jo.nn.flow_matching_loss(network, sample(data_key, BATCH), loss_key)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(steps_key, steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


@jax.jit
def log_densities(params: PyTree, x: Array) -> Array:
    """The log densities of the trained flow at `x`, with an error of about 1e-5."""
    static = eqx.partition(Network(1.0, jax.random.key(0)), eqx.is_inexact_array)[1]
    return jo.nn.CNF(eqx.combine(params, static), 2, rtol=1e-5, atol=1e-5).log_prob(x)


def mass(params: PyTree, x: Array, side: int) -> float:
    """The integral of the density over a grid of `side**2` points around the samples `x`."""
    low, high = jnp.min(x, 0) - 1.0, jnp.max(x, 0) + 1.0
    axes = [jnp.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    grid = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)
    cell = jnp.prod((high - low) / (side - 1))
    return float(jnp.sum(jnp.exp(log_densities(params, grid))) * cell)


def trained(name: str, settings: Settings, seed: int, steps: int) -> PyTree:
    """The parameters of the flow trained on the density called `name`."""
    rate, scale = map(jnp.asarray, (settings["rate"], settings["scale"]))
    return train(SAMPLERS[name], steps, rate, scale, jax.random.key(seed))


def likelihood_loss(params: PyTree, name: str, count: int, key: Array) -> float:
    """The negative log-likelihood of `count` new samples, in nats."""
    return -float(jnp.mean(log_densities(params, SAMPLERS[name](key, count))))


def draw(name: str, key: Array, n: int) -> Array:
    """Samples of the density called `name`."""
    return getattr(jo.datasets, name)(n, key=key)


# One function object for each density, since `train` is compiled for the function that it is given.
SAMPLERS = {name: partial(draw, name) for name in NAMES}
LOSS, GAP, MASS = "test NLL, nats", "above the entropy", "mass on a grid"


def measure(seeds: int, effort: float) -> Result:
    """Every density with each seed."""
    steps = max(2, int(effort * STEPS))
    rows = [density_row(name, seeds, steps) for name in NAMES]
    return Result(
        title="Toy densities by flow matching",
        columns={LOSS: ".3f", GAP: "+.3f", MASS: ".4f"},
        rows=rows,
        settings=SETTINGS,
        asked=[found for name, row in zip(NAMES, rows, strict=True) for found in asked(name, row)],
        notes=[
            "Entropies in nats, the least expected negative log-likelihood: "
            + ", ".join(f"{name.replace('_', ' ')} {ENTROPIES[name]:.3f}" for name in NAMES)
            + ". A figure below the entropy is chance: a mean over so many samples is off by about "
            "a hundredth."
        ],
    )


def density_row(name: str, seeds: int, steps: int) -> TrainedModel:
    """The flow of one density: likelihood of test samples, and mass on a grid around them."""

    def validation_loss(settings: Settings) -> float:
        params = trained(name, settings, 1000, steps)
        return likelihood_loss(params, name, VALIDATED, jax.random.key(2000))

    chosen = best_settings(name, CANDIDATES, validation_loss)
    figures: dict[str, list[float]] = {LOSS: [], GAP: [], MASS: []}
    for seed in range(seeds):
        params, test_key = trained(name, chosen, seed, steps), jax.random.key(3000 + seed)
        value = likelihood_loss(params, name, TESTED, test_key)
        total = mass(params, SAMPLERS[name](test_key, TESTED), SIDE)
        for column, figure in ((LOSS, value), (GAP, value - ENTROPIES[name]), (MASS, total)):
            figures[column].append(figure)
    print(name, figures, flush=True)
    weights = num_weights(Network(1.0, jax.random.key(0)))
    return TrainedModel(name.replace("_", " "), weights, figures, settings_text(chosen))


SETTINGS = {
    "data": f"new samples in each step; {TESTED:,} others to test, a grid of {SIDE} by {SIDE}",
    "validation": f"negative log-likelihood of {VALIDATED:,} other samples",
    "candidates": "learning rate 0.003, 0.01; scale of the frequencies 0.5, 1.5",
    "network": f"{FEATURES} Fourier features, {DEPTH} hidden layers of {WIDTH}, SiLU",
    "training": f"flow matching, {STEPS} steps of Adam, cosine decay, batches of {BATCH}",
    "solver of the likelihood": "tsit5, rtol 1e-5, atol 1e-5, exact trace, float32",
}


def asked(name: str, row: TrainedModel) -> list[Asked]:
    """Whether the mean distance from the entropy and the mass are what was asked for."""
    bound, count = BOUNDS.get(name, 0.05), len(row.figures[GAP])
    gap = sum(row.figures[GAP]) / count
    off = max(abs(mass - 1) for mass in row.figures[MASS])
    return [
        Asked(f"{row.name}: within {bound} nat of the entropy", gap, gap <= bound),
        Asked(f"{row.name}: mass 1 within {MASS_BOUND:.0%}", off, off <= MASS_BOUND),
    ]
