"""Models with a state, such as Equinox's BatchNorm, in `fit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo

X = jnp.array([[1.0], [3.0], [5.0], [7.0]])


class Normalised(eqx.Module):
    """A batch norm and a weight."""

    norm: eqx.nn.BatchNorm
    weight: jax.Array

    def __init__(self):
        options = {"mode": "ema", "momentum": 0.5, "channelwise_affine": False}
        self.norm = eqx.nn.BatchNorm(1, "batch", **options)
        self.weight = jnp.array(2.0)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.weight * x, state


class Counted(eqx.Module):
    """A weight, and how often it was used."""

    count: eqx.nn.StateIndex
    weight: jax.Array

    def __init__(self):
        self.count, self.weight = eqx.nn.StateIndex(jnp.array(0)), jnp.array(1.0)

    def __call__(self, x, state):
        return self.weight * x, state.set(self.count, state.get(self.count) + 1)


def by_hand(steps):
    """The training with plain Equinox and Optax."""
    model, state = eqx.nn.make_with_state(Normalised)()
    optimizer = optax.sgd(0.1)
    carry = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_value_and_grad(has_aux=True)
    def loss(model, state):
        over = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
        values, state = jax.vmap(model, **over)(X, state)
        return jnp.mean((values - X) ** 2), state

    losses = []
    for _ in range(steps):
        (value, state), gradient = eqx.filter_jit(loss)(model, state)
        updates, carry = optimizer.update(gradient, carry)
        model = eqx.apply_updates(model, updates)
        losses.append(float(value))
    return model, state, losses


def test_batch_norm_trains_as_by_hand():
    expected, expected_state, losses = by_hand(3)
    given = eqx.nn.make_with_state(Normalised)()
    (model, state), log = jo.fit(
        given, (X, X), loss="mse", steps=3, optimizer=optax.sgd(0.1), progress=False,
        validation=(X, X),
    )  # fmt: skip
    np.testing.assert_allclose(log.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(model.weight, expected.weight, rtol=1e-9)
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True)
    for found, leaf in leaves:
        np.testing.assert_allclose(found, leaf, rtol=1e-9)
    # Validation uses the running statistics.
    infer = eqx.nn.inference_mode(model)
    values, _ = jax.vmap(infer, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(X, state)
    np.testing.assert_allclose(log.validation["loss"][-1], jnp.mean((values - X) ** 2), rtol=1e-9)
    jax.tree.leaves(given[1])  # the given state can still be used


def test_a_loss_of_the_user_returns_the_state():
    def loss(model, state, batch, key):
        value, state = model(jnp.mean(batch), state)
        noise = jax.random.uniform(key)
        return value**2 + 0 * noise, state, {"noise": noise}

    (_, state), log = jo.fit(
        eqx.nn.make_with_state(Counted)(), X, loss=loss, steps=3, progress=False
    )
    assert jax.tree.leaves(state) == [3]
    assert len(set(log.history["noise"])) == 3


def test_what_a_loss_of_a_model_with_state_must_return():
    model = eqx.nn.make_with_state(Counted)()
    with pytest.raises(jo.OptionError, match="must return the loss and the new state"):
        jo.fit(model, X, loss=lambda m, s, b: m.weight, progress=False)
    model[1].set(model[0].count, jnp.array(1))  # which makes the state an old one
    with pytest.raises(jo.OptionError, match="state of the model is an old one"):
        jo.fit(model, X, loss=lambda m, s, b: (m.weight, s), progress=False)
