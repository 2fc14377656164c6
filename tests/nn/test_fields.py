"""Vector fields: layers that depend on time, data, dropout, norms, attention; what is drawn."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn import fields, per_solve_random
from tests.support.differences import parted, weighted
from tests.support.field_checks import (
    T,
    assert_a_batch_has_the_gradient_that_differences_show,
    assert_equal_with_gradient,
    assert_single_precision_stays_single,
    assert_weights_have_the_gradient_that_differences_show,
)
from tests.support.sweeps import few

KEY = jax.random.key(0)
Y = jax.random.normal(jax.random.key(1), (3, 4))
IMAGES = jax.random.normal(jax.random.key(2), (2, 2, 5, 5))


def mlp(size_in, size_out, key=KEY):
    return eqx.nn.MLP(size_in, size_out, 6, 1, activation=jnp.tanh, key=key)


def galerkin(basis):
    layers = [fields.GalerkinLinear(4, 6, basis, key=KEY), jnp.tanh, eqx.nn.Linear(6, 4, key=KEY)]
    return fields.Sequential(layers)


def convolutions(layer):
    return fields.Sequential([layer(2, 3, key=KEY), jnp.tanh, layer(3, 2, key=KEY)])


def conv(kind):
    return convolutions(lambda a, b, key: kind(a, b, 3, padding=1, key=key))


def galerkin_conv(a, b, key):
    return fields.GalerkinConv2d(a, b, 3, fields.Polynomial(2), padding=1, key=key)


def normed(norm):
    return eqx.tree_at(lambda m: m.layers[0], mlp(4, 4), norm(mlp(4, 4).layers[0]))


# Each with a batch of states and what args are.
FIELDS = {
    "DepthConcat": (fields.DepthConcat(mlp(5, 4)), Y, None),
    "DepthConcat of images": (
        fields.DepthConcat(eqx.nn.Conv2d(3, 2, 3, padding=1, key=KEY)),
        IMAGES,
        None,
    ),
    "Fourier": (galerkin(fields.Fourier(3, 2.0)), Y, None),
    "Polynomial": (galerkin(fields.Polynomial(3)), Y, None),
    "Chebyshev": (galerkin(fields.Chebyshev(3)), Y, None),
    "RBF": (galerkin(fields.RBF(3)), Y, None),
    "GalerkinConv2d": (convolutions(galerkin_conv), IMAGES, None),
    "concat_squash_mlp": (fields.concat_squash_mlp(4, 6, 1, key=KEY), Y, None),
    "ConcatConv2d": (conv(fields.ConcatConv2d), IMAGES, None),
    "ConcatSquashConv2d": (conv(fields.ConcatSquashConv2d), IMAGES, None),
    "DataControlled": (fields.DataControlled(mlp(6, 4)), Y, jnp.array([0.5, -1.0])),
    "SecondOrder": (fields.SecondOrder(mlp(4, 2)), Y, None),
    "UDE": (fields.UDE(lambda y: -y, mlp(4, 4)), Y, None),
    "SpectralNorm": (normed(fields.SpectralNorm), Y, None),
    "WeightNorm": (normed(fields.WeightNorm), Y, None),
    "TransformerField": (
        fields.TransformerField(4, 2, 6, key=KEY),
        jax.random.normal(KEY, (2, 3, 4)),
        jnp.array([True, True, False]),
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_weights_have_the_gradient_that_differences_show(name):
    field, y, args = FIELDS[name]
    assert_weights_have_the_gradient_that_differences_show(field, y[0], args)


@pytest.mark.parametrize("name", few(FIELDS, *list(FIELDS)[::6]))
def test_every_field_learns_through_a_batch(name):
    assert_a_batch_has_the_gradient_that_differences_show(*FIELDS[name])


def test_a_batch_and_its_gradient_are_those_of_steps_by_hand():
    field, y, args = FIELDS["Fourier"]
    flat, of = parted(field)

    def solved(flat):
        return weighted(
            jo.solve_batch(
                of(flat), y, (0.0, 0.5), args, solver="midpoint", controller=jo.Fixed(0.25)
            ).ys[:, -1]
        )

    def by_hand(flat):
        def end(y):
            for t in (0.0, 0.25):
                half = y + 0.125 * of(flat)(jnp.asarray(t), y, args)
                y = y + 0.25 * of(flat)(jnp.asarray(t + 0.125), half, args)
            return y

        return weighted(jax.vmap(end)(y))

    assert_equal_with_gradient(solved, by_hand, flat)


@pytest.mark.parametrize("name", FIELDS)
def test_single_precision_stays_single(name):
    field, y, args = FIELDS[name]
    assert_single_precision_stays_single(field, y[0], args)


def test_time_stands_beside_the_features_or_is_one_more_channel():
    np.testing.assert_allclose(
        fields.DepthConcat(lambda x: x)(T, Y[0]), jnp.append(Y[0], 0.3), rtol=0
    )
    image = fields.DepthConcat(lambda x: x)(T, IMAGES[0])
    assert image.shape == (3, 5, 5) and np.all(image[2] == 0.3)
    conv = fields.ConcatConv2d(2, 3, 3, padding=1, key=KEY)
    bias: Any = conv.layer.bias
    plane = jnp.concatenate([IMAGES[0], jnp.full((1, 5, 5), 0.3)])
    want = (
        jax.lax.conv_general_dilated(plane[None], conv.layer.weight, (1, 1), [(1, 1), (1, 1)])[0]
        + bias
    )
    np.testing.assert_allclose(conv(T, IMAGES[0]), want, rtol=1e-12)


def test_bases_are_the_functions_of_the_books():
    t: Any = np.linspace(0.0, 2.0, 9)
    fourier = jax.vmap(fields.Fourier(4, 2.0))(t)
    want = [np.ones(9), np.cos(np.pi * t), np.sin(np.pi * t), np.cos(2 * np.pi * t)]
    np.testing.assert_allclose(fourier, np.stack(want, 1), atol=1e-14)
    np.testing.assert_allclose(jax.vmap(fields.Fourier(4, 2.0))(t + 2.0), fourier, atol=1e-13)
    np.testing.assert_allclose(jax.vmap(fields.Polynomial(4))(t), np.vander(t, 4, increasing=True))
    angle = np.arccos(t - 1)
    want = np.cos(np.arange(5) * angle[:, None])
    np.testing.assert_allclose(jax.vmap(fields.Chebyshev(5, (0.0, 2.0)))(t), want, atol=1e-13)
    r = (t[:, None] - np.array([0.0, 1.0, 2.0])) / 0.7
    for basis in (fields.Fourier(4), fields.Polynomial(4), fields.Chebyshev(4), fields.RBF(4)):
        assert isinstance(basis, fields.Basis) and basis.n == 4
    for kind, want in {
        "gaussian": np.exp(-(r**2)),
        "multiquadric": np.hypot(1, r),
        "inverse_multiquadric": 1 / np.hypot(1, r),
        "inverse_quadratic": 1 / (1 + r**2),
    }.items():
        basis = fields.RBF(3, (0.0, 2.0), kind, width=0.7)
        np.testing.assert_allclose(jax.vmap(basis)(t), want, rtol=1e-14)
    np.testing.assert_allclose(fields.RBF(1, (0.0, 2.0))(jnp.asarray(1.0)), [1.0])


@pytest.mark.slow
def test_galerkin_layers_are_sums_of_layers():
    x = Y[0]
    constant = fields.GalerkinLinear(4, 3, fields.Polynomial(1), key=KEY)
    plain = eqx.nn.Linear(4, 3, key=jax.random.split(KEY, 1)[0])
    np.testing.assert_allclose(constant(T, x), plain(x), rtol=1e-14)
    layer = fields.GalerkinLinear(4, 3, fields.Polynomial(3), key=KEY)
    weight, bias = layer.expansion.weight, layer.expansion.bias
    want = sum(0.3**k * (weight[k] @ x + bias[k]) for k in range(3))
    np.testing.assert_allclose(layer(T, x), want, rtol=1e-12)
    periodic = fields.GalerkinLinear(4, 3, fields.Fourier(5, 0.5), key=KEY)
    np.testing.assert_allclose(periodic(T, x), periodic(T + 1.5, x), rtol=1e-12)
    assert float(jnp.max(jnp.abs(periodic(T, x) - periodic(T + 0.1, x)))) > 1e-2
    conv = galerkin_conv(2, 3, KEY)
    parts = [jax.tree.map(lambda c, k=k: c[k], conv.expansion)(IMAGES[0]) for k in range(2)]
    np.testing.assert_allclose(conv(T, IMAGES[0]), parts[0] + 0.3 * parts[1], rtol=1e-10)
    wide = fields.GalerkinLinear(100, 100, fields.Polynomial(4), key=KEY).expansion.weight
    np.testing.assert_allclose(jnp.sum(jnp.var(wide, (1, 2))), 1 / 300, rtol=0.05)


def test_concat_squash_by_hand():
    layer: Any = fields.ConcatSquash(4, 3, key=KEY)
    gate = layer.gate.weight[:, 0] * 0.3 + layer.gate.bias
    want = layer.layer.weight @ Y[0] + layer.layer.bias
    want = want / (1 + np.exp(-gate)) + 0.3 * layer.shift.weight[:, 0]
    np.testing.assert_allclose(layer(T, Y[0]), want, rtol=1e-12)
    conv: Any = fields.ConcatSquashConv2d(2, 3, 1, key=KEY)
    pixel = conv.layer.weight[:, :, 0, 0] @ IMAGES[0][:, 1, 2] + conv.layer.bias[:, 0, 0]
    gate = conv.gate.weight[:, 0] * 0.3 + conv.gate.bias
    want = pixel / (1 + np.exp(-gate)) + 0.3 * conv.shift.weight[:, 0]
    np.testing.assert_allclose(conv(T, IMAGES[0])[:, 1, 2], want, rtol=1e-12)
    network = fields.concat_squash_mlp(4, 6, 2, key=KEY)
    assert [type(layer).__name__ for layer in network.layers[::2]] == ["ConcatSquash"] * 3
    assert network.layers[1] is jnp.tanh and network.layers[3] is jnp.tanh


def test_data_steer_the_field_of_each_sample():
    field = fields.DataControlled(lambda z: z[2:] * z[:2])  # y' = x y
    data = jnp.array([[1.0, -1.0], [0.5, 2.0], [0.0, 0.3]])
    model = jo.NeuralODE(field, rtol=1e-9, atol=1e-11)
    y1 = model(jnp.ones((3, 2)), args=data, args_axes=0)
    np.testing.assert_allclose(y1, np.exp(data), rtol=1e-7)


def test_second_order_is_the_harmonic_oscillator():
    model = jo.NeuralODE(fields.SecondOrder(lambda y: -4 * y[:2]), t1=1.3, rtol=1e-9, atol=1e-11)
    q, v = jnp.array([1.0, -0.5]), jnp.array([0.3, 2.0])
    c, s = np.cos(2.6), np.sin(2.6)
    want = np.concatenate([q * c + v * s / 2, v * c - 2 * q * s])
    np.testing.assert_allclose(model(jnp.concatenate([q, v])), want, rtol=1e-6)


def test_a_universal_equation_is_the_sum_of_its_parts():
    network = mlp(4, 4)
    field = fields.UDE(lambda t, y, args: args * t * y, network)
    np.testing.assert_allclose(field(T, Y[0], 2.0), 0.6 * Y[0] + network(Y[0]), rtol=1e-12)


def test_attention_is_the_block_of_a_transformer():
    field = fields.TransformerField(4, 1, 6, key=KEY)
    y = jax.random.normal(jax.random.key(7), (3, 4))

    def normalised(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    def attended(x):
        a = field.attention
        q, k, v = (x @ p.weight.T for p in (a.query_proj, a.key_proj, a.value_proj))
        scores = np.exp(q @ k.T / 2)
        return scores / scores.sum(1, keepdims=True) @ v @ a.output_proj.weight.T

    middle = np.asarray(y) + np.asarray(attended(normalised(np.asarray(y))))
    want = middle + np.asarray(jax.vmap(field.network)(normalised(middle)))
    np.testing.assert_allclose(y + field(T, y), want, rtol=1e-10)


def test_padding_is_neither_seen_nor_moved():
    field = eqx.filter_jit(fields.TransformerField(4, 2, 6, key=KEY))
    y = jax.random.normal(jax.random.key(7), (5, 4))
    slope = field(T, y, jnp.array([True, True, True, False, False]))
    np.testing.assert_allclose(slope[:3], field(T, y[:3]), rtol=1e-10)
    assert not np.any(slope[3:])
    causal = field(T, y, jnp.tril(jnp.ones((5, 5), bool)))
    np.testing.assert_allclose(causal[:2], field(T, y[:2], jnp.tril(jnp.ones((2, 2), bool))))
    order = jnp.array([3, 1, 4, 0, 2])
    np.testing.assert_allclose(field(T, y[order]), field(T, y)[order], rtol=1e-10)


BAD = {
    "network must be": lambda: fields.DepthConcat(eqx.nn.Linear),
    r"layers\[1\] must be": lambda: fields.Sequential([jnp.tanh, 3.0]),  # pyright: ignore
    "use jo.nn.Dropout": lambda: fields.Sequential([eqx.nn.Dropout(0.1)]),
    "Fourier: n": lambda: fields.Fourier(0),
    "period must be": lambda: fields.Fourier(3, -1.0),
    "Chebyshev: span": lambda: fields.Chebyshev(3, (1.0, 0.0)),
    "'gaussian'": lambda: fields.RBF(3, kind="gausian"),
    "GalerkinLinear: basis": lambda: fields.GalerkinLinear(2, 2, 5, key=KEY),  # pyright: ignore
    "concat_squash_mlp: width": lambda: fields.concat_squash_mlp(2, 0, 1, key=KEY),
    "args must be the data": lambda: fields.DataControlled(mlp(6, 4))(T, Y[0], None),  # pyright: ignore
    "SecondOrder: the state": lambda: fields.SecondOrder(mlp(3, 1))(T, Y[0, :3]),
    "SecondOrder: network": lambda: fields.SecondOrder(mlp(4, 4))(T, Y[0]),
    "UDE: known": lambda: fields.UDE(jnp.sum, mlp(4, 4))(T, Y[0]),
    "Dropout: p": lambda: fields.Dropout(1.0, 3),
    "Dropout: shape": lambda: fields.Dropout(0.5, (3, 0)),
    "does not fit": lambda: per_solve_random.draw(fields.Dropout(0.5, 3), KEY)(Y[0]),
    "SpectralNorm: layer": lambda: fields.SpectralNorm(jnp.tanh),
    "num_power_iterations": lambda: fields.SpectralNorm(eqx.nn.Linear(2, 2, key=KEY), 0),
    "multiple of heads": lambda: fields.TransformerField(5, 2, 6, key=KEY),
    "boolean mask": lambda: fields.TransformerField(4, 2, 6, key=KEY)(T, Y, jnp.ones(3)),
}


@pytest.mark.parametrize("words", BAD)
def test_what_does_not_fit_is_refused_by_name(words):
    with pytest.raises((jo.FieldError, jo.OptionError), match=words):
        BAD[words]()
