"""Gradients of gradients: reverse mode over reverse mode, to any order, beside closed forms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.sensitivity.replay.dynamic_scan import dynamic_scan
from tests.support.differences import assert_close, weighted

RATES = jnp.array([1.5, 1.0, 3.0, 1.0])
Y0 = jnp.array([1.0, 1.2])
TS = jnp.array([0.0, 0.3, 0.8, 1.3])


def predators(t, y, rates):
    a, b, c, d = rates
    return jnp.stack([a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1] + 0.1 * jnp.sin(t)])


def hessian(loss):
    """By reverse mode alone."""
    return jax.jit(jax.jacrev(jax.grad(loss)))


# The scan itself, beside `lax.scan`.


def both_scans(p, count):
    xs = jnp.linspace(0.0, 1.0, 6)

    def step(carry, x):
        y, n = carry
        return (jnp.sin(p * y) + x * y**2, n + 1), y * p

    def masked(carry, x):
        (following, y), runs = step(carry, x[0]), x[1] < count
        carry = jax.tree.map(lambda a, b: jnp.where(runs, a, b), following, carry)
        return carry, jnp.where(runs, y, 0)

    start = jnp.array([0.3, -0.7]), jnp.int32(0)
    (y, n), ys = dynamic_scan(step, start, xs, count)
    (y_of_scan, n_of_scan), ys_of_scan = jax.lax.scan(masked, start, (xs, jnp.arange(6)))
    return (weighted((y, ys)), n), (weighted((y_of_scan, ys_of_scan)), n_of_scan)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_scan_has_the_derivatives_of_a_scan(order):
    def derivative(place: int) -> Any:
        function: Any = lambda p: both_scans(p, 4)[place][0]  # noqa: E731
        for _ in range(order):
            function = jax.grad(function)
        return jax.jit(function)(0.8)

    assert_close(derivative(0), derivative(1), 1e-12)


def test_the_scan_counts_and_stops():
    (_, n), (_, expected) = both_scans(0.8, jnp.int32(4))
    assert n == expected == 4


@pytest.mark.parametrize("direction", [jax.grad, jax.jacfwd, jax.hessian], ids=lambda d: d.__name__)
def test_the_scan_under_vmap_with_counts_of_its_own(direction):
    p, counts = jnp.array([0.8, 1.1, -0.4]), jnp.array([4, 6, 0])
    found, expected = (
        jax.jit(jax.vmap(direction(lambda p, n, place=place: both_scans(p, n)[place][0])))(
            p, counts
        )
        for place in (0, 1)
    )
    assert_close(found, expected, 1e-12)


# Solves.


def value(p, **options):
    sol = jo.solve(predators, p[:2], TS, p[2:], **options)
    return weighted((sol.ys, 2.0 * sol.y1))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["tsit5", "kvaerno5"])
def test_hessians_are_those_of_forward_over_reverse(solver):
    def loss(p):
        return value(p, solver=solver, rtol=1e-6, atol=1e-8, max_steps=64)

    p = jnp.concatenate([Y0, RATES])
    assert_close(hessian(loss)(p), jax.jit(jax.hessian(loss))(p), 1e-9)


def decayed(p, **options):
    return jo.solve(lambda t, y, k: -k * y**2, p[0], (0.0, p[2]), p[1], **options).y1


@pytest.mark.slow
def test_third_derivatives_by_state_rate_and_time():
    def exact(p):
        return p[0] / (1 + p[1] * p[2] * p[0])

    def third(function):
        return jax.jit(jax.jacrev(jax.jacrev(jax.grad(function))))(jnp.array([0.7, 1.3, 2.0]))

    found = third(lambda p: decayed(p, solver="rk4", dt=0.05, max_steps=64))
    assert_close(found, third(exact), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["adjoint", "reversible"])
def test_the_other_reverse_modes_have_it_to_the_tolerance(mode):
    p = jnp.array([0.7, 1.3, 2.0])
    found, expected = (
        hessian(lambda p, m=m: decayed(p, sensitivity=m, rtol=1e-9, atol=1e-11, max_steps=128))(p)
        for m in (mode, "discrete")
    )
    assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("outer", [
    lambda f: lambda ps: jnp.sum(jax.vmap(f)(ps)),
    lambda f: lambda ps: jnp.sum(jax.lax.map(f, ps)),
], ids=["vmap", "loop"])  # fmt: skip
def test_training_through_an_inner_gradient_step(outer):
    """As in meta-learning: the loss after a step of gradient descent, for each task."""
    targets = jnp.array([0.2, 0.5, 0.9])

    def after_a_step(rate):
        def task(target):
            def loss(k):
                y1 = jo.solve(lambda t, y, k: -k * y, 1.0, (0.0, 1.0), k, max_steps=64, rtol=1e-8)
                return (y1.y1 - target) ** 2

            return loss(rate - 0.1 * jax.grad(loss)(rate))

        return outer(task)(targets)

    def exact(rate):
        def loss(k):
            return (jnp.exp(-k) - targets) ** 2

        def slope(k):
            return -2 * (jnp.exp(-k) - targets) * jnp.exp(-k)

        return jnp.sum(loss(rate - 0.1 * slope(rate)))

    np.testing.assert_allclose(
        jax.jit(jax.grad(after_a_step))(0.7), jax.grad(exact)(0.7), rtol=1e-5
    )


def test_a_penalty_on_the_gradient_of_a_network():
    net = eqx.nn.MLP(2, 2, 8, 1, activation=jax.nn.tanh, key=jax.random.key(1))
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)

    def penalty(arrays):
        def end(y0):
            field = eqx.combine(arrays, rest)
            sol = jo.solve(lambda t, y, _: field(y), y0, (0.0, 1.0), dt=0.2, solver="rk4",
                           max_steps=8)  # fmt: skip
            return jnp.sum(jnp.sin(sol.y1))

        return jnp.sum(jax.grad(end)(Y0) ** 2)

    step = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), arrays)
    gradient = jax.jit(jax.grad(penalty))(arrays)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, s: jnp.sum(g * s), gradient, step)))

    def moved(h):
        return penalty(jax.tree.map(lambda x, s: x + h * s, arrays, step))

    pushed = jax.jit(lambda h: jax.jvp(moved, (h,), (1.0,))[1])(0.0)
    np.testing.assert_allclose(along, pushed, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["discrete", "adjoint"])
def test_batches(mode):
    """Shared rates and starts of their own, as the sum of the single solves."""
    starts = Y0 * jnp.array([0.6, 0.8, 1.3])[:, None]
    options = {"solver": "bosh3", "sensitivity": mode, "rtol": 1e-8, "atol": 1e-8}

    def batch(p):
        sols = jo.solve_batch(predators, starts * p[0], TS, p[1:], lanes=2, **options)
        return weighted(sols.ys)

    def loop(p):
        def one(y):
            return jo.solve(predators, y * p[0], TS, p[1:], throw=False, **options).ys

        return weighted(jnp.stack([one(y) for y in starts]))

    p = jnp.concatenate([jnp.ones(1), RATES])
    loop_hessian = jax.jit(jax.hessian(loop))(p)
    assert_close(hessian(batch)(p), loop_hessian, 1e-9 if mode == "discrete" else 1e-5)


@pytest.mark.slow
def test_values_that_were_not_reached_make_it_nan():
    def loss(p):
        return value(p, max_steps=2, throw=False)

    assert np.all(np.isnan(hessian(loss)(jnp.concatenate([Y0, RATES]))))


@pytest.mark.slow
def test_events_are_refused_by_name():
    def end(height):
        fall = jo.Event(lambda t, y, _: y[0], terminal=True)
        sol = jo.solve(lambda t, y, _: jnp.stack([y[1], -9.8 + 0 * t]), jnp.stack([height, 0.0]),
                       (0.0, 3.0), events=fall, max_steps=64)  # fmt: skip
        return sol.y1[1]

    with pytest.raises(jo.DifferentiationError, match=r"events.*jax\.hessian"):
        jax.eval_shape(jax.grad(jax.grad(end)), 1.0)
