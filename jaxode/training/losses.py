"""Losses and metrics by name, on predictions and targets."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean softmax cross entropy, nats; `logits` (batch, classes), integer `labels` (batch,)."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def mse(prediction: Array, target: Array) -> Array:
    """Mean squared error over every entry of two arrays of one shape."""
    return jnp.mean(optax.squared_error(prediction, target))


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of samples whose largest logit is that of their label."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _of_samples(entries: Array) -> Array:
    """The mean over all axes but the first."""
    return jnp.mean(entries, axis=tuple(range(1, entries.ndim)))


LOSSES: dict[str, Callable[[Array, Array], Array]] = {"cross_entropy": cross_entropy, "mse": mse}
METRICS: dict[str, Callable[[Array, Array], Array]] = {"accuracy": accuracy, "mse": mse}
# The losses of the samples, shape (samples,), whose mean is the loss.
SAMPLE_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": lambda logits, labels: _of_samples(
        optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    ),
    "mse": lambda prediction, target: _of_samples(optax.squared_error(prediction, target)),
}
