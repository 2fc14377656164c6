"""`jax.export` for CPU, GPU and TPU: solvers of each family, sensitivities, batches and models.

For GPU and TPU programs are only lowered.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxode as jo
from tests.support.irregular import series
from tests.support.registry import REPRESENTATIVES, linear, step_of

KEY = jax.random.key(0)
PLATFORMS = "cpu", "cuda", "tpu"
Y0 = jnp.array([0.7, -0.3], jnp.float32)
TS = jnp.array([0.0, 0.4, 1.0], jnp.float32)
RATE = jnp.array(2.0, jnp.float32)


BATCH = jnp.stack([Y0, -Y0, 2 * Y0])
RATES = jnp.array([1.0, 2.0, 4.0], jnp.float32)


def pendulum(t, y, args):
    return jnp.stack([y[1], -args * jnp.sin(y[0]) + jnp.cos(t)])


def exported(function, *inputs):
    """What the program of `function` gives, exported for every platform and run on the CPU."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    program = export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
    assert set(program.platforms) == set(PLATFORMS)
    return program.call(*inputs)


def assert_exports(function, *inputs):
    """Exported, `function` gives finite values, those that it gives under `jit`."""
    found, expected = exported(function, *inputs), jax.jit(function)(*inputs)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(expected))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    "solver",
    [
        name if name in ("tsit5", "rodas5p") else pytest.param(name, marks=pytest.mark.slow)
        for name in REPRESENTATIVES
    ],
)
def test_a_solver_of_each_family_exports(solver):
    """Its states are those of the closed form."""
    field, flow = linear(solver)

    def states(y, rate, ts):
        options: Any = {"solver": solver, "max_steps": 256, **step_of(solver, 0.01)}
        return jo.solve(field, y, ts, rate, **options).ys

    exact = jax.vmap(flow, (0, None, None))(TS, Y0, RATE)
    np.testing.assert_allclose(exported(states, Y0, RATE, TS), exact, rtol=1e-3, atol=1e-3)


GRADIENTS: dict[str, tuple[str, Any]] = {
    "discrete": ("tsit5", "discrete"),
    "few states": ("tsit5", jo.Discrete(memory=4)),
    "multistep": ("bdf", "discrete"),
    "adjoint": ("tsit5", "adjoint"),
    "reversible": ("reversible_heun", "reversible"),
}


@pytest.mark.parametrize(
    "way",
    [n if n == "discrete" else pytest.param(n, marks=pytest.mark.slow) for n in GRADIENTS],
)
def test_gradients_export(way):
    """By state, argument and times."""
    solver, sensitivity = GRADIENTS[way]

    def loss(y, k, ts):
        options: Any = {"solver": solver, "sensitivity": sensitivity, "max_steps": 256}
        return jnp.sum(jo.solve(pendulum, y, ts, k, **options).ys)

    assert_exports(jax.grad(loss, argnums=(0, 1, 2)), Y0, RATE, TS)


@pytest.mark.slow
def test_forward_mode_exports():
    def states(k):
        return jo.solve(pendulum, Y0, TS, k, sensitivity="forward", max_steps=64).ys

    assert_exports(jax.jacfwd(states), RATE)


@pytest.mark.slow
def test_events_and_jumps_export():
    def run(k):
        event = jo.Event(lambda t, y, k: y[0] - 0.6, apply=lambda t, y, k: y - 0.2)
        jumps = jo.Jumps([0.5], lambda t, y, k: y + 0.1 * k)
        options: Any = {"events": event, "jumps": jumps, "max_events": 4, "max_steps": 64}
        sol = jo.solve(pendulum, Y0, TS, k, **options)
        assert sol.events is not None
        return jnp.sum(sol.y1), sol.events.count

    assert_exports(jax.grad(run, has_aux=True), RATE)


@pytest.mark.slow
def test_what_does_not_export():
    """As docs/jit.md says: what calls the host, and what calls LAPACK beyond its stable part."""

    def end(y, **options):
        return jo.solve(pendulum, y, TS, RATE, max_steps=64, **options).y1

    gmres = jo.Rodas5P(linear_solver=jo.Krylov("gmres"))
    with pytest.raises(ValueError, match="custom calls whose targets have no compatibility"):
        exported(lambda y: end(y, solver=gmres), Y0)
    with pytest.raises(NotImplementedError, match="serialization of host_callbacks"):
        export.export(jax.jit(lambda y: end(y, progress=True)), platforms=["cpu"])(Y0)
    assert_exports(lambda y: end(y, solver=jo.Rodas5P(linear_solver=jo.Krylov())), Y0)


