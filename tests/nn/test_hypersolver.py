"""Hypersolvers: begin as their base, know its error when told, and learn it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from jaxode.nn.hypersolver import HyperSolver, hypersolver_loss, hypersolver_trajectory_loss

MATRIX = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])
STARTS = jax.random.normal(jax.random.key(0), (16, 2))


def linear(t, y, args):
    return MATRIX @ y


@pytest.mark.parametrize("base", ["euler", pytest.param("midpoint", marks=pytest.mark.slow), "rk4"])
def test_untrained_it_is_its_base(base):
    solver = HyperSolver(2, base, key=jax.random.key(1))
    options = {"dt": 0.1, "ts": jnp.linspace(0.0, 1.0, 4)}
    sol = jo.solve(linear, STARTS[0], solver=solver, **options)
    plain = jo.solve(linear, STARTS[0], solver=base, **options)
    np.testing.assert_allclose(sol.ys, plain.ys, rtol=1e-12)
    batch = jo.solve_batch(linear, STARTS, solver=solver, **options)
    np.testing.assert_allclose(batch.ys[0], plain.ys, rtol=1e-12)


@pytest.mark.parametrize(("base", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_with_the_leading_error_it_gains_an_order(base, order):
    power = jnp.linalg.matrix_power(MATRIX, order + 1) / np.prod(np.arange(1, order + 2))
    solver = HyperSolver(2, base, lambda seen: power @ seen[:2])
    exact = jax.scipy.linalg.expm(MATRIX) @ STARTS[0]

    def error(steps):
        sol = jo.solve(linear, STARTS[0], (0.0, 1.0), solver=solver, dt=1.0 / steps)
        return float(jnp.max(jnp.abs(sol.y1 - exact)))

    measured = np.log2(error(20) / error(40))
    assert abs(measured - (order + 1)) < 0.1


def test_inside_a_step_it_is_closer_than_its_base():
    solver = HyperSolver(2, "euler", lambda seen: MATRIX @ MATRIX @ seen[:2] / 2)
    ts = jnp.array([0.0, 0.06, 0.1])
    exact = jax.vmap(lambda t: jax.scipy.linalg.expm(t * MATRIX) @ STARTS[0])(ts)
    errors = [
        np.abs(jo.solve(linear, STARTS[0], ts, solver=s, dt=0.1).ys - exact).max()
        for s in (solver, "euler")
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.slow
def test_it_learns_the_error_of_euler():
    ts = jnp.linspace(0.0, 1.0, 11)
    ys = jo.solve_batch(linear, STARTS, ts, rtol=1e-9, atol=1e-9).ys
    solver, optimizer = HyperSolver(2, key=jax.random.key(1)), optax.adam(3e-3)

    def loss(solver):
        return jnp.mean(jax.vmap(lambda ys: hypersolver_loss(solver, linear, ts, ys))(ys))

    @eqx.filter_jit
    def train(solver):
        state = optimizer.init(eqx.filter(solver, eqx.is_inexact_array))
        dynamic, static = eqx.partition(solver, eqx.is_inexact_array)

        def step(carry, _):
            dynamic, state = carry
            gradient = eqx.filter_grad(loss)(eqx.combine(dynamic, static))
            updates, state = optimizer.update(gradient, state)
            return (eqx.apply_updates(dynamic, updates), state), None

        (dynamic, _), _ = jax.lax.scan(step, (dynamic, state), None, 400)
        return eqx.combine(dynamic, static)

    trained = train(solver)
    assert loss(trained) < 1e-2 * loss(solver)
    ends = [
        jo.solve_batch(linear, STARTS, (0.0, 1.0), solver=s, dt=0.1).y1 for s in (solver, trained)
    ]
    errors = [np.abs(end - ys[:, -1]).max() for end in ends]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("base", ["euler", "midpoint", "rk4"])
def test_the_trajectory_loss_is_that_of_its_own_solve(base):
    network = eqx.nn.MLP(6, 2, 8, 1, jnp.tanh, key=jax.random.key(3))
    solver, ts = HyperSolver(2, base, network), jnp.array([0.0, 0.3, 0.4, 1.0])
    exact = jax.vmap(lambda t: jax.scipy.linalg.expm(t * MATRIX) @ STARTS[0])(ts)
    own = jo.solve(linear, STARTS[0], ts, solver=solver, controller=jo.Grid(ts)).ys
    loss = hypersolver_trajectory_loss(solver, linear, ts, exact)
    np.testing.assert_allclose(loss, np.mean((own[1:] - exact[1:]) ** 2), rtol=1e-10)


@pytest.mark.slow
def test_steps_fitted_to_trajectories_end_closer_than_those_fitted_to_residuals():
    ts = jnp.linspace(0.0, 1.0, 4)
    ys = jo.solve_batch(linear, STARTS, ts, rtol=1e-9, atol=1e-9).ys
    network = eqx.nn.Linear(6, 2, key=jax.random.key(4))
    solver = HyperSolver(2, network=network)

    def fitted(solver, of):
        def loss(solver, ys):
            return jnp.mean(jax.vmap(lambda ys: of(solver, linear, ts, ys))(ys))

        optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 300))
        return jo.fit(solver, ys, loss=loss, steps=300, optimizer=optimizer, progress=False)[0]

    first = fitted(solver, hypersolver_loss)
    second = fitted(first, hypersolver_trajectory_loss)
    errors = [
        jnp.abs(jo.solve_batch(linear, STARTS, ts, solver=s, controller=jo.Grid(ts)).ys - ys).max()
        for s in (first, second)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_bad_hypersolvers_are_refused():
    with pytest.raises(jo.OptionError, match="no base called 'tsit5'; known: euler"):
        HyperSolver(2, "tsit5", key=jax.random.key(0))
    with pytest.raises(jo.OptionError, match="a network, or a key"):
        HyperSolver(2)
    with pytest.raises(jo.DataError, match="and ys"):
        hypersolver_loss(HyperSolver(2, network=jnp.sin), linear, jnp.ones(3), jnp.ones((2, 2)))
