"""The chirality of spirals with missing points: a neural CDE beside a GRU and an ODE-RNN."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxode as jo
from benchmarks.harness.markdown import markdown_table, mean_and_range
from benchmarks.harness.results_section import publish_section

SHARES = (0.0, 0.3, 0.5, 0.7)
HIDDEN, WIDTH, SERIES, TESTED, BATCH, STEPS, RATE = 8, 64, 128, 512, 32, 600, 1e-2


class GRU(eqx.Module):
    """A GRU whose inputs are the time since the last point, the values, and the mask."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear
    batched = True

    def __init__(self, key: Array) -> None:
        cell_key, readout_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(4, HIDDEN, key=cell_key)
        self.readout = eqx.nn.Linear(HIDDEN, 2, key=readout_key)

    def __call__(self, ts: Array, xs: Array, mask: Array) -> Array:
        gaps = jnp.diff(ts, prepend=ts[:1])[:, None]

        def logits(x: Array, observed: Array) -> Array:
            inputs = jnp.concatenate([gaps, x, observed.astype(x.dtype)], axis=1)
            h, _ = lax.scan(lambda h, i: (self.cell(i, h), None), jnp.zeros(HIDDEN), inputs)
            return self.readout(h)

        return jax.vmap(logits)(xs, mask[..., None])


class FinalODERNN(eqx.Module):
    """The last output of an ODE-RNN, with times rescaled to [0, 1].

    Over longer times an untrained vector field forgets the initial state, and training fails.
    """

    model: jo.nn.ODERNN
    batched = True

    def __init__(self, key: Array) -> None:
        self.model = jo.nn.ODERNN(2, HIDDEN, 2, width=WIDTH, key=key, rtol=1e-2, atol=1e-3)

    def __call__(self, ts: Array, xs: Array, mask: Array) -> Array:
        return self.model(ts / ts[-1], xs, mask, outputs="last")


def neural_cde(key: Array) -> Any:
    """A neural CDE whose vector field is a multilayer perceptron."""
    return jo.nn.NeuralCDE.mlp(2, 2, hidden=HIDDEN, width=WIDTH, key=key, rtol=1e-2, atol=1e-3)


def data(n: int, missing: float, key: Array) -> tuple[Array, Array, Array]:
    """Series with zeros for missing points, shape (n, 100, 2); masks, (n, 100, 1); labels."""
    _, xs, labels = jo.datasets.spiral_chirality(n, key=key, missing=missing)
    return jnp.nan_to_num(xs), ~jnp.isnan(xs[..., :1]), labels


def loss(model: Any, batch: tuple[Array, Array, Array]) -> tuple[Array, dict[str, Array]]:
    """The cross-entropy, and the share of series classified correctly."""
    xs, mask, labels = batch
    logits = model(jnp.linspace(0.0, 4 * jnp.pi, xs.shape[1]), xs, mask[..., 0])
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": accuracy}


def train(make: Any, missing: float, seed: int, steps: int) -> tuple[float, float]:
    """The test accuracy after training in per cent, and milliseconds per step."""
    train_key, test_key, model_key = jax.random.split(jax.random.key(seed), 3)
    model, log = jo.fit(
        make(model_key), data(SERIES, missing, train_key), loss=loss, steps=steps,
        batch_size=BATCH, optimizer=optax.adam(RATE), key=model_key, progress=False,
    )  # fmt: skip
    _, metrics = eqx.filter_jit(loss)(model, data(TESTED, missing, test_key))
    return 100 * float(metrics["accuracy"]), log.ms_per_step


def main() -> None:
    """Train every model with every share of missing points and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    rows = []
    for name, make in (("neural CDE", neural_cde), ("GRU", GRU), ("ODE-RNN", FinalODERNN)):
        cells, costs = [], []
        for missing in SHARES:
            runs = [train(make, missing, seed, options.steps) for seed in range(options.seeds)]
            cells.append(mean_and_range([accuracy for accuracy, _ in runs], ".1f"))
            costs += [cost for _, cost in runs]
            print(name, missing, cells[-1], flush=True)
        rows.append([name, *cells, mean_and_range(costs, ".0f")])
    header = ["model", *(f"{share:.0%} missing" for share in SHARES), "ms per step"]
    title = "Spiral chirality: test accuracy in per cent"
    print(publish_section("chirality", title, markdown_table(header, rows)))


if __name__ == "__main__":
    main()