@pytest.mark.parametrize("what", ["solutions", pytest.param("gradient", marks=pytest.mark.slow)])
def test_batches_export(what):
    def states(y, k, ts):
        sol = jo.solve_batch(pendulum, y, ts, k, in_axes=(0, None, 0), max_steps=64)
        return sol.ys, sol.stats.num_steps

    def gradient(*inputs):
        return jax.grad(lambda k: jnp.sum(states(inputs[0], k, inputs[2])[0]))(inputs[1])

    assert_exports(states if what == "solutions" else gradient, BATCH, RATES, TS)


def node():
    return jo.NeuralODE(eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY), max_steps=64)


def cnf():
    return jo.nn.CNF(eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY), 2, max_steps=64)


def cde():
    return jo.nn.NeuralCDE.mlp(2, 2, hidden=3, width=4, key=KEY, max_steps=256)


def ode_rnn():
    return jo.nn.ODERNN(2, 3, 2, key=KEY, max_steps=64)


SERIES = tuple(map(jnp.asarray, series()))
MODELS: dict[str, Any] = {
    "CNF": (cnf, lambda model, x: model.log_prob(x), (BATCH.astype(float),)),
    "NeuralCDE": (cde, lambda model, *data: model(*data), SERIES),
    "ODERNN": (ode_rnn, lambda model, *data: model(*data), SERIES),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_export(name):
    """With their weights as inputs. In double precision: rounding decides on a step at a kink."""
    make, call, data = MODELS[name]
    weights, static = eqx.partition(make(), eqx.is_inexact_array)
    assert_exports(lambda weights, *data: call(eqx.combine(weights, static), *data), weights, *data)


@pytest.mark.slow
def test_a_training_step_exports():
    weights, static = eqx.partition(node(), eqx.is_inexact_array)

    def loss(weights, x):
        return jnp.mean(eqx.combine(weights, static)(x) ** 2)

    assert_exports(jax.grad(loss), weights, BATCH.astype(float))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sensitivity", ["discrete", pytest.param("adjoint", marks=pytest.mark.slow)]
)
def test_numbers_of_trajectories_and_of_times_that_are_symbols(sensitivity):
    """One program for all of them, forwards and for the gradient of what is shared."""
    rows, times = export.symbolic_shape("rows, times")
    shapes = [jax.ShapeDtypeStruct(shape, float) for shape in ((), (rows, 2), (times,))]

    def loss(k, y0, ts):
        sols = jo.solve_batch(lambda t, y, k: -k * y, y0, ts, k, sensitivity=sensitivity)
        return jnp.sum(sols.ys), sols.ys

    program = export.export(jax.jit(jax.grad(loss, has_aux=True)))(*shapes)
    for count, number in ((3, 2), (1100, 4)):
        ts = np.linspace(0.0, 1.0, number)
        derivative, ys = program.call(1.0, jnp.ones((count, 2)), ts)
        decay = np.exp(-ts)
        np.testing.assert_allclose(ys, np.broadcast_to(decay[:, None], ys.shape), rtol=1e-3)
        assert derivative == pytest.approx(-2 * count * np.sum(ts * decay), rel=1e-3)


def test_times_of_one_solve_and_samples_of_a_model_that_are_symbols():
    (n,) = export.symbolic_shape("n")
    solve = jax.jit(lambda ts: jo.solve(lambda t, y: -y, jnp.ones(2), ts).ys)
    program = export.export(solve)(jax.ShapeDtypeStruct((n,), float))
    ts = np.linspace(0.0, 1.0, 5)
    np.testing.assert_allclose(program.call(ts)[:, 0], np.exp(-ts), rtol=1e-3)
    model = jo.NeuralODE(eqx.nn.MLP(2, 2, 8, 1, key=KEY))
    program = export.export(jax.jit(lambda x: model(x)))(jax.ShapeDtypeStruct((n, 2), float))
    x = jax.random.normal(KEY, (7, 2))
    np.testing.assert_allclose(program.call(x), model(x), rtol=1e-6)
