"""Outside `jit` a solve sees what a function reads anew at every call."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

RATE = 1.0
Y0 = jnp.array([1.0, 2.0])


def of_global(t, y, args):
    return -RATE * y


def of_helper(t, y, args):
    return of_global(t, y, args)


def end(f):
    return float(jo.solve(f, Y0, (0.0, 1.0), rtol=1e-8, atol=1e-10).y1[0])


class Model:
    def __init__(self, rate):
        self.rate = rate

    def field(self, t, y, args):
        return -self.rate * y


@dataclasses.dataclass
class Unhashable:
    rate: float

    def __call__(self, t, y, args):
        return -self.rate * y


@pytest.mark.parametrize("f", [of_global, of_helper, functools.partial(of_global)])
def test_a_global_that_changed(f, monkeypatch):
    assert end(f) == pytest.approx(np.exp(-1.0), rel=1e-6)
    monkeypatch.setitem(globals(), "RATE", 2.0)
    assert end(f) == pytest.approx(np.exp(-2.0), rel=1e-6)


def test_a_closed_over_value_that_changed():
    rate = jnp.array(1.0)

    def f(t, y, args):
        return -rate * y

    assert end(f) == pytest.approx(np.exp(-1.0), rel=1e-6)
    rate = jnp.array(2.0)
    assert end(f) == pytest.approx(np.exp(-2.0), rel=1e-6)


@pytest.mark.parametrize("make", [lambda m: m.field, lambda m: m])
def test_an_attribute_that_changed(make):
    model = Unhashable(1.0) if make(Model(1.0)).__class__ is Model else Model(1.0)
    assert end(make(model)) == pytest.approx(np.exp(-1.0), rel=1e-6)
    model.rate = 2.0
    assert end(make(model)) == pytest.approx(np.exp(-2.0), rel=1e-6)


def test_an_attribute_that_is_differentiated_twice():
    model = Model(1.0)

    def loss(rate):
        model.rate = rate
        return jo.solve(model.field, Y0, (0.0, 1.0), rtol=1e-8, atol=1e-10).y1[0]

    for rate in (1.0, 2.0):
        assert jax.grad(loss)(rate) == pytest.approx(-np.exp(-rate), rel=1e-5)


def test_nothing_changed_and_nothing_is_traced_again():
    traces = []

    def f(t, y, args):
        traces.append(0)
        return -RATE * y

    end(f)
    first = len(traces)
    end(f)
    assert len(traces) == first
