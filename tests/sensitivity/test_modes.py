"""The discrete and the continuous adjoint, under vmap and jit, and on states of every size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.sensitivity.discrete.options import checkpoint_rows
from tests.support.differences import assert_close, weighted
from tests.support.pendulum import pendulum, point

MODES = ["discrete", "adjoint"]
ADJOINT_IS_SLOW = ["discrete", pytest.param("adjoint", marks=pytest.mark.slow)]
TS = jnp.array([0.0, 0.4, 1.0])
Y0 = jnp.array([0.7, -0.3])
TIGHT = {"rtol": 1e-12, "atol": 1e-13, "dt": 0.1}


def parameters():
    return point()["args"]


def weights(n):
    """Weights of the saved values, of their squares, and of the squares of the end."""
    squares = jnp.sin(1.0 + jnp.arange(2.0 * n)).reshape(n, 2)
    return {"values": 0.3 * squares, "squares": squares, "end": jnp.array([3.4, 3.6])}


def loss(y0, args, ts, weights, control, name="tsit5", mode="discrete"):
    sol = jo.solve(pendulum, y0, ts, args, solver=name, sensitivity=mode, **control)
    saved = weights["values"] * sol.ys + weights["squares"] * sol.ys**2
    return jnp.sum(saved) + jnp.sum(weights["end"] * sol.y1**2)


@functools.cache
def gradient(name, mode):
    """The gradient of `loss` by start, arguments, times and step control, compiled.

    Its arguments are those of `loss` but for the last two.
    """
    by = functools.partial(loss, name=name, mode=mode)
    return jax.jit(jax.grad(by, argnums=(0, 1, 2, 4)))


@pytest.mark.parametrize(
    ("name", "ts"),
    [
        ("tsit5", TS),
        ("dopri5", TS[jnp.array([0, 2])]),
        pytest.param("dopri8", TS[::-1], marks=pytest.mark.slow),
        pytest.param("vern7", jnp.array([0.2, 0.9, 0.9, 1.4]), marks=pytest.mark.slow),
    ],
)
def test_adjoint_agrees_with_discrete_at_tight_tolerances(name, ts):
    at = Y0, parameters(), ts, weights(len(ts)), TIGHT
    discrete, adjoint = (gradient(name, mode)(*at)[:3] for mode in MODES)
    assert_close(adjoint, discrete, 1e-6)


@pytest.mark.slow
def test_adjoint_with_fixed_steps_converges_to_the_discrete_gradient():
    at = Y0, parameters(), TS, weights(3), {"dt": 1e-3}
    discrete, adjoint = (gradient("rk4", mode)(*at)[1] for mode in MODES)
    assert_close(adjoint, discrete, 1e-10)


@pytest.mark.slow
def test_adjoint_of_mixed_pytrees():
    def value(y0, mode):
        def field(t, y, args):
            size = jnp.sum(jnp.abs(y["wave"]) ** 2)
            return {"wave": 1j * y["wave"] * y["real"][0], "real": (-y["real"][0] * size,)}

        start = {"wave": y0[:2] + 1j * y0[1:], "real": (y0[0],)}
        sol = jo.solve(field, start, TS, sensitivity=mode, rtol=1e-12, atol=1e-13)
        return weighted((sol.ys, sol.y1))

    y0, run = jnp.array([0.6, 0.3, -0.4]), jax.jit(jax.grad(value), static_argnums=1)
    assert_close(run(y0, "adjoint"), run(y0, "discrete"), 1e-6)


# Parameters shared by the batch, parameters of each lane, and times of each lane.
LANES = (
    Y0 + 0.2 * jnp.arange(6.0).reshape(3, 2),
    {"k": jnp.array([1.0, 2.0, 3.0]), "speed": jnp.array([1.1, 0.9])},
    TS * jnp.array([1.0, 0.5, -0.7])[:, None],
)
AXES = (0, {"k": 0, "speed": None}, 0)
CONTROL = {"rtol": 1e-8, "atol": 1e-9, "dt": 0.1}


def lane_loss(y0, args, ts, mode):
    return loss(y0, args, ts, weights(3), CONTROL, mode=mode)


def gradients_in_a_loop(mode):
    def one_gradient(i):
        starts, args, times = LANES
        own = args | {"k": args["k"][i]}
        return gradient("tsit5", mode)(starts[i], own, times[i], weights(3), CONTROL)[:3]

    return jax.tree.map(lambda *x: jnp.stack(x), *map(one_gradient, range(3)))


@pytest.mark.parametrize("mode", ADJOINT_IS_SLOW)
def test_vmap_of_grad_equals_a_loop(mode):
    by = jax.grad(functools.partial(lane_loss, mode=mode), argnums=(0, 1, 2))
    lanes = jax.jit(jax.vmap(by, in_axes=AXES))(*LANES)
    assert_close(lanes, gradients_in_a_loop(mode), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_grad_of_vmap_is_the_sum_of_a_loop(mode):
    def total(*inputs):
        return jnp.sum(jax.vmap(functools.partial(lane_loss, mode=mode), in_axes=AXES)(*inputs))

    of_sum = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*LANES)
    by_start, by_args, by_times = gradients_in_a_loop(mode)
    by_args = by_args | {"speed": jnp.sum(by_args["speed"], axis=0)}
    assert_close(of_sum, (by_start, by_args, by_times), 1e-9)


@pytest.mark.parametrize("mode", ADJOINT_IS_SLOW)
def test_gradient_of_a_saved_function_is_finite_where_nothing_moves(mode):
    """A state of zero, a field of zero, an error estimate of zero."""

    def value(y0, rate):
        options = {"sensitivity": mode, "save": lambda t, y, args: y}
        return jnp.sum(jo.solve(lambda t, y, k: k * y, y0, TS, rate, **options).ys[-1])

    gradients = jax.jit(jax.grad(value, argnums=(0, 1)))
    of_state, of_rate = gradients(jnp.zeros(2), 0.3)
    np.testing.assert_allclose(of_state, np.exp(0.3), rtol=1e-3)
    assert of_rate == 0.0
    of_state, of_rate = gradients(jnp.ones(2), 0.0)
    np.testing.assert_allclose(of_state, 1.0)
    np.testing.assert_allclose(of_rate, 2.0, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_no_time_to_cross_has_the_gradient_of_the_identity(mode):
    ts, squares = jnp.array([1.0, 1.0]), jnp.ones((2, 2))
    of_squares = {"values": 0 * squares, "squares": squares, "end": jnp.zeros(2)}
    by_y0, *_ = gradient("dopri5", mode)(Y0, parameters(), ts, of_squares, TIGHT)
    np.testing.assert_allclose(by_y0, 4 * Y0)


@pytest.mark.parametrize("mode", MODES)
def test_tolerances_and_steps_have_no_gradient(mode):
    control = {"rtol": 1e-5, "atol": 1e-6, "dt": 0.1}
    *_, by_control = gradient("tsit5", mode)(Y0, parameters(), TS, weights(3), control)
    assert by_control == {"rtol": 0.0, "atol": 0.0, "dt": 0.0}


@pytest.mark.parametrize("mode", MODES)
def test_a_repeat_of_the_first_time_moves_by_the_slope(mode):
    """The second value leaves `y0` with the slope as its own time moves on."""
    second = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    of_second = {"values": second, "squares": 0 * second, "end": jnp.zeros(2)}
    control = {"rtol": 1e-3, "atol": 1e-6, "dt": 0.1}
    times = jnp.array([0.2, 0.2, 0.9])
    _, _, by_ts, _ = gradient("tsit5", mode)(Y0, parameters(), times, of_second, control)
    slope = jnp.sum(pendulum(jnp.array(0.2), Y0, parameters()))
    np.testing.assert_allclose(by_ts, jnp.array([-slope, slope, 0.0]), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsit5", "rk4", "vern7"])
@pytest.mark.parametrize("ts", [TS, TS[jnp.array([0, 2])]])
def test_thinned_states_give_the_gradient_of_kept_ones(name, ts):
    """Many copies of a small system keep few states, and each copy has the small one's gradient."""
    copies, max_steps, steps = 5_000, 4096, 150
    assert checkpoint_rows(jnp.zeros((2, copies)), max_steps) < steps
    assert checkpoint_rows(jnp.zeros(2), max_steps) == max_steps
    options = {"solver": name, "controller": jo.Fixed(1 / (steps + 0.5)), "max_steps": max_steps}

    def value(y0, args, ts):
        args = {**args, "speed": args["speed"].reshape(-1, *[1] * (y0.ndim - 1))}
        sol = jo.solve(pendulum, y0, ts, args, **options)
        squares = sol.ys**2 if y0.ndim == 1 else jnp.mean(sol.ys**2, axis=-1)
        return jnp.sum(jnp.sin(1.0 + jnp.arange(len(ts)))[:, None] * squares)

    run = jax.jit(jax.grad(value, argnums=(0, 1, 2)))
    small = run(Y0, parameters(), ts)
    wide = run(jnp.broadcast_to(Y0[:, None], (2, copies)), parameters(), ts)
    assert_close((jnp.sum(wide[0], -1), *wide[1:]), small, 1e-11)
