"""Corners where a solve is easily wrong: no step, a rejected step, repeats, unusual settings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo

Y0 = jnp.array([1.0, 2.0])


def decay(t, y, args):
    return -y


def test_a_repeat_of_the_first_time_survives_a_rejected_first_step():
    def f(t, y, args):
        return jnp.where(y < 0, jnp.nan, -50 * y)

    sol = jo.solve(f, jnp.array([1.0]), (0.0, 0.0, 0.5, 1.0), dt=1.0)
    np.testing.assert_allclose(sol.ys[:2, 0], 1.0)
    assert np.all(np.isfinite(sol.ys))


@pytest.mark.parametrize("save", ["ts", "steps", "dense"])
def test_a_solve_over_no_time_passes_the_gradient_on(save):
    def loss(y):
        sol = jo.solve(decay, y, (1.0, 1.0), save=save, max_steps=5)
        rows = sol.ys[:1] if save == "steps" else sol.ys
        return jnp.sum(rows**2)

    rows = 1 if save == "steps" else 2
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(Y0), rows * 2 * Y0)


def test_dense_output_knows_nothing_of_a_rejected_step():
    def stiff(t, y, args):
        return -50 * y

    sol = jo.solve(
        stiff, Y0, (0.0, 5.0, 10.0), dt=6.0, max_steps=1, save="dense", throw=False, rtol=1e-8
    )
    assert sol.status == jo.Status.MAX_STEPS
    np.testing.assert_allclose(sol(0.0), Y0)
    assert np.all(np.isnan(sol(2.0)))


def test_the_repeats_of_the_last_time_move_by_themselves():
    """One-sided: the earlier repeat moves back, the last one on."""

    def loss(ts):
        sol = jo.solve(lambda t, y, a: y, jnp.array(1.0), ts, rtol=1e-9, atol=1e-9)
        return jnp.array([1.0, 10.0, 100.0]) @ sol.ys

    gradient = jax.jit(jax.grad(loss))(jnp.array([0.0, 1.0, 1.0]))
    e = np.exp(1.0)
    np.testing.assert_allclose(gradient, [-110 * e, 10 * e, 100 * e], rtol=1e-6)


@pytest.mark.parametrize("save", ["ts", "steps", "dense"])
def test_there_and_back_under_jit(save):
    ts = jnp.array([0.0, 1.0, 0.0])
    sol = jax.jit(lambda ts: jo.solve(decay, Y0, ts, save=save, max_steps=50))(ts)
    assert sol.status == jo.Status.BAD_TIMES
    assert np.all(np.isnan(sol.y1))


def test_a_known_grid_is_checked_under_jit():
    grid = jo.Grid(np.array([0.0, 0.5, 0.2, 1.0]))
    with pytest.raises(jo.OptionError, match="strictly monotone"):
        jax.jit(lambda y: jo.solve(decay, y, (0.0, 2.0), solver="euler", controller=grid).y1)(Y0)


def test_a_norm_sees_the_shape_of_the_state_in_both_modes():
    def norm(x):
        return jnp.sqrt(jnp.mean(x[:, 0] ** 2))

    def loss(y, mode):
        control = jo.PID(norm=norm)
        sol = jo.solve(decay, y, (0.0, 1.0), controller=control, sensitivity=mode, rtol=1e-8)
        return jnp.sum(sol.y1)

    for mode in ("discrete", "adjoint"):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(jnp.ones((2, 2)), mode)
        np.testing.assert_allclose(gradient, np.exp(-1.0) * np.ones((2, 2)), rtol=1e-6)


def test_a_tolerance_per_leaf_of_a_complex_state():
    y0 = {"a": jnp.ones(2) + 0j, "b": jnp.ones(1) + 0j}
    sol = jo.solve(
        lambda t, y, a: jax.tree.map(jnp.negative, y), y0, (0.0, 1.0), atol={"a": 1e-6, "b": 1e-3}
    )
    assert sol.success


def test_a_step_that_time_cannot_resolve_is_an_underflow():
    def f(t, y, args):
        return jnp.cos(10 * t) * jnp.ones_like(y)

    y0, ts = jnp.ones(2, jnp.float32), jnp.array([1e5, 1e5 + 0.1], jnp.float32)
    status = jax.jit(lambda ts: jo.solve(f, y0, ts, throw=False, max_steps=300).status)(ts)
    assert status == jo.Status.STEP_UNDERFLOW


def test_a_component_that_stays_zero_needs_no_absolute_tolerance():
    assert jo.solve(decay, jnp.array([1.0, 0.0]), (0.0, 1.0), atol=0.0).success


def test_a_save_function_may_return_numbers():
    states, ones = jo.solve(decay, Y0, (0.0, 0.5, 1.0), save=lambda t, y, a: (y, 1.0)).ys
    assert states.shape == (3, 2)
    np.testing.assert_allclose(ones, 1.0)


@pytest.mark.slow
def test_many_dense_solutions_are_read_together():
    sols = jax.vmap(lambda y: jo.solve(decay, y, (0.0, 1.0), save="dense", max_steps=50))(
        jnp.ones((3, 2))
    )
    assert sols(0.5).shape == (3, 2)
    one_by_one = jax.vmap(lambda sol: sol(0.5))(sols)
    np.testing.assert_allclose(sols(0.5), one_by_one, rtol=1e-14)


def test_an_optimiser_leaves_the_settings_of_a_solve_alone():
    linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    grid = jnp.linspace(0.0, 1.0, 5)
    model = jo.NeuralODE(
        linear, solver="euler", controller=jo.Grid(grid), rtol=jnp.array(1e-4), atol=1e-6
    )
    x = jax.random.normal(jax.random.key(1), (8, 2))
    trained, _ = jo.fit(
        model,
        (x, 0.5 * x),
        steps=5,
        optimizer=optax.adamw(1e-1, weight_decay=0.1),
        progress=False,
    )
    np.testing.assert_array_equal(jnp.asarray(trained.settings.controller.times), grid)
    assert trained.settings.rtol == pytest.approx(1e-4)
    assert not np.allclose(trained.field.weight, linear.weight)


def test_dense_solutions_of_two_fields_have_one_structure():
    one, two = (
        jo.solve(f, Y0, (0.0, 1.0), save="dense", max_steps=20)
        for f in (decay, lambda t, y, a: -2 * y)
    )
    assert jax.tree.structure(one) == jax.tree.structure(two)
