"""A model of one weight, whose training is known by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxode as jo


class Weight(eqx.Module):
    """A number, as a function of a sample: their product."""

    value: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.value * x


def weight(value: float = 1.0) -> Weight:
    return Weight(jnp.array(value))


def squares(model: Weight, batch: Any) -> jax.Array:
    """Half of the mean squared distance: a step of SGD goes a share of the way to the mean."""
    return 0.5 * jnp.mean((model.value - batch) ** 2)


def fit(data: Any, **options: Any) -> tuple[Any, jo.Log]:
    """Train the weight 1 by SGD of rate 0.1."""
    given = {"loss": squares, "optimizer": optax.sgd(0.1), "progress": False, **options}
    return jo.fit(given.pop("model", weight()), data, **given)
