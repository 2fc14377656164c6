"""Forward mode: tangents of every solver and kind of solve, and the directions that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close
from tests.support.pendulum import loss_of, point
from tests.support.registry import ADAPTIVE, NAMES

SAVES = ("ts", "steps", "dense", "function", "ends")
CASES = [(name, SAVES[i % len(SAVES)]) for i, name in enumerate(NAMES)]
# The solvers that the fast tests of the discrete gradient leave to this file.
FAST = {
    "adams_bashforth4", "asynchronous_leapfrog", "auto", "dopri5", "dopri8",
    "dprkn6", "fehlberg2", "gauss_legendre4", "gauss_legendre6", "heun", "heun_euler",
    "kencarp4", "kvaerno3", "kvaerno5", "mclachlan4",
    "radau_iia5", "ralston", "reversible_heun", "rk4_38", "rodas4", "rodas5p",
    "rosenbrock23", "yoshida4", "yoshida6",
}  # fmt: skip


def tangent_and_difference(loss, p):
    """The derivative of `loss` along a direction in which all of `p` moves, and its difference."""
    push = jax.tree.map(lambda x: jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape), p)

    def value_and_tangent(s):
        moved = jax.tree.map(lambda x, v: x + s * v, p, push)
        return jax.jvp(loss, (moved,), (push,))

    h = 1e-3
    values, tangents = jax.jit(lambda s: jax.lax.map(value_and_tangent, s))(
        h * jnp.arange(-2.0, 3.0)
    )
    return tangents[2], values @ jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * h)


@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(*case, marks=() if case[0] in FAST else pytest.mark.slow) for case in CASES],
)
def test_fixed_steps_have_exact_tangents(name, mode):
    """In `y0`, `args` and `ts` at once, with every solver; the number of steps stays."""
    p = point()
    if mode == "ends":
        p["ts"] = p["ts"][jnp.array([0, -1])]
    step = {"controller": jo.Fixed(0.17)} if name in ADAPTIVE else {"dt": 0.17}
    loss = loss_of(mode, solver=name, max_steps=12, sensitivity="forward", **step)
    assert_close(*tangent_and_difference(loss, p), 1e-9)


def value(p, mode, batch=False, **options):
    def field(t, y, rate):
        return jnp.stack([y[1], -rate * jnp.sin(y[0])])

    y0 = p * jnp.array([0.7, -0.3])
    options = {"sensitivity": mode, "throw": False, **options}
    if not batch:
        return jnp.sum(jo.solve(field, y0, (0.0, 1.0), p, **options).y1 ** 2)
    y0 = y0 * jnp.arange(1.0, 4.0)[:, None]
    return jnp.sum(jo.solve_batch(field, y0, (0.0, 1.0), p, lanes=2, **options).y1 ** 2)


@pytest.mark.parametrize("batch", [pytest.param(False, marks=pytest.mark.slow), True])
def test_adaptive_tangents_are_those_of_the_discrete_gradient(batch):
    """Step sizes are held fixed in both."""
    tangent = jax.jit(jax.jacfwd(lambda p: value(p, "forward", batch, solver="bosh3")))(1.3)
    gradient = jax.jit(jax.grad(lambda p: value(p, "discrete", batch, solver="bosh3")))(1.3)
    np.testing.assert_allclose(tangent, gradient, rtol=1e-11)


@pytest.mark.parametrize(
    ("batch", "jit"), [(False, lambda f: f), (False, jax.jit), (True, jax.jit)]
)
def test_the_wrong_direction_is_refused_by_name(batch, jit):
    modes = ("forward", "discrete", "adjoint")
    options = {"batch": batch, "solver": "euler", "dt": 0.5}
    of = {mode: functools.partial(value, mode=mode, **options) for mode in modes}

    def refused(direction, mode, match):
        with pytest.raises(jo.DifferentiationError, match=match):
            jit(direction(of[mode]))(1.3)

    for direction in (jax.grad, jax.hessian, lambda f: lambda p: jax.vjp(f, p)[1](1.0)):
        refused(direction, "forward", 'use sensitivity="discrete"')
    for mode, name in (("discrete", "Discrete"), ("adjoint", "Continuous")):
        for direction in (jax.jacfwd, lambda f: lambda p: jax.jvp(f, (p,), (1.0,))):
            refused(direction, mode, rf'{name}.*use sensitivity="forward"')


def test_what_is_not_differentiated_passes_the_marks():
    """A derivative by one thing in the tangent of another, as products of Hessians need."""

    def mixed(scale, rate):
        y0 = scale * jnp.array([0.7, -0.3])
        sol = jo.solve(lambda t, y, k: -k * y**2, y0, (0.0, 1.0), rate, rtol=1e-10, atol=1e-12)
        return jnp.sum(sol.y1)

    found = jax.jit(jax.jacfwd(jax.grad(mixed, argnums=1), argnums=0))(1.0, 0.5)
    y0 = jnp.array([0.7, -0.3])  # y = s y0 / (1 + k s y0)
    np.testing.assert_allclose(found, jnp.sum(-2 * y0**2 / (1 + 0.5 * y0) ** 3), rtol=1e-6)


def test_tangents_of_what_was_not_reached_are_nan():
    def ys(k):
        ts = jnp.array([0.0, 0.5, 2.0])
        return jo.solve(
            lambda t, y, k: k * y**2, jnp.ones(2), ts, k, sensitivity="forward", throw=False
        ).ys

    found = jax.jit(jax.jacfwd(ys))(1.0)
    np.testing.assert_allclose(found[:2], [[0.0, 0.0], [2.0, 2.0]], rtol=1e-2)
    assert np.all(np.isnan(found[2]))
