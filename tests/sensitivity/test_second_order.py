"""Second derivatives: forward over reverse, forward over forward, products with Hessians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, weighted
from tests.support.stiff_problems import robertson

Y0 = jnp.array([1.0, 1.2])
RATES = jnp.array([1.5, 1.0, 3.0, 1.0])
TS = jnp.array([0.0, 0.3, 0.8, 1.3])


def predators(t, y, rates):
    a, b, c, d = rates
    return jnp.stack([a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1] + 0.1 * jnp.sin(t)])


def value(p, sensitivity="discrete", **options):
    """A loss of state, rates and times, laid end to end."""
    ts = p[6:] if p.size > 6 else TS
    sol = jo.solve(predators, p[:2], ts, p[2:6], sensitivity=sensitivity, **options)
    return weighted((sol.ys, 2.0 * sol.y1))


def product_and_difference(loss, p):
    """The Hessian times a direction, and the difference of gradients along it."""
    push = jax.tree.map(lambda x: x * jnp.cos(jnp.arange(x.size)).reshape(x.shape), p)

    def gradient_and_product(s):
        moved = jax.tree.map(lambda x, v: x + s * v, p, push)
        return jax.jvp(jax.grad(loss), (moved,), (push,))

    h = 1e-3
    gradients, products = jax.jit(lambda s: jax.lax.map(gradient_and_product, s))(
        h * jnp.arange(-2.0, 3.0)
    )
    weights = jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * h)
    difference = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), gradients)
    return jax.tree.map(lambda x: x[2], products), difference


def forwards_twice(loss, p):
    return jax.jit(jax.jacfwd(jax.jacfwd(lambda p: loss(p, "forward"))))(p)


@pytest.mark.parametrize("ends", [pytest.param(True, marks=pytest.mark.slow), False])
def test_products_by_state_rates_and_times(ends):
    p = jnp.concatenate([Y0, RATES, TS[jnp.array([0, 3])] if ends else TS])
    options = {"solver": "bosh3", "controller": jo.Fixed(0.17), "max_steps": 12}
    product, difference = product_and_difference(lambda p: value(p, **options), p)
    assert_close(product, difference, 1e-8)


@pytest.mark.slow
def test_hessian_of_adaptive_steps():
    """Step sizes are held fixed, so forward over forward gives it to rounding."""

    def loss(p, sensitivity="discrete"):
        return value(p, sensitivity, rtol=1e-6, atol=1e-8)

    p = jnp.concatenate([Y0, RATES])
    hessian = jax.jit(jax.hessian(loss))(p)
    assert_close(hessian, hessian.T, 1e-11)
    assert_close(forwards_twice(loss, p), hessian, 1e-10)


@pytest.mark.slow
def test_continuous_has_a_hessian_to_the_tolerance():
    def product(mode):
        p = jnp.concatenate([Y0, RATES])
        gradient = jax.grad(lambda p: value(p, mode, rtol=1e-10, atol=1e-10))
        return jax.jit(lambda p: jax.jvp(gradient, (p,), (jnp.cos(p),)))(p)

    assert_close(product("adjoint"), product("discrete"), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("thinned", [pytest.param(False, marks=pytest.mark.slow), True])
def test_products_with_the_hessian_of_a_network(thinned):
    """Its parameters, through states that are kept and through thinned ones."""
    net = eqx.nn.MLP(2, 2, 8, 1, activation=jax.nn.tanh, key=jax.random.key(1))
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    options = {"controller": jo.Fixed(0.17), "max_steps": 2**19 if thinned else 12}

    def loss(arrays):
        net = eqx.combine(arrays, rest)
        sol = jo.solve(lambda t, y, args: net(y), Y0, TS, solver="bosh3", **options)
        return weighted(sol.ys)

    product, difference = product_and_difference(loss, arrays)
    assert_close(product, difference, 1e-8)


def robertson_at(p, sensitivity="discrete", **options):
    y0, scale = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.04, 1e4, 3e7])
    options = {"solver": "rodas5p", "sensitivity": sensitivity, **options}
    sol = jo.solve(robertson, y0, (0.0, 40.0), p * scale, **options)
    return jnp.sum(sol.y1 * jnp.array([1.0, 1e4, 2.0]))


@pytest.mark.slow
def test_products_with_the_hessian_of_a_stiff_solve():
    """Robertson's reaction: steps of a given grid against differences."""
    grid = jo.Grid(jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-5, 40.0, 40)]))
    p = jnp.array([1.0, 1.1, 0.9])
    product, difference = product_and_difference(lambda p: robertson_at(p, controller=grid), p)
    assert_close(product, difference, 1e-6)


@pytest.mark.slow
def test_hessian_of_a_stiff_solve():
    def loss(p, sensitivity="discrete"):
        return robertson_at(p, sensitivity, rtol=1e-7, atol=1e-10)

    p = jnp.array([1.0, 1.1, 0.9])
    assert_close(forwards_twice(loss, p), jax.jit(jax.hessian(loss))(p), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["discrete", "forward"])
def test_hessian_of_a_batch_is_the_sum_of_its_solves(mode):
    starts = Y0 * jnp.array([0.6, 0.8, 1.0, 1.3, 1.7])[:, None]
    first = jax.jacrev if mode == "discrete" else jax.jacfwd
    options = {"solver": "bosh3", "sensitivity": mode}

    def batch(rates):
        sols = jo.solve_batch(predators, starts, TS, rates, lanes=2, **options)
        return weighted(sols.ys)

    def loop(rates):
        def one(y):
            return jo.solve(predators, y, TS, rates, throw=False, **options).ys

        return weighted(jax.lax.map(one, starts))

    found, expected = (jax.jit(jax.jacfwd(first(loss)))(RATES) for loss in (batch, loop))
    assert_close(found, expected, 1e-10)


@pytest.mark.parametrize(
    ("mode", "batch"),
    [
        ("discrete", False),
        *(pytest.param(m, False, marks=pytest.mark.slow) for m in ("reversible", "adjoint")),
        ("forward", False),
        pytest.param("discrete", True, marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_of_a_failed_solve_are_nan(mode, batch):
    """And not zero, which a constant NaN would have for a derivative."""

    def loss(rates):
        options = {"solver": "bosh3", "sensitivity": mode, "max_steps": 2, "throw": False}
        if batch:
            return jnp.sum(jo.solve_batch(predators, Y0[None], (0.0, 1.0), rates, **options).y1)
        return jnp.sum(jo.solve(predators, Y0, (0.0, 1.0), rates, **options).y1)

    gradient = (jax.jacfwd if mode == "forward" else jax.grad)(loss)
    assert np.all(np.isnan(jax.jit(lambda p: jax.jvp(gradient, (p,), (p,))[1])(RATES)))
