"""Solves that go on where another one ended, and the derivative of dense output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.differences import central

Y0 = jnp.array([1.0, 0.5])


def field(t, y, k):
    return jnp.stack([y[1] + jnp.sin(t), -k * y[0]])


@pytest.mark.parametrize("solver", ["tsit5", "bdf"])
def test_in_two_parts(solver):
    options = {"solver": solver, "rtol": 1e-7, "atol": 1e-9}
    whole = jo.solve(field, Y0, (0.0, 3.0), 1.3, **options)
    half = jo.solve(field, Y0, (0.0, 1.5), 1.3, **options)
    rest = jo.solve(field, ts=[2.0, 3.0], args=1.3, start=half, **options)
    np.testing.assert_array_equal(rest.ts, [2.0, 3.0])
    np.testing.assert_allclose(rest.y1, whole.y1, rtol=1e-5)
    both = jo.solve(field, ts=(1.5, 3.0), args=1.3, start=half, **options)
    np.testing.assert_array_equal(both.ys[0], half.y1)


def test_the_step_size_goes_on():
    half = jo.solve(field, Y0, (0.0, 1.0), 1.3, rtol=1e-7)
    rest = jo.solve(field, t1=2.0, args=1.3, start=half, rtol=1e-7, save="steps", max_steps=64)
    np.testing.assert_allclose(rest.ts[1] - rest.ts[0], half.stats.next_dt, rtol=1e-12)
    fixed = jo.solve(field, Y0, (0.0, 1.0), 1.3, solver="rk4", dt=0.3)
    assert fixed.stats.next_dt == 0.3
    again = jo.solve(field, t1=2.0, args=1.3, start=fixed, solver="rk4")
    assert int(again.stats.num_steps) == 4


def test_backwards_after_an_event_and_from_elsewhere():
    there = jo.solve(field, Y0, (0.0, 1.0), 1.3, rtol=1e-8)
    back = jo.solve(field, t1=0.0, args=1.3, start=there, rtol=1e-8)
    np.testing.assert_allclose(back.y1, Y0, rtol=1e-6)
    stop = jo.Event(lambda t, y: t - 0.4, terminal=True)
    first = jo.solve(field, Y0, (0.0, 1.0), 1.3, events=stop, rtol=1e-8)
    second = jo.solve(field, t1=1.0, args=1.3, start=first, events=stop, rtol=1e-8)
    np.testing.assert_allclose(second.y1, there.y1, rtol=1e-6)
    moved = jo.solve(field, Y0, t1=2.0, args=1.3, start=there, rtol=1e-8)
    np.testing.assert_allclose(moved.y1, jo.solve(field, Y0, (1.0, 2.0), 1.3, rtol=1e-8).y1)


@pytest.mark.slow
def test_transforms():
    def end(k):
        half = jo.solve(field, Y0, (0.0, 1.0), k, rtol=1e-8)
        return jo.solve(field, t1=2.0, args=k, start=half, rtol=1e-8).y1[0]

    expected = central(end, jnp.array(1.3))
    for gradient in (jax.grad(end), jax.jit(jax.grad(end))):
        np.testing.assert_allclose(gradient(1.3), expected, rtol=1e-6)
    mapped = jax.vmap(jax.grad(end))(jnp.array([1.3, 1.7]))
    np.testing.assert_allclose(mapped[0], expected, rtol=1e-6)


def test_batches():
    y0, k = jnp.stack([Y0, 2 * Y0]), jnp.array([1.3, 1.7])
    whole = jo.solve_batch(field, y0, (0.0, 2.0), k, in_axes=(0, None, 0), rtol=1e-7)
    half = jo.solve_batch(field, y0, (0.0, 1.0), k, in_axes=(0, None, 0), rtol=1e-7)
    rest = jo.solve_batch(field, t1=2.0, args=k, start=half, in_axes=(0, None, 0), rtol=1e-7)
    np.testing.assert_allclose(rest.y1, whole.y1, rtol=1e-5)
    assert rest.ts.shape == (2,)
    alone = jo.solve(field, Y0, (0.0, 1.0), 1.3, rtol=1e-7)
    np.testing.assert_allclose(half.stats.next_dt[0], alone.stats.next_dt, rtol=1e-4)


def test_going_on_is_compiled_once():
    def go_on(sol):
        return jo.solve(field, ts=[sol.stats.t_reached + 1.0], args=1.3, start=sol)

    second = go_on(jo.solve(field, Y0, (0.0, 1.0), 1.3))
    assert compilations_of(go_on, second) == 0


def test_what_cannot_go_on():
    with pytest.raises(jo.OptionError, match=r"start must be a solution to go on from, got 3"):
        jo.solve(field, t1=1.0, start=3)  # pyright: ignore[reportArgumentType]
    failed = jo.solve(lambda t, y: y**2, 1.0, (0.0, 2.0), throw=False)
    with pytest.raises(jo.OptionError, match=r"start is a solution that failed"):
        jo.solve(field, t1=3.0, start=failed)
    with pytest.raises(jo.StateError, match=r"y0 is None"):
        jo.solve(field, t0=0.0, t1=3.0)


@pytest.mark.parametrize("solver", ["tsit5", "rodas5p"])
def test_the_derivative_of_dense_output(solver):
    options = {"solver": solver, "rtol": 1e-8, "atol": 1e-10, "save": "dense", "max_steps": 512}
    sol = jo.solve(field, Y0, (0.0, 2.0), 1.3, **options)
    ts = jnp.linspace(0.1, 1.9, 7)
    slopes = jax.vmap(lambda t, y: field(t, y, 1.3))(ts, sol(ts))
    np.testing.assert_allclose(sol.derivative(ts), slopes, rtol=1e-4, atol=1e-5)
    assert sol.derivative(0.5).shape == (2,)
    assert np.isnan(sol.derivative(2.5)).all()


@pytest.mark.slow
def test_the_derivative_of_a_pytree_backwards_and_of_a_batch():
    def f(t, y):
        return {"a": -y["a"], "b": y["a"]}

    y0 = {"a": jnp.array(1.0), "b": jnp.zeros(())}
    sol = jo.solve(f, y0, (0.0, -1.0), rtol=1e-8, save="dense", max_steps=64)
    np.testing.assert_allclose(sol.derivative(-0.4)["b"], np.exp(0.4), rtol=1e-5)
    sols = jo.solve_batch(
        lambda t, y: -y, jnp.array([1.0, 2.0]), (0.0, 1.0), rtol=1e-8, save="dense", max_steps=64
    )
    np.testing.assert_allclose(sols.derivative(0.5), [-np.exp(-0.5), -2 * np.exp(-0.5)], rtol=1e-5)
    with pytest.raises(jo.OptionError, match=r"needs dense output"):
        jo.solve(f, y0, (0.0, 1.0)).derivative(0.5)
