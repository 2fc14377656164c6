"""Outside `jit` a solve sees what its functions read anew at every call."""

import dataclasses
import functools
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of

RATE = 1.0
Y0 = jnp.array([1.0, 2.0])
SPAN = (0.0, 1.0)
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}


def of_global(t, y, args):
    return -RATE * y


def of_helper(t, y, args):
    return of_global(t, y, args)


def of_nested(t, y, args):
    def slope(y):
        return -RATE * y

    return slope(y)


def of_vmapped(t, y, args):
    return jax.vmap(lambda x: -RATE * x)(y)


def of_branch(t, y, args):
    return jax.lax.cond(y[0] > -1, lambda y: -RATE * y, lambda y: y, y)


def of_loop(t, y, args):
    return jax.lax.fori_loop(0, 2, lambda i, s: s - RATE * y / 2, 0 * y)


def of_derivative(t, y, args):
    return -jax.grad(lambda y: RATE * jnp.sum(y**2) / 2)(y)


@jax.custom_jvp
def negated(x):
    return -x


negated.defjvp(lambda x, v: (-x[0], -v[0]))


def of_rule(t, y, args):
    return negated(RATE * y)


def end(f, **options):
    return float(jo.solve(f, Y0, SPAN, **TIGHT, **options).y1[0])


def check(solve, change):
    """The end is that of rate 1, and after the change that of rate 2."""
    assert solve() == pytest.approx(np.exp(-1.0), rel=1e-6)
    change()
    assert solve() == pytest.approx(np.exp(-2.0), rel=1e-6)


@pytest.mark.parametrize(
    "f",
    [
        of_global, of_helper, functools.partial(of_global), of_nested, of_vmapped, of_branch,
        of_loop, of_derivative, of_rule,
    ],
)  # fmt: skip
def test_a_global_that_changed(f, monkeypatch):
    check(lambda: end(f), lambda: monkeypatch.setitem(globals(), "RATE", 2.0))


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


class OnClass:
    rate = 1.0


class Static(eqx.Module):
    rates: dict = eqx.field(static=True)

    def __call__(self, t, y, args):
        return -self.rates["k"] * y


def test_what_is_held_by_a_container():
    config, rates, array = {"k": 1.0}, [1.0], np.array([1.0])
    check(lambda: end(lambda t, y, a: -config["k"] * y), lambda: config.update(k=2.0))
    check(lambda: end(lambda t, y, a: -rates[0] * y), lambda: rates.__setitem__(0, 2.0))
    check(lambda: end(lambda t, y, a: -array * y), lambda: array.fill(2.0))


def test_what_is_held_by_a_module_a_class_or_a_static_field():
    module, static = types.ModuleType("settings"), Static({"k": 1.0})
    module.__dict__["rate"] = 1.0
    check(lambda: end(lambda t, y, a: -module.rate * y), lambda: setattr(module, "rate", 2.0))
    check(lambda: end(lambda t, y, a: -OnClass.rate * y), lambda: setattr(OnClass, "rate", 2.0))
    OnClass.rate = 1.0
    check(lambda: end(static), lambda: static.rates.update(k=2.0))


def test_a_closed_over_value_that_changed():
    rate = jnp.array(1.0)

    def f(t, y, args):
        return -rate * y

    assert end(f) == pytest.approx(np.exp(-1.0), rel=1e-6)
    rate = jnp.array(2.0)
    assert compilations_of(lambda: end(f)) == 0
    assert end(f) == pytest.approx(np.exp(-2.0), rel=1e-6)


@pytest.mark.parametrize("make", [lambda m: m.field, lambda m: m])
def test_an_attribute_that_changed(make):
    model = Unhashable(1.0) if make(Model(1.0)).__class__ is Model else Model(1.0)
    check(lambda: end(make(model)), lambda: setattr(model, "rate", 2.0))


def test_a_callable_in_args():
    held = {"k": 1.0}

    def solve():
        args = (lambda y: held["k"] * y, "text", None)
        return float(jo.solve(lambda t, y, a: -a[0](y), Y0, SPAN, args, **TIGHT).y1[0])

    check(solve, lambda: held.update(k=2.0))


