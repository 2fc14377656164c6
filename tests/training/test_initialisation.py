"""Initial weights of networks that are fields."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

KEY = jax.random.key(0)
X = jnp.array([0.3, -0.7])


@pytest.mark.parametrize(
    "network",
    [
        eqx.nn.MLP(2, 2, 4, 2, key=KEY),
        eqx.nn.MLP(2, 2, 4, 1, use_final_bias=False, key=KEY),
        eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=KEY), eqx.nn.LayerNorm(2)]),
    ],
    ids=["MLP", "no bias", "a norm at the end"],
)
def test_the_last_layer_alone_is_smaller(network):
    small = jo.small_last_layer(network, 0.25)
    before, after = jax.tree.leaves(network), jax.tree.leaves(small)
    ratios = [
        float(jnp.sum(b) / jnp.sum(a))
        for a, b in zip(before, after, strict=True)
        if eqx.is_inexact_array(a) and jnp.sum(a) != 0
    ]
    assert set(np.round(ratios, 9)) == {0.25, 1.0}
    if isinstance(network, eqx.nn.MLP):
        np.testing.assert_allclose(small(X), 0.25 * network(X), rtol=1e-12)


def test_the_field_of_a_model_is_found():
    model = jo.NeuralODE(eqx.nn.MLP(2, 2, 4, 1, key=KEY))
    field = jo.small_last_layer(model, 0.0).field
    np.testing.assert_array_equal(field(X), 0.0)


def test_what_has_no_layer_is_refused():
    with pytest.raises(jo.OptionError, match="the network has no layer with a weight"):
        jo.small_last_layer(jnp.tanh)
