"""What stands still during a solve: dropout masks and other draws, and normalised weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from jaxode.nn import fields, per_solve_random
from tests.support.differences import assert_close, central, weighted

KEY = jax.random.key(0)
Y = jax.random.normal(jax.random.key(1), (3, 4))
T = jnp.asarray(0.3)


def mlp(size_in, size_out, key=KEY):
    return eqx.nn.MLP(size_in, size_out, 6, 1, activation=jnp.tanh, key=key)


def with_dropout(p=0.5):
    return fields.Sequential(
        [
            eqx.nn.Linear(4, 8, key=KEY),
            fields.Dropout(p, 8),
            eqx.nn.Sequential([eqx.nn.Linear(8, 4, key=KEY), fields.Dropout(p, (4,))]),
        ]
    )


def test_a_mask_is_fixed_once_drawn_and_right_on_average():
    field = fields.Dropout(0.25, 1000)
    one, two = (per_solve_random.draw(field, jax.random.key(seed)) for seed in (1, 2))
    x = jnp.ones(1000)
    np.testing.assert_array_equal(one(x), one(x))
    assert np.any(one(x) != two(x))
    assert set(np.unique(one(x))) == {0.0, 1 / 0.75}
    many = jax.vmap(lambda key: per_solve_random.draw(field, key)(x))(jax.random.split(KEY, 200))
    np.testing.assert_allclose(jnp.mean(many), 1.0, atol=5 * np.sqrt(1 / 3 / 200_000))
    channels = per_solve_random.draw(fields.Dropout(0.5, (2, 1, 1)), jax.random.key(4))(
        jnp.ones((2, 5, 5))
    )
    assert all(np.unique(channel).size == 1 for channel in channels)


def test_each_sample_of_a_batch_has_the_mask_of_its_key():
    field, keys = with_dropout(), jax.random.split(jax.random.key(3), 3)
    assert per_solve_random.needs_key(field)
    own, shared = per_solve_random.draw_batch(field, keys)
    masks = jax.tree.leaves(own)
    assert [mask.shape for mask in masks] == [(3, 8), (3, 4)] and masks[0].dtype == bool
    got = jax.vmap(lambda own, y: eqx.combine(own, shared)(T, y, None))(own, Y)
    for i in range(3):
        alone = per_solve_random.draw(field, keys[i])
        assert not per_solve_random.needs_key(alone)
        np.testing.assert_allclose(got[i], alone(T, Y[i]), rtol=1e-12)
    assert np.any(masks[0][0] != masks[0][1])


def test_dropout_in_a_model():
    model = jo.NeuralODE(with_dropout(), solver="rk4", dt=0.5)
    with pytest.raises(jo.FieldError, match="key="):
        model(Y)
    with pytest.raises(jo.FieldError, match=r"key=jax\.random\.key"):
        model.field(T, Y[0])
    one = model(Y, key=jax.random.key(1))
    np.testing.assert_array_equal(one, model(Y, key=jax.random.key(1)))
    keys = jax.random.split(jax.random.key(1), 3)
    for i in range(3):  # each follows the linear equation of its own masks
        y1 = jo.solve(
            per_solve_random.draw(model.field, keys[i]), Y[i], (0.0, 1.0), solver="rk4", dt=0.5
        ).y1
        np.testing.assert_allclose(one[i], y1, rtol=1e-10)
    calm = eqx.nn.inference_mode(model)
    plain = with_dropout(0.0)
    np.testing.assert_allclose(calm(Y), jo.NeuralODE(plain, solver="rk4", dt=0.5)(Y), rtol=1e-12)


def test_dropout_without_a_shape_has_one_mask_for_all_times():
    layers = [eqx.nn.Linear(4, 8, key=KEY), fields.Dropout(0.5), eqx.nn.Linear(8, 4, key=KEY)]
    field = fields.Sequential(layers)
    with pytest.raises(jo.FieldError, match="no mask"):
        field(T, Y[0])
    drawn = per_solve_random.draw(field, jax.random.key(1))
    np.testing.assert_array_equal(drawn(T, Y[0]), drawn(T + 1.0, Y[0]))
    own = per_solve_random.draw(fields.Dropout(0.25), jax.random.key(2))
    kept = np.asarray(own(jnp.ones((200, 100)))) > 0
    np.testing.assert_allclose(kept.mean(), 0.75, atol=5 * np.sqrt(0.1875 / 20_000))
    np.testing.assert_allclose(own(jnp.ones((200, 100)))[kept], 1 / 0.75)
    model = jo.NeuralODE(field, solver="rk4", dt=0.5)
    found = model(Y, key=KEY)
    for i, key in enumerate(jax.random.split(KEY, 3)):
        alone = per_solve_random.draw(field, key)
        y1 = jo.solve(alone, Y[i], (0.0, 1.0), solver="rk4", dt=0.5).y1
        np.testing.assert_allclose(found[i], y1, rtol=1e-10)


class Probe(per_solve_random.SampledPerSolve):
    """Something drawn around a field in which something else is drawn."""

    field: Any
    random_value: jax.Array | None = None

    def draw(self, key):
        return jax.random.normal(key, (2,))


def test_draws_inside_draws_have_keys_of_their_own():
    nested = Probe(field=with_dropout())
    own, shared = per_solve_random.draw_batch(nested, jax.random.split(KEY, 3))
    assert [x.shape for x in jax.tree.leaves(own)] == [(3, 8), (3, 4), (3, 2)]
    one = per_solve_random.draw(nested, jax.random.split(KEY, 3)[1])
    both = eqx.combine(jax.tree.map(lambda x: x[1], own), shared)
    np.testing.assert_array_equal(both.random_value, one.random_value)
    np.testing.assert_allclose(both.field(T, Y[0]), one.field(T, Y[0]), rtol=1e-12)
    half = eqx.tree_at(lambda p: p.field, nested, eqx.nn.inference_mode(nested.field))
    assert per_solve_random.needs_key(half)
    own, _ = per_solve_random.draw_batch(half, jax.random.split(KEY, 3))
    assert [x.shape for x in jax.tree.leaves(own)] == [(3, 2)]
    assert per_solve_random.draw(mlp(4, 4), KEY) is not None and not per_solve_random.needs_key(
        mlp(4, 4)
    )


@pytest.mark.slow
def test_spectral_norm_is_that_of_the_singular_values():
    layer = eqx.nn.Linear(6, 5, key=KEY)
    norm = fields.SpectralNorm(layer)
    values = jnp.linalg.svd(norm.materialise().weight, compute_uv=False)
    np.testing.assert_allclose(values[0], 1.0, rtol=1e-6)
    true = layer.weight / jnp.linalg.svd(layer.weight, compute_uv=False)[0]
    np.testing.assert_allclose(norm.materialise().weight, true, rtol=1e-6)
    # After a training step it follows.
    moved = layer.weight + 0.05 * jax.random.normal(jax.random.key(5), (5, 6))
    values = jnp.linalg.svd(
        eqx.tree_at(lambda n: n.layer.weight, norm, moved).materialise().weight, compute_uv=False
    )
    np.testing.assert_allclose(values[0], 1.0, rtol=1e-4)
    conv = fields.SpectralNorm(eqx.nn.Conv2d(2, 3, 3, key=KEY)).materialise()
    values = jnp.linalg.svd(conv.weight.reshape(3, -1), compute_uv=False)
    np.testing.assert_allclose(values[0], 1.0, rtol=1e-6)

    def loss(weight):
        return weighted(eqx.tree_at(lambda n: n.layer.weight, norm, weight)(jnp.arange(6.0)))

    def truth(weight):
        return weighted(
            weight / jnp.linalg.norm(weight, 2) @ jnp.arange(6.0) + layer.bias  # by an SVD
        )

    assert_close(jax.grad(loss)(layer.weight), central(truth, layer.weight), 1e-5)
    gradient = eqx.filter_grad(lambda n: weighted(n(jnp.arange(6.0))))(norm)
    assert not np.any(gradient.left)


@pytest.mark.parametrize("norm", [fields.SpectralNorm, fields.WeightNorm])
def test_settled_fields_are_plain_and_the_same(norm):
    field = fields.DepthConcat(
        eqx.tree_at(lambda m: m.layers[1], mlp(5, 4), norm(mlp(5, 4).layers[1]))
    )
    plain = per_solve_random.materialise_weights(field)
    assert isinstance(plain.network.layers[1], eqx.nn.Linear)
    np.testing.assert_allclose(plain(T, Y[0]), field(T, Y[0]), rtol=1e-12)
    one = eqx.filter_grad(lambda f: weighted(f(T, Y[0])))(field)
    two = eqx.filter_grad(lambda f: weighted(per_solve_random.materialise_weights(f)(T, Y[0])))(
        field
    )
    np.testing.assert_allclose(ravel_pytree(one)[0], ravel_pytree(two)[0], atol=1e-12)
