"""jit, vmap and scan over solves, and how much memory they take."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close

Y0 = jnp.array([0.7, -0.3])
TS = jnp.array([0.0, 0.4, 1.0])
MODES = ["discrete", pytest.param("adjoint", marks=pytest.mark.slow)]


def pendulum(t, y, args):
    return jnp.stack([y[1], -args * jnp.sin(y[0]) + jnp.cos(t)])


@pytest.mark.parametrize(
    ("solver", "save"),
    [
        ("tsit5", "dense"),
        ("rk4", "ts"),
        pytest.param("tsit5", "ts", marks=pytest.mark.slow),
        pytest.param("rk4", "dense", marks=pytest.mark.slow),
    ],
)
def test_vmap_equals_a_loop(solver, save):
    """Over states, parameters and times at once, each lane with steps of its own."""
    starts = Y0 + jnp.arange(8.0).reshape(4, 2)
    rates = jnp.array([0.1, 1.0, 10.0, 100.0])
    times = TS * jnp.array([1.0, 3.0, -1.0, 0.2])[:, None]
    step: dict[str, Any] = {"dt": 0.013} if solver == "rk4" else {}

    def one(y, k, ts):
        sol = jo.solve(pendulum, y, ts, k, solver=solver, save=save, throw=False, **step)
        inside = sol(0.5 * (ts[0] + ts[-1])) if save == "dense" else ()
        stats = dataclasses.replace(sol.stats, num_stability_bound=None)
        return sol.ys, sol.y1, stats, sol.status, inside

    lanes = jax.jit(jax.vmap(one))(starts, rates, times)
    run = jax.jit(one)
    alone = [run(*lane) for lane in zip(starts, rates, times, strict=True)]
    loop = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), lanes, loop)
    assert len(set(np.asarray(lanes[2].num_steps))) > 1


def test_vmap_over_one_input_alone():
    sol = jax.vmap(lambda k: jo.solve(pendulum, Y0, TS, k))(jnp.array([1.0, 2.0]))
    assert sol.ys.shape == (2, 3, 2)
    np.testing.assert_allclose(sol.ys[1], jo.solve(pendulum, Y0, TS, 2.0).ys, rtol=1e-12)


def test_jit_inside_jit():
    inner = jax.jit(lambda y, k: jo.solve(pendulum, y, TS, k).y1)
    outer = jax.jit(lambda y: inner(inner(y, 1.0), 2.0))
    plain = jo.solve(pendulum, jo.solve(pendulum, Y0, TS, 1.0).y1, TS, 2.0).y1
    np.testing.assert_allclose(outer(Y0), plain, rtol=1e-12)


def test_a_solve_inside_the_field_of_a_solve():
    """Each slope asks another solve for its rate."""

    def field(t, y, args):
        rate = jo.solve(lambda s, r, k: k * r, 1.0, (0.0, 1.0), args, rtol=1e-10, atol=1e-10).y1
        return -rate * y

    def end(k):
        return jo.solve(field, 1.0, (0.0, 1.0), k, rtol=1e-10, atol=1e-10).y1

    value, gradient = jax.jit(jax.value_and_grad(end))(0.3)
    exact = np.exp(-np.exp(0.3))
    np.testing.assert_allclose(value, exact, rtol=1e-8)
    np.testing.assert_allclose(gradient, -np.exp(0.3) * exact, rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_scan_over_solves(mode):
    def end(k):
        def stretch(y, ts):
            return jo.solve(pendulum, y, ts, k, sensitivity=mode, rtol=1e-9, atol=1e-9).y1, None

        return jnp.sum(jax.lax.scan(stretch, Y0, jnp.array([[0.0, 0.5], [0.5, 1.0]]))[0])

    def whole(k):
        return jnp.sum(jo.solve(pendulum, Y0, (0.0, 1.0), k, rtol=1e-9, atol=1e-9).y1)

    assert_close(jax.jit(jax.grad(end))(2.0), jax.jit(jax.grad(whole))(2.0), 1e-6)


def memory(loss, *inputs):
    compiled = jax.jit(jax.grad(loss)).lower(*inputs).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize(
    "method", ["quadrature", pytest.param("backsolve", marks=pytest.mark.slow)]
)
def test_memory_of_the_adjoint_does_not_grow_with_the_steps(method):
    way = jo.Continuous(method)

    def loss(steps, y):
        options = {"solver": "rk4", "dt": 1 / steps, "sensitivity": way, "max_steps": steps}
        return jnp.sum(jo.solve(lambda t, y, args: -jnp.sin(y), y, (0.0, 1.0), **options).y1)

    few, many = (memory(functools.partial(loss, steps), jnp.ones(1000)) for steps in (100, 10_000))
    assert few > 8_000
    assert abs(many - few) < 0.05 * few


def test_memory_of_the_discrete_gradient_of_a_large_state_stays_below_a_gigabyte():
    def loss(y):
        return jnp.sum(jo.solve(lambda t, y, args: -jnp.sin(y), y, (0.0, 1.0), max_steps=4096).y1)

    assert memory(loss, jax.ShapeDtypeStruct((1_000_000,), jnp.float32)) < 1e9
