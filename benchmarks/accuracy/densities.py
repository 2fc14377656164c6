"""Toy densities learned by flow matching: test likelihood beside the entropy, and total mass."""

import argparse
import time
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

NAMES = ("moons", "circles", "eight_gaussians", "pinwheel", "two_spirals", "checkerboard")
# In nats: the lower bound of the expected negative log-likelihood.
ENTROPIES = {name: jo.datasets.ENTROPY_FLOORS[name] for name in NAMES}
WIDTH, DEPTH, FEATURES, SCALE = 64, 3, 64, 1.5
STEPS, BATCH, RATE, TESTS, SIDE = 10_000, 1024, 1e-2, 10_000, 201


class Network(eqx.Module):
    """A perceptron of time, state and Fourier features of both, which resolve sharp edges.

    Source of the features: Tancik et al. (2020), arXiv 2006.10739; here they are trained too.
    """

    features: eqx.nn.Linear
    mlp: eqx.nn.MLP

    def __init__(self, key: Array) -> None:
        features_key, mlp_key = jax.random.split(key)
        features = eqx.nn.Linear(3, FEATURES, key=features_key)
        weight = SCALE * jax.random.normal(features_key, (FEATURES, 3))
        self.features = eqx.tree_at(lambda layer: layer.weight, features, weight)
        self.mlp = eqx.nn.MLP(3 + FEATURES, 2, WIDTH, DEPTH, jax.nn.silu, key=mlp_key)

    def __call__(self, t: Array, y: Array) -> Array:
        z = jnp.append(y, t)
        return self.mlp(jnp.concatenate([z, jnp.sin(self.features(z))]))


@partial(jax.jit, static_argnums=(0, 1))
def train(sample: Callable[[Array, int], Array], steps: int, key: Array) -> PyTree:
    """The network's parameters after training, with new samples in each step."""
    network_key, steps_key = jax.random.split(key)
    params, static = eqx.partition(Network(network_key), eqx.is_inexact_array)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

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
    static = eqx.partition(Network(jax.random.key(0)), eqx.is_inexact_array)[1]
    return jo.nn.CNF(eqx.combine(params, static), 2, rtol=1e-5, atol=1e-5).log_prob(x)


def mass(params: PyTree, x: Array, side: int) -> float:
    """The integral of the density over a grid of `side**2` points around the samples `x`."""
    low, high = jnp.min(x, 0) - 1.0, jnp.max(x, 0) + 1.0
    axes = [jnp.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    grid = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)
    cell = jnp.prod((high - low) / (side - 1))
    return float(jnp.sum(jnp.exp(log_densities(params, grid))) * cell)


def evaluate(name: str, seed: int, steps: int, side: int) -> tuple[float, float, float, float]:
    """Negative test log-likelihood, its gap to the entropy, mass, and seconds of training."""
    sample = partial(draw, name)
    train_key, test_key = jax.random.split(jax.random.key(seed))
    begin = time.perf_counter()
    params = jax.block_until_ready(train(sample, steps, train_key))
    seconds = time.perf_counter() - begin
    x = sample(test_key, TESTS)
    loss = -float(jnp.mean(log_densities(params, x)))
    return loss, loss - ENTROPIES[name], mass(params, x, side), seconds


def draw(name: str, key: Array, n: int) -> Array:
    """Samples of the density called `name`."""
    return getattr(jo.datasets, name)(n, key=key)


def main() -> None:
    """Learn each density with each seed and write the section."""
    options = parse_options()
    steps, side, seeds = (100, 51, 1) if options.fast else (STEPS, SIDE, options.seeds)
    rows = []
    for name in options.names or ENTROPIES:
        runs = [evaluate(name, seed, steps, side) for seed in range(seeds)]
        columns = zip(zip(*runs, strict=True), (".3f", "+.3f", ".4f", ".0f"), strict=True)
        cells = [mean_and_range(values, form) for values, form in columns]
        rows.append([name.replace("_", " "), f"{ENTROPIES[name]:.3f}", *cells])
        print(rows[-1], flush=True)
    header = ["density", "entropy, nats", "test NLL", "gap", "mass on a grid", "s of training"]
    lines = markdown_table(header, rows)
    if options.fast or options.names:
        print("\n".join(lines))
        return
    print(publish_section("densities", "Toy densities by flow matching", lines))


def parse_options() -> argparse.Namespace:
    """The options on the command line; an unknown name ends the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fast", action="store_true", help="few steps; nothing is written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENTROPIES)}")
    options = parser.parse_args()
    unknown = set(options.names) - set(ENTROPIES)
    if unknown:
        parser.error(f"no density called {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
