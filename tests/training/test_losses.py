"""The losses and metrics that `fit` knows by name have their definitions' values."""

import jax.numpy as jnp
import numpy as np

import jaxode as jo
from jaxode.training.losses import accuracy, cross_entropy, mse

LOGITS = jnp.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-2.0, 3.0, 1.0]])
LABELS = jnp.array([0, 1, 1])


def test_values_of_losses_and_metrics():
    chances = np.exp(LOGITS) / np.sum(np.exp(LOGITS), axis=1, keepdims=True)
    expected = -np.mean(np.log(chances[np.arange(3), LABELS]))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-14)
    np.testing.assert_allclose(accuracy(LOGITS, LABELS), 2 / 3, rtol=1e-7)
    np.testing.assert_allclose(mse(LOGITS, LOGITS + 3.0), 9.0, rtol=1e-14)


def test_the_log_holds_the_loss():
    """Of a model without weights, the same in every step."""
    model = jo.NeuralODE(lambda t, y, args: -y)
    x, y = jnp.array([[1.0], [2.0]]), jnp.array([[0.5], [0.5]])
    _, log = jo.fit(model, (x, y), loss="mse", steps=2, progress=False)
    ends = x * np.exp(-1.0)
    np.testing.assert_allclose(log.loss, np.mean((ends - y) ** 2), rtol=1e-3)
