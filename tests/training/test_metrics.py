"""Metrics of `fit`: one or several, by name or as functions."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.one_weight import fit, squares

X = jnp.array([[1.0], [2.0], [4.0]])
DATA = X, 0 * X


def largest(prediction, target):
    return jnp.max(jnp.abs(prediction - target))


GIVEN = {
    "a function": (largest, {"largest": 4.0}),
    "a name": ("mse", {"mse": 7.0}),
    "a list": (["mse", largest], {"mse": 7.0, "largest": 4.0}),
    "a dict": (
        {"error": "mse", "twice": lambda p, y: 2 * largest(p, y)},
        {"error": 7.0, "twice": 8.0},
    ),
    "none": ([], {}),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_metrics_are_logged_by_their_names(kind):
    metrics, expected = GIVEN[kind]
    _, log = fit(DATA, loss="mse", metrics=metrics, steps=1)
    assert {name: values[0] for name, values in log.history.items()} == {"loss": 7.0, **expected}


def test_no_metric_but_that_which_is_asked_for():
    logits = jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])
    assert set(fit(logits, loss="cross_entropy", steps=1)[1].history) == {"loss", "accuracy"}
    assert set(fit(logits, loss="cross_entropy", metrics=[], steps=1)[1].history) == {"loss"}
    _, log = fit(logits, loss="cross_entropy", steps=1)
    np.testing.assert_allclose(log.history["accuracy"], [0.5])


def fails(prediction, target):
    raise ValueError("of the user's own")


REFUSED = {
    "both": ({"metric": "mse", "metrics": "mse"}, "name all of them in metrics"),
    "misspelt": ({"metrics": ["msee"]}, "no metric called 'msee'; did you mean 'mse'"),
    "twice": ({"metrics": ["mse", "mse"]}, "names of their own.*'mse'"),
    "taken": ({"metrics": {"loss": "mse"}}, "names of their own.*'loss'"),
    "a number": ({"metrics": [3]}, "metrics must be a name or a function, got 3"),
    "a vector": ({"metrics": {"errors": lambda p, y: p - y}}, "'errors' must return a scalar"),
    "an error": ({"metrics": fails}, "calling the metric 'fails' failed: of the user's own"),
    "beside a function": ({"loss": squares, "metrics": ["mse"]}, "goes with a loss by name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    options, message = REFUSED[case]
    with pytest.raises(jo.OptionError, match=message):
        fit(DATA, **{"loss": "mse", **options})