def test_an_attribute_that_is_differentiated_twice():
    model = Model(1.0)

    def loss(rate):
        model.rate = rate
        return jo.solve(model.field, Y0, SPAN, **TIGHT).y1[0]

    for rate in (1.0, 2.0):
        assert jax.grad(loss)(rate) == pytest.approx(-np.exp(-rate), rel=1e-5)
    assert compilations_of(lambda: jax.grad(loss)(3.0)) == 0
    rates = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(rates), -jnp.exp(-rates), rtol=1e-5)


class TestOtherFunctions:
    """What `save`, `jac`, events, jumps and norms read is read anew too."""

    def setup_method(self):
        self.held = {"k": 1.0}

    def changed(self, solve):
        before = np.asarray(solve())
        self.held["k"] = 2.0
        return before, np.asarray(solve())

    def test_save(self):
        save = lambda t, y, a: self.held["k"] * y  # noqa: E731
        before, after = self.changed(lambda: jo.solve(of_global, Y0, SPAN, save=save).ys)
        np.testing.assert_allclose(after, 2 * before)

    def test_a_condition_and_what_it_applies(self):
        event = jo.Event(
            lambda t, y, a: t - self.held["k"] / 4, apply=lambda t, y, a: self.held["k"] * y
        )

        def time_of_event():
            log = jo.solve(of_global, Y0, SPAN, events=event, **TIGHT).events
            assert log is not None
            return log.ts[0]

        before, after = self.changed(time_of_event)
        np.testing.assert_allclose([before, after], [0.25, 0.5], rtol=1e-6)
        sol = jo.solve(of_global, Y0, SPAN, events=event, **TIGHT)
        assert sol.y1[0] == pytest.approx(2 * np.exp(-1.0), rel=1e-6)

    def test_a_jump(self):
        jumps = jo.Jumps([0.5], lambda t, y, a: self.held["k"] * y)
        before, after = self.changed(lambda: jo.solve(of_global, Y0, SPAN, jumps=jumps, **TIGHT).y1)
        np.testing.assert_allclose(after, 2 * before, rtol=1e-6)

    def test_a_jacobian(self):
        solver = jo.Kvaerno3(jac=lambda t, y, a: -self.held["k"] * jnp.eye(2))
        before, after = self.changed(
            lambda: jo.solve(of_global, Y0, SPAN, solver=solver).stats.num_steps
        )
        self.held["k"] = -50.0
        wrong = jo.solve(of_global, Y0, SPAN, solver=solver, throw=False).stats.num_steps
        assert len({int(before), int(after), int(wrong)}) > 1

    def test_a_norm(self):
        controller = jo.PID(norm=lambda x: self.held["k"] * jnp.max(jnp.abs(x)))

        def steps():
            return jo.solve(of_global, Y0, (0.0, 30.0), controller=controller).stats.num_steps

        before = steps()
        self.held["k"] = 100.0
        assert steps() > before


def test_the_other_drivers():
    held = {"k": 1.0}
    batch = jnp.ones((3, 2))

    def f(t, y, args):
        return held["k"] - y

    def results():
        ends = jo.solve_batch(f, batch, SPAN, **TIGHT).y1
        rest = jo.steady_state(f, Y0).y
        return ends, rest, jo.odeint(lambda y, t: f(t, y, None), Y0, jnp.array(SPAN))[-1]

    results()
    held["k"] = 2.0
    ends, rest, last = results()
    np.testing.assert_allclose(ends, 2 - np.exp(-1.0) * np.ones((3, 2)), rtol=1e-6)
    np.testing.assert_allclose(rest, [2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(last, 2 + np.exp(-1.0) * (Y0 - 2), rtol=1e-6)


@pytest.mark.parametrize("kind", [float, np.array, jnp.array])
def test_a_model_reads_its_functions_anew(kind):
    held = {"k": kind(1.0)}
    decoder = lambda z: held["k"] * z  # noqa: E731
    model = jo.nn.LatentODE(2, 2, hidden=3, decoder=decoder, key=jax.random.key(0))
    z0, times = jnp.ones((1, 2)), jnp.array([0.0, 1.0])
    before = model.decode(z0, times)
    others = jnp.array([[2.0, 3.0]])
    assert compilations_of(lambda: model.decode(others, times)) == 0
    held["k"] = kind(2.0)
    np.testing.assert_allclose(model.decode(z0, times), 2 * before, rtol=1e-6)
