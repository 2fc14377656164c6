"""Bad input to models, data sets and `fit`, and trainings that go wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of

X = jax.random.normal(jax.random.key(0), (8, 2))
LABELS = jnp.arange(8) % 2
DATA = (X, LABELS)


def network(width=2):
    return eqx.nn.MLP(width, width, 4, 1, activation=jnp.tanh, key=jax.random.key(1))


def model(**options):
    return jo.NeuralODE(network(), **options)


FITS = {
    "sizes that differ": ((X, LABELS[:5]), {}, jo.DataError, r"number of samples, got \[8, 5\]"),
    "no samples": ((X[:0], LABELS[:0]), {}, jo.DataError, r"agree in the number of samples"),
    "no arrays": ((), {}, jo.DataError, r"pytree of arrays with a common first axis"),
    "a scalar": ((X, 1.0), {}, jo.DataError, r"pytree of arrays with a common first axis"),
    "strings": ((["a"] * 8, LABELS), {}, jo.DataError, r"data must be a pytree of arrays"),
    "NaN": ((X.at[3, 1].set(jnp.nan), LABELS), {}, jo.DataError, r"array 0.*finite at sample 3"),
    "infinite": ((X.at[5, 0].set(jnp.inf), LABELS), {}, jo.DataError, r"array 0.*at sample 5"),
    "float labels": (
        (X, LABELS * 1.0),
        {},
        jo.DataError,
        r"cross_entropy needs integer labels of shape \(8,\), got float64",
    ),
    "labels in columns": (
        (X, LABELS[:, None]),
        {},
        jo.DataError,
        r"integer labels of shape \(8,\), got int.* of shape \(8, 1\)",
    ),
    "labels below zero": ((X, LABELS - 1), {}, jo.DataError, r"label.*-1"),
    "labels beyond the classes": ((X, LABELS + 1), {}, jo.DataError, r"label.*2"),
    "a target of another shape": (
        (X, X[:, :1]),
        {"loss": "mse"},
        jo.DataError,
        r"model predicts shape \(8, 2\), the target has \(8, 1\)",
    ),
    "no target": ((X,), {}, jo.DataError, r"a loss by name needs data=\(x, y\)"),
    "too large a batch": (
        DATA,
        {"batch_size": 9},
        jo.OptionError,
        r"between 1 and 8 samples, got 9",
    ),
    "an empty batch": (DATA, {"batch_size": 0}, jo.OptionError, r"between 1 and 8 samples, got 0"),
    "half a sample": (DATA, {"batch_size": 2.5}, jo.OptionError, r"batch_size.*2.5"),
    "no steps": (
        DATA,
        {"steps": 0},
        jo.OptionError,
        r"^steps must be an integer of at least 1, got 0",
    ),
    "half a step": (DATA, {"steps": 1.5}, jo.OptionError, r"integer of at least 1, got 1.5"),
    "True steps": (DATA, {"steps": True}, jo.OptionError, r"integer of at least 1, got True"),
    "no optimiser": (DATA, {"optimizer": 0.1}, jo.OptionError, r"an Optax transformation, got 0.1"),
    "optimiser uncalled": (
        DATA,
        {"optimizer": optax.adam},
        jo.OptionError,
        r"Optax transformation",
    ),
    "misspelt loss": (
        DATA,
        {"loss": "crossentropy"},
        jo.OptionError,
        r"no loss called 'crossentropy'; did you mean 'cross_entropy'",
    ),
    "loss of a number": (DATA, {"loss": 3}, jo.OptionError, r"a name or a function, got 3"),
    "misspelt metric": (
        DATA,
        {"metric": "acuracy"},
        jo.OptionError,
        r"no metric called 'acuracy'; did you mean 'accuracy'",
    ),
    "metric of a number": (DATA, {"metric": 3}, jo.OptionError, r"metric must be.*3"),
    "a metric beside a function": (
        DATA,
        {"loss": lambda model, batch: 0.0, "metric": "accuracy"},
        jo.OptionError,
        r"a metric goes with a loss by name",
    ),
    "a loss that is no scalar": (
        DATA,
        {"loss": lambda model, batch: model(batch[0])},
        jo.OptionError,
        r"loss.*scalar.*float64\[8, 2\]",
    ),
    "progress of a string": (DATA, {"progress": "yes"}, jo.OptionError, r"progress must be"),
}


@pytest.mark.parametrize("case", FITS)
def test_fit_refuses(case):
    data, options, error, message = FITS[case]
    options = {"loss": "cross_entropy", "steps": 2, "progress": False, **options}
    with pytest.raises(error, match=message):
        jo.fit(model(), data, **options)


MODELS = {
    "augment below zero": ({"augment": -1}, jo.OptionError, r"integer of at least 0, got -1"),
    "augment of a float": ({"augment": 1.0}, jo.OptionError, r"integer of at least 0, got 1.0"),
    "misspelt solver": ({"solver": "dopri"}, jo.OptionError, r"no solver called 'dopri'; did you"),
    "misspelt mode": ({"sensitivity": "adjont"}, jo.OptionError, r"did you mean 'adjoint'"),
    "no steps": ({"max_steps": 0}, jo.OptionError, r"max_steps must be an integer of at least 1"),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_refuses(case):
    options, error, message = MODELS[case]
    with pytest.raises(error, match=message):
        model(**options)


@pytest.mark.parametrize(
    ("field", "message"),
    [(eqx.nn.MLP, "callable such as an eqx.nn.MLP instance, got"), (3.0, "got 3.0")],
)
def test_model_refuses_a_field(field, message):
    with pytest.raises(jo.FieldError, match=message):
        jo.NeuralODE(field)


CALLS = {
    "a scalar": (
        jnp.array(1.0),
        jo.DataError,
        r"a sample \(features,\) or a batch, got shape \(\)",
    ),
    "nothing": (jnp.zeros((0, 2)), jo.DataError, r"got shape \(0, 2\)"),
    "a list": ([1.0, 2.0], jo.DataError, r"x must be an array of samples, got list"),
    "booleans": (jnp.ones(2, bool), jo.StateError, r"y0 has dtype bool.*expected floating-point"),
}


@pytest.mark.parametrize("case", CALLS)
def test_model_refuses_a_sample(case):
    x, error, message = CALLS[case]
    with pytest.raises(error, match=message):
        model()(x)


@pytest.mark.parametrize("x", [jnp.ones(3), jnp.ones((5, 3))])
def test_width_that_does_not_fit_mentions_augment(x):
    with pytest.raises(jo.FieldError) as caught:
        jo.NeuralODE(network(2), augment=1)(x)
    told = "\n".join(caught.value.__notes__)
    assert "each sample has 4 features, of which augment=1 are added" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_points": 1}, r"n_points must be an integer of at least 2, got 1"),
        ({"n_points": 10.5}, r"n_points must be .*10.5"),
        ({"noise": -0.1}, r"noise must be a number that is not negative, got -0.1"),
        ({"noise": np.nan}, r"noise must be a number that is not negative, got nan"),
    ],
)
def test_spiral_refuses(options, message):
    with pytest.raises(jo.OptionError, match=message):
        jo.datasets.Spiral(**options)


def test_first_loss_that_is_nan_is_an_error():
    def loss(model, batch):
        return jnp.sum(model(batch[0])) * jnp.nan

    with pytest.raises(jo.SolveError, match=r"not finite at step 0 \(loss nan\); the solve went"):
        jo.fit(model(), DATA, loss=loss, steps=3, progress=False)


def test_first_solve_that_fails_is_an_error_that_says_why():
    short = model(max_steps=2, rtol=1e-10, atol=1e-10)
    with pytest.raises(jo.SolveError, match=r"ended with MAX_STEPS: max_steps was reached"):
        jo.fit(short, (X, X), loss="mse", steps=3, progress=False)


def test_later_nan_warns_and_keeps_the_last_good_model():
    def loss(model, batch):
        value = jnp.mean(model(batch[0]) ** 2)
        return value * jnp.where(value < 0.9 * START, jnp.nan, 1.0)  # the gradient too is NaN

    start = model()
    START = float(jnp.mean(start(X) ** 2))
    with pytest.warns(jo.TrainingWarning, match=r"stopped early: .* not finite at step [1-9]"):
        trained, log = jo.fit(
            start, DATA, loss=loss, steps=200, optimizer=optax.adam(5e-2), progress=False
        )
    assert 1 < log.loss.size < 200
    assert np.isnan(log.loss[-1])
    assert np.all(np.isfinite(log.loss[:-1]))
    leaves = jax.tree.leaves(eqx.filter(trained, eqx.is_inexact_array))
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert jnp.mean(trained(X) ** 2) < 0.9 * START


LOSSES = {
    "nothing": lambda model, batch: None,
    "an integer": lambda model, batch: 3,
    "a vector": lambda model, batch: jnp.ones(2) * model.bias,
    "three": lambda model, batch: (jnp.sum(model.bias), {}, {}),
    "no dict": lambda model, batch: (jnp.sum(model.bias), [1.0]),
    "vectors to log": lambda model, batch: (jnp.sum(model.bias), {"bias": model.bias}),
    "complex": lambda model, batch: jnp.sum(model.bias) * 1j,
    "one argument": lambda model: jnp.sum(model.bias),
    "an error inside": lambda model, batch: jnp.sum(model.bias @ jnp.ones(7)),
}


@pytest.mark.parametrize("case", LOSSES)
def test_what_a_loss_returns_is_checked_before_a_compilation(case):
    linear = eqx.nn.Linear(2, 2, key=jax.random.key(1))

    def train():
        with pytest.raises(jo.OptionError, match=r"the loss|a loss logs"):
            jo.fit(linear, DATA, loss=LOSSES[case], steps=1)

    assert compilations_of(train) == 0
