"""Toy densities learnt by flow matching: test likelihood beside the entropy, mass, seconds."""

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
from benchmarks.harness.results_section import publish, spread, table

NAMES = ("moons", "circles", "eight_gaussians", "pinwheel", "two_spirals", "checkerboard")
# Nats: no model does better in the mean.
ENTROPIES = {name: jo.datasets.ENTROPY_FLOORS[name] for name in NAMES}
WIDTH, DEPTH, WAVES, SCALE = 64, 3, 64, 1.5
STEPS, BATCH, RATE, TESTS, SIDE = 10_000, 1024, 1e-2, 10_000, 201


class Network(eqx.Module):
    """A perceptron of time, state and random waves of both, which resolve the sharp edges.

    Source of the waves: Tancik et al. (2020), arXiv 2006.10739; here they are trained too.
    """

    waves: eqx.nn.Linear
    mlp: eqx.nn.MLP

    def __init__(self, key: Array) -> None:
        of_waves, of_mlp = jax.random.split(key)
        waves = eqx.nn.Linear(3, WAVES, key=of_waves)
        self.waves = eqx.tree_at(
            lambda layer: layer.weight, waves, SCALE * jax.random.normal(of_waves, (WAVES, 3))
        )
        self.mlp = eqx.nn.MLP(3 + WAVES, 2, WIDTH, DEPTH, jax.nn.silu, key=of_mlp)

    def __call__(self, t: Array, y: Array) -> Array:
        z = jnp.append(y, t)
        return self.mlp(jnp.concatenate([z, jnp.sin(self.waves(z))]))


@partial(jax.jit, static_argnums=(0, 1))
def trained(draw: Callable[[Array, int], Array], steps: int, key: Array) -> PyTree:
    """The network's arrays after so many steps, each on fresh samples."""
    of_network, of_steps = jax.random.split(key)
    params, static = eqx.partition(Network(of_network), eqx.is_inexact_array)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(params: PyTree, key: Array) -> Array:
        of_data, of_loss = jax.random.split(key)
        return jo.nn.flow_matching_loss(eqx.combine(params, static), draw(of_data, BATCH), of_loss)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(of_steps, steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


@jax.jit
def log_densities(params: PyTree, x: Array) -> Array:
    """The exact log densities at `x`, by an error of about 1e-5."""
    static = eqx.partition(Network(jax.random.key(0)), eqx.is_inexact_array)[1]
    return jo.nn.CNF(eqx.combine(params, static), 2, rtol=1e-5, atol=1e-5).log_prob(x)


def mass(params: PyTree, x: Array, side: int) -> float:
    """The integral of the density over a grid of `side**2` points, wider than the samples `x`."""
    low, high = jnp.min(x, 0) - 1.0, jnp.max(x, 0) + 1.0
    axes = [jnp.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    grid = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)
    cell = jnp.prod((high - low) / (side - 1))
    return float(jnp.sum(jnp.exp(log_densities(params, grid))) * cell)


def learnt(name: str, seed: int, steps: int, side: int) -> tuple[float, float, float, float]:
    """Test likelihood, its gap to the entropy, the mass, and the seconds of the training."""
    draw = DRAWS[name]
    train_key, test_key = jax.random.split(jax.random.key(seed))
    begin = time.perf_counter()
    params = jax.block_until_ready(trained(draw, steps, train_key))
    seconds = time.perf_counter() - begin
    x = draw(test_key, TESTS)
    loss = -float(jnp.mean(log_densities(params, x)))
    return loss, loss - ENTROPIES[name], mass(params, x, side), seconds


def drawn(name: str, key: Array, n: int) -> Array:
    return getattr(jo.datasets, name)(n, key=key)


DRAWS = {name: partial(drawn, name) for name in ENTROPIES}


def main() -> None:
    """Learn each density by each seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fast", action="store_true", help="few steps; nothing is written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENTROPIES)}")
    options = parser.parse_args()
    unknown = set(options.names) - set(ENTROPIES)
    if unknown:
        parser.error(f"no density called {', '.join(sorted(unknown))}")
    steps, side, seeds = (100, 51, 1) if options.fast else (STEPS, SIDE, options.seeds)
    rows = []
    for name in options.names or ENTROPIES:
        found = [learnt(name, seed, steps, side) for seed in range(seeds)]
        figures = [
            spread(values, form)
            for values, form in zip(
                zip(*found, strict=True), (".3f", "+.3f", ".4f", ".0f"), strict=True
            )
        ]
        rows.append([name.replace("_", " "), f"{ENTROPIES[name]:.3f}", *figures])
        print(rows[-1], flush=True)
    header = ["density", "entropy, nats", "test NLL", "gap", "mass on a grid", "s of training"]
    lines = table(header, rows)
    if options.fast or options.names:
        print("\n".join(lines))
        return
    print(publish("densities", "Toy densities by flow matching", lines))


if __name__ == "__main__":
    main()
