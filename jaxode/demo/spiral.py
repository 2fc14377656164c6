"""A neural ODE that classifies the points of two spiral arms."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from ..datasets import Spiral
from ..nn import NeuralODE
from ..training import Log, fit
from ..training.losses import accuracy

POINTS, HELD_OUT, AUGMENT, CLASSES = 1000, 200, 3, 2


class Classifier(eqx.Module):
    """A classifier whose logits are the first two coordinates of a `NeuralODE`'s end state."""

    ode: NeuralODE
    batched: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        """The logits (n, 2) of points (n, 2)."""
        return self.ode(x)[..., :CLASSES]


@dataclasses.dataclass(frozen=True)
class SpiralFit:
    """The trained classifier, its log, and the points `X` (n, 2), classes `y` (n,) held out."""

    model: Classifier
    log: Log
    X: Array
    y: Array
    accuracy: float


def fit_spiral(steps: int, progress: bool | None = None, key: Array | None = None) -> SpiralFit:
    """Train on 800 points for `steps` steps of Adam, and measure the accuracy on 200 others.

    The cross entropy is over all five coordinates of the end state, of which three belong to no
    class; keeping them small too makes the flow smoother than with the two logits alone.

    `key` is for the network's initial weights; `jax.random.key(0)` if None.
    """
    X, y = Spiral(n_points=POINTS, noise=0.1)()
    ode = _untrained_model(jax.random.key(0) if key is None else key)
    # With a constant rate and no clipping, the loss jumped late for some of the keys tried.
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    )
    ode, log = fit(
        ode,
        (X[HELD_OUT:], y[HELD_OUT:]),
        loss="cross_entropy",
        steps=steps,
        optimizer=optimizer,
        progress=progress,
        label="spiral",
    )
    model = Classifier(ode)
    X, y = X[:HELD_OUT], y[:HELD_OUT]
    return SpiralFit(model, log, X, y, float(accuracy(model(X), y)))


def _untrained_model(key: Array) -> NeuralODE:
    size = 2 + AUGMENT
    field = eqx.nn.MLP(size, size, 32, 2, jnp.tanh, key=key)
    return NeuralODE(field, augment=AUGMENT, rtol=1e-3, atol=1e-3)
