"""Several batch axes: results are those of one, with the axes of the batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn.batch_axes import count_batch_axes

KEY = jax.random.key(0)
FIXED: Any = {"solver": "midpoint", "dt": 0.5}
X = jax.random.normal(KEY, (2, 3, 2))
IMAGES = jax.random.normal(KEY, (2, 3, 1, 4, 4))
TS = jnp.cumsum(jax.random.uniform(KEY, (2, 3, 5), minval=0.1), axis=-1)
XS = jax.random.normal(KEY, (2, 3, 5, 2)).at[0, 1, 2, 0].set(jnp.nan)
TIMES = TS[..., :2] + 0.05
MASK = ~jnp.isnan(XS)
LENGTHS = jnp.array([[5, 4, 5], [3, 5, 5]])
MATRIX = jnp.array([[0.1, 1.0], [-1.0, 0.2]])

NODE = jo.NeuralODE(eqx.nn.MLP(2, 2, 4, 1, jnp.tanh, key=KEY), **FIXED)
LINEAR = jo.NeuralODE(lambda t, y, args: args["own"] * (MATRIX @ y) * args["all"], **FIXED)
ARGS = {"own": X[..., 0], "all": 0.5}
AXES = {"own": 0, "all": None}
ROTATION = jnp.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.5], [0.0, -0.5, 0.0]])
AUGMENTED = jo.NeuralODE(lambda y: ROTATION @ y, augment=1, integral_loss=jnp.sum, **FIXED)
FLOW = jo.nn.FFJORD(2, (4,), key=KEY, **FIXED)
SHIFT = jo.nn.CNF(lambda t, y, shift: shift + 0 * y, 2, **FIXED)
BLOCK = jo.nn.ODEBlock(1, key=KEY, **FIXED)
NET = jo.nn.ConvODENet(1, 3, channels=2, key=KEY, **FIXED)
UNET = jo.nn.ODEUNet(1, 2, channels=2, levels=2, groups=1, key=KEY, **FIXED)
CDE = jo.nn.NeuralCDE.mlp(2, 1, hidden=3, width=4, key=KEY, **FIXED)
LATENT = jo.nn.LatentODE(2, 2, 3, width=3, key=KEY, **FIXED)
RNN = jo.nn.ODERNN(2, 3, 1, key=KEY, **FIXED)
BAYES = jo.nn.GRUODEBayes(2, 3, key=KEY, **FIXED)
HIDDEN = jax.random.normal(KEY, (2, 3, 3))
MODELS = NODE, FLOW, SHIFT, BLOCK, NET, UNET, CDE, LATENT, RNN, BAYES
# What is called, and the arguments that have the axes of the batch.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "NeuralODE": (NODE, (X,)),
    "NeuralODE at times": (NODE, (X, jnp.pad(TS, ((0, 0), (0, 0), (1, 0))))),
    "NeuralODE, inverse": (NODE.inverse, (X,)),
    "NeuralODE, arguments": (
        lambda x, own: LINEAR(x, args={"own": own, "all": 0.5}, args_axes=AXES),
        (X, X[..., 0]),
    ),
    "NeuralODE, solve": (lambda x: AUGMENTED.solve(x).ys, (X,)),
    "CNF, log_prob": (FLOW.log_prob, (X,)),
    "CNF, forward": (lambda x: FLOW.forward(x, ts=jnp.array([1.0, 0.5])), (X,)),
    "CNF, arguments": (lambda z, a: SHIFT.inverse(z, a, args_axes=0), (X, X)),
    "ODEBlock": (BLOCK, (IMAGES,)),
    "ODEBlock, inverse": (BLOCK.inverse, (IMAGES,)),
    "ConvODENet": (NET, (IMAGES,)),
    "ODEUNet": (UNET, (IMAGES,)),
    "NeuralCDE": (lambda *a: CDE(*a[:4], times=a[4]), (TS, XS, MASK, LENGTHS, TIMES)),
    "NeuralCDE, solve": (lambda ts, xs: CDE.solve(ts, xs).ys, (TS, XS)),
    "NeuralCDE, inverse": (CDE.inverse, (HIDDEN, TS, XS)),
    "cdeint": (
        lambda z, ts, xs: jo.nn.cdeint(CDE.path(ts, xs), CDE.field, z, (0.2, 0.6), **FIXED),
        (HIDDEN, TS, XS),
    ),
    "LatentODE, predict": (LATENT.predict, (TS, XS, TIMES, MASK, LENGTHS)),
    "LatentODE, elbo": (lambda ts, xs: LATENT.elbo(ts, xs, key=KEY), (TS, XS)),
    "LatentODE, decode": (LATENT.decode, (X, TS, TS[..., 2])),
    "ODERNN": (RNN, (TS, XS, MASK[..., 0], LENGTHS)),
    "ODERNN, predict": (RNN.predict, (TS, XS, TIMES)),
    "GRUODEBayes": (BAYES, (TS, XS)),
    "GRUODEBayes, predict": (BAYES.predict, (TS, XS, TIMES)),
}
SLOW = (
    "ODEUNet",
    "NeuralCDE",
    "NeuralCDE, solve",
    "NeuralCDE, inverse",
    "LatentODE, decode",
    "ODERNN, predict",
)


def merged(x: Any) -> Any:
    return x.reshape(6, *x.shape[2:])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CALLS]
)
def test_results_are_those_of_one_axis(name):
    function, arguments = CALLS[name]
    found, flat = function(*arguments), function(*map(merged, arguments))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(flat), strict=True):
        assert a.shape == (2, 3, *b.shape[1:])
        np.testing.assert_array_equal(merged(a), b)


def test_every_model_that_takes_a_batch_is_here():
    batched = {name for name, value in vars(jo.nn).items() if getattr(value, "batched", False)}
    assert batched == {type(model).__name__ for model in MODELS}


def test_losses_of_one_axis_and_of_two_are_the_same():
    likelihood = jo.nn.negative_log_likelihood
    np.testing.assert_allclose(likelihood(FLOW, X), likelihood(FLOW, merged(X)), rtol=1e-12)
    matching = jo.nn.flow_matching_loss
    found, flat = matching(FLOW, X, KEY), matching(FLOW, merged(X), KEY)
    np.testing.assert_allclose(found, flat, rtol=1e-12)
    np.testing.assert_allclose(BAYES.loss(TS, XS), BAYES.loss(*map(merged, (TS, XS))), rtol=1e-12)
    found = LATENT.elbo_loss(TS, XS, key=KEY)
    np.testing.assert_allclose(found, LATENT.elbo_loss(merged(TS), merged(XS), key=KEY), rtol=1e-12)


def test_solutions_have_the_axes_of_the_batch():
    solution = NODE.solve(X)
    assert solution.ys.shape == (2, 3, 2, 2) and solution.ts.shape == (2,)
    assert solution.stats.num_steps.shape == solution.status.shape == (2, 3)
    assert NET.solve(IMAGES).status.shape == FLOW.solve(X).status.shape == (2, 3)


@pytest.mark.parametrize(
    ("field", "shape", "count"),
    [
        (lambda y: -y, (2, 3, 4, 4), 1),
        (eqx.nn.Linear(2, 2, key=KEY), (5, 2, 2), 2),
        (jo.nn.DepthConcat(eqx.nn.MLP(3, 2, 4, 1, key=KEY)), (5, 4, 2), 2),
        (jo.nn.ConvField(2, key=KEY), (5, 3, 2, 4, 4), 2),
        (jo.nn.ConvField(2, key=KEY), (3, 2, 4, 4), 1),
        (jo.nn.TransformerField(4, 2, 4, key=KEY), (5, 3, 4), 1),
        (jo.nn.TransformerField(4, 2, 4, key=KEY), (2, 5, 3, 4), 2),
        (jo.nn.Sequential([eqx.nn.Linear(2, 2, key=KEY), jo.nn.Dropout(0.5, 2)]), (5, 4, 2), 2),
        (lambda y: y[:1], (5, 3, 2), 1),
    ],
)
def test_the_axes_that_a_field_does_not_take_are_those_of_the_batch(field, shape, count):
    assert count_batch_axes(field, jnp.zeros(shape), None, None, 0) == count


def test_arguments_without_the_axes_of_the_batch_are_refused():
    with pytest.raises(jo.DataError, match=r"the axes \(2, 3\) of the batch from axis 0 on"):
        SHIFT.inverse(X, jnp.ones((6, 2)), args_axes=0)
