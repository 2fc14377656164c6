"""`odeint` beside `jax.experimental.ode.odeint`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint as reference

import jaxode as jo
from tests.support.differences import assert_close, central, weighted
from tests.support.sweeps import few

Y0 = jnp.array([0.7, -0.3])
TS = jnp.array([0.2, 0.5, 0.9, 1.4])
RATE, BEND = jnp.array(2.0), jnp.array([1.1, 0.9])
TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def field(y, t, rate, bend):
    return bend * jnp.stack([y[1], -rate * jnp.sin(y[0]) + jnp.sin(3 * t) * y[0] ** 2])


def test_values_are_those_of_jax():
    ours, theirs = (solve(field, Y0, TS, RATE, BEND) for solve in (jo.odeint, reference))
    np.testing.assert_allclose(ours, theirs, rtol=3e-7)


def test_gradients_to_every_input_are_those_of_jax():
    def loss(solve, *inputs):
        return weighted(solve(field, *inputs, **TIGHT))

    argnums = (1, 2, 3, 4)
    ours, theirs = (
        jax.jit(jax.grad(loss, argnums=argnums), static_argnums=0)(solve, Y0, TS, RATE, BEND)
        for solve in (jo.odeint, reference)
    )
    # JAX reads its times off an interpolant of order four.
    assert_close(ours, theirs, 2e-8)


def test_backwards_in_time_undoes_forwards():
    there = jo.odeint(field, Y0, TS, RATE, BEND, **TIGHT)
    back = jo.odeint(field, there[-1], TS[::-1], RATE, BEND, **TIGHT)
    np.testing.assert_allclose(back, there[::-1], rtol=1e-10)


def test_pytrees_float32_and_no_arguments():
    y0 = {"a": jnp.ones(2, jnp.float32), "b": jnp.float32(3.0)}
    ys = jo.odeint(lambda y, t: jax.tree.map(lambda x: -x, y), y0, jnp.linspace(0, 1, 4))
    assert ys["a"].dtype == ys["b"].dtype == jnp.float32
    fall = np.exp(-np.linspace(0, 1, 4))
    np.testing.assert_allclose(ys["a"], np.stack([fall, fall], axis=1), rtol=1e-6)
    np.testing.assert_allclose(ys["b"], 3 * fall, rtol=1e-6)


def test_closed_over_arrays_get_gradients():
    gradient = jax.grad(
        lambda k: jo.odeint(lambda y, t: k * y, jnp.array(1.0), jnp.array([0.0, 1.0]))[-1]
    )(0.3)
    np.testing.assert_allclose(gradient, np.exp(0.3), rtol=1e-6)


def test_largest_step_and_most_steps():
    # Of 120 steps for three intervals no interval has more than 50.
    with pytest.raises(jo.SolveError, match="MAX_STEPS"):
        jo.odeint(field, Y0, TS, RATE, BEND, hmax=0.01, mxstep=39)
    ys = jo.odeint(field, Y0, TS, RATE, BEND, hmax=0.01, mxstep=50)
    np.testing.assert_allclose(ys, jo.odeint(field, Y0, TS, RATE, BEND), rtol=1e-6)


SLOPES = {
    "a list for an array": (lambda y, t: [y[1], -y[0]], Y0),
    "numbers": (lambda y, t: [y[1], -1.5], Y0),
    "an integer": (lambda y, t: jnp.array([0, -2]), Y0),
    "an array for a list": (lambda y, t: jnp.stack([y[1], -y[0]]), [0.7, -0.3]),
    "an array for a tuple": (lambda y, t: jnp.stack([y[1], -y[0]]), (0.7, -0.3)),
    "a number for a state": (lambda y, t: -0.5, 0.7),
    "a list for leaves": (
        lambda y, t: [y["b"][0], -y["a"][0], 0.0],
        {"a": jnp.array([0.7]), "b": jnp.array([-0.3, 0.1])},
    ),
    "an axis more": (lambda y, t: -y[None], Y0),
}


@pytest.mark.parametrize("case", SLOPES)
def test_slopes_have_any_structure(case):
    slope, y0 = SLOPES[case]
    ours = jo.odeint(slope, y0, TS)
    arrays = jax.tree.map(jnp.asarray, y0)
    floats = lambda y, t: jax.tree.map(lambda x: 1.0 * jnp.asarray(x), slope(y, t))  # noqa: E731
    theirs = reference(floats, arrays, TS)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize(
    ("slope", "y0"),
    [
        (lambda y, t: [y[0]], Y0),
        (lambda y, t: 1j * y, Y0),
        (lambda y, t: y.T, jnp.ones((2, 3))),
        (lambda y, t: [y[0], 1j], Y0),
    ],
)
def test_slopes_that_fit_no_state(slope, y0):
    with pytest.raises(jo.FieldError, match=r"func|lambda"):
        jo.odeint(slope, y0, TS)


@pytest.mark.slow
@pytest.mark.parametrize("times", [jnp.array([0.4]), [0.4], np.array([0.4])])
def test_one_time(times):
    np.testing.assert_array_equal(jo.odeint(field, Y0, times, RATE, BEND), Y0[None])
    gradient = jax.grad(lambda y0: weighted(jo.odeint(field, y0, times, RATE, BEND)))(Y0)
    np.testing.assert_allclose(gradient, jax.grad(weighted)(Y0[None])[0], rtol=1e-12)


def lorenz(y, t):
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def van_der_pol(y, t):
    return jnp.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


PROBLEMS = {
    "pendulum": (lambda y, t: field(y, t, RATE, BEND), Y0, 6.0),
    "Lorenz": (lorenz, jnp.array([1.0, 1.0, 20.0]), 2.0),
    "Van der Pol": (van_der_pol, jnp.array([2.0, 0.0]), 8.0),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_errors_are_no_larger_than_those_of_jax(problem):
    slope, y0, last = PROBLEMS[problem]
    times = jnp.linspace(0.0, last, 23)
    exact = jo.solve(lambda t, y: slope(y, t), y0, times, solver="dopri8", rtol=1e-13, atol=1e-13)

    def errors(solve):
        run = jax.jit(lambda tol: solve(slope, y0, times, rtol=tol, atol=tol))
        return [np.max(np.abs(run(tol) - exact.ys)) for tol in (1e-4, 1e-6, 1.4e-8)]

    theirs = [
        np.max(np.abs(reference(slope, y0, times, rtol=tol, atol=tol) - exact.ys))
        for tol in (1e-4, 1e-6, 1.4e-8)
    ]
    ratios = np.array(errors(jo.odeint)) / theirs
    assert np.all(ratios < 1.05)  # the nearest is 0.995
    assert np.exp(np.mean(np.log(ratios))) < 0.8


# What JAX's own tests of its `odeint` check, in words of our own.


def decay(y, t, shift, inner):
    return -jnp.sqrt(t) - y + shift - jnp.mean((y + inner) ** 2)


def swoop(y, t, bend, shift):
    return y - jnp.sin(t) - jnp.cos(t) * bend + shift


def weird_time(y, t, mass, gravity):
    return jnp.array([y[1], -mass * y[1] - gravity * jnp.sin(y[0] * (1 + jnp.sin(t)))])


GRADIENTS = {
    "a pendulum": (weird_time, jnp.array([np.pi - 0.1, 0.0]), jnp.linspace(0.0, 1.0, 4)),
    "a decay": (decay, jnp.array([0.3, -0.7, 1.1]), jnp.linspace(0.1, 0.2, 4)),
    "a swoop": (swoop, jnp.sin(jnp.arange(12.0)), jnp.linspace(0.1, 4.0, 5)),
}


@pytest.mark.parametrize("case", few(GRADIENTS))
def test_gradients_of_functions_of_time(case):
    slope, y0, times = GRADIENTS[case]

    def loss(inputs):
        return weighted(jo.odeint(slope, *inputs, **TIGHT))

    inputs = y0, times, jnp.array(0.4), jnp.array(0.2)
    assert_close(jax.jit(jax.grad(loss))(inputs), central(loss, inputs), 1e-7)


@pytest.mark.slow
def test_gradients_of_pytrees():
    y0 = jnp.array(-0.1), jnp.array([[[0.1]]])

    def loss(y0):
        return weighted(jo.odeint(lambda y, t: jax.tree.map(jnp.negative, y), y0, TS, **TIGHT))

    assert_close(jax.grad(loss)(y0), central(loss, y0), 1e-8)


@pytest.mark.slow
def test_complex_states_and_arguments():
    def loss(inputs):
        y0, times, rate = inputs
        return jnp.sum(jo.odeint(lambda y, t, rate: rate * y, y0, times, rate, **TIGHT).real)

    inputs = jnp.array(1 + 2j), jnp.linspace(0.0, 0.4, 5), jnp.array(3 + 4j)
    gradient = jax.grad(loss)(inputs)
    grown = jnp.exp(inputs[2] * inputs[1])
    assert_close(gradient[0], jnp.sum(grown), 1e-8)
    assert_close(gradient[2], jnp.sum(inputs[0] * inputs[1] * grown), 1e-8)


def test_steps_that_would_miss_a_pulse():
    def pulse(y, t):
        return jnp.where(t <= 2.0, 1.0, jnp.where((t >= 5.0) & (t <= 7.0), -1.0, 0.0))

    ys = jo.odeint(pulse, jnp.array(0.0), jnp.array([0.0, 5.0, 10.0]), hmax=1.0)
    np.testing.assert_allclose(ys, [0.0, 2.0, 0.0], atol=1e-4)


@pytest.mark.slow
def test_gradients_under_vmap_are_those_of_each():
    times = jnp.arange(0.0, 1.0, 0.1)

    def loss(rate, y0):
        return jo.odeint(lambda y, t, *_: -rate * y, y0, times, 3.0)[-1]

    rates = jnp.linspace(0.01, 0.9, 3)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))(rates, 1.0)
    np.testing.assert_allclose(values, np.exp(-0.9 * rates), rtol=1e-7)
    np.testing.assert_allclose(slopes, -0.9 * np.exp(-0.9 * rates), rtol=1e-6)


@pytest.mark.slow
def test_without_jit_under_vmap():
    with jax.disable_jit():
        ys = jax.vmap(lambda y0: jo.odeint(lambda y, t: y, y0, jnp.array([0.0, 1.0])))(
            jnp.ones((2, 1))
        )
    np.testing.assert_allclose(ys[:, 1], np.e * np.ones((2, 1)), rtol=1e-6)


def test_forward_mode_is_refused_in_words_of_jax():
    with pytest.raises(TypeError, match=r"can't apply forward-mode"):
        jax.jacfwd(lambda rate: jo.odeint(lambda y, t: rate * y, 1.0, TS))(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_nothing_is_promoted_silently(dtype):
    def loss(y0, rate):
        return jnp.sum(
            jo.odeint(lambda y, t, rate: [rate * y[1], -y[0]], y0, TS.astype(dtype), rate)
        )

    y0, rate = Y0.astype(dtype), jnp.asarray(2.0, dtype)
    with jax.numpy_dtype_promotion("strict"):
        value, gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(y0, rate)
    expected, slope = jax.value_and_grad(loss, argnums=(0, 1))(y0, rate)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(gradient, slope, 1e-4)
