"""Which way a spiral turns, with points missing: a neural CDE beside a GRU and an ODE-RNN."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import jaxode as jo
from benchmarks.harness.results_section import publish, spread, table

SHARES = (0.0, 0.3, 0.5, 0.7)
HIDDEN, WIDTH, SERIES, TESTED, BATCH, STEPS, RATE = 8, 64, 128, 512, 32, 600, 1e-2


class GRU(eqx.Module):
    """A GRU that sees the time since the last point, the values, and which of them are there."""

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear
    batched = True

    def __init__(self, key: Array) -> None:
        of_cell, of_readout = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(4, HIDDEN, key=of_cell)
        self.readout = eqx.nn.Linear(HIDDEN, 2, key=of_readout)

    def __call__(self, ts: Array, xs: Array, mask: Array) -> Array:
        gaps = jnp.diff(ts, prepend=ts[:1])[:, None]

        def one(x: Array, seen: Array) -> Array:
            inputs = jnp.concatenate([gaps, x, seen.astype(x.dtype)], axis=1)
            h, _ = lax.scan(lambda h, i: (self.cell(i, h), None), jnp.zeros(HIDDEN), inputs)
            return self.readout(h)

        return jax.vmap(one)(xs, mask[..., None])


class LastOfODERNN(eqx.Module):
    """The output of an ODE-RNN behind the whole series, whose times run from 0 to 1.

    Over longer times a field that has learnt nothing forgets the start, and learns nothing.
    """

    model: jo.nn.ODERNN
    batched = True

    def __init__(self, key: Array) -> None:
        self.model = jo.nn.ODERNN(2, HIDDEN, 2, width=WIDTH, key=key, rtol=1e-2, atol=1e-3)

    def __call__(self, ts: Array, xs: Array, mask: Array) -> Array:
        return self.model(ts / ts[-1], xs, mask, outputs="last")


def neural_cde(key: Array) -> Any:
    return jo.nn.NeuralCDE.mlp(2, 2, hidden=HIDDEN, width=WIDTH, key=key, rtol=1e-2, atol=1e-3)


def data(n: int, missing: float, key: Array) -> tuple[Array, Array, Array]:
    """Series with zeros for what is missing, shape (n, 100, 2); what is there, (n, 100); labels."""
    _, xs, labels = jo.datasets.spiral_chirality(n, key=key, missing=missing)
    return jnp.nan_to_num(xs), ~jnp.isnan(xs[..., :1]), labels


def loss(model: Any, batch: tuple[Array, Array, Array]) -> tuple[Array, dict[str, Array]]:
    xs, mask, labels = batch
    logits = model(jnp.linspace(0.0, 4 * jnp.pi, xs.shape[1]), xs, mask[..., 0])
    right = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"accuracy": right}


def accuracy(make: Any, missing: float, seed: int, steps: int) -> tuple[float, float]:
    """Per cent of fresh series named rightly after training, and milliseconds a step."""
    train_key, test_key, model_key = jax.random.split(jax.random.key(seed), 3)
    model, log = jo.fit(
        make(model_key), data(SERIES, missing, train_key), loss=loss, steps=steps,
        batch_size=BATCH, optimizer=optax.adam(RATE), key=model_key, progress=False,
    )  # fmt: skip
    _, found = eqx.filter_jit(loss)(model, data(TESTED, missing, test_key))
    return 100 * float(found["accuracy"]), log.ms_per_step


def main() -> None:
    """Train every model at every share of missing points and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    rows = []
    for name, make in (("neural CDE", neural_cde), ("GRU", GRU), ("ODE-RNN", LastOfODERNN)):
        cells, costs = [], []
        for missing in SHARES:
            found = [accuracy(make, missing, s, options.steps) for s in range(options.seeds)]
            cells.append(spread([right for right, _ in found], ".1f"))
            costs += [cost for _, cost in found]
            print(name, missing, cells[-1], flush=True)
        rows.append([name, *cells, spread(costs, ".0f")])
    header = ["model", *(f"{share:.0%} missing" for share in SHARES), "ms a step"]
    title = "Spiral chirality: per cent named rightly"
    print(publish("chirality", title, table(header, rows)))


if __name__ == "__main__":
    main()
