"""Both gradient modes beside each other, under vmap and jit, and on states of every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.sensitivity.discrete.options import checkpoint_rows
from tests.support.differences import assert_close, central, weighted

MODES = ["discrete", "adjoint"]
TS = jnp.array([0.0, 0.4, 1.0])


def pendulum(t, y, args):
    bend = -args["k"] * jnp.sin(y[0]) + jnp.sin(3 * t) * y[0] ** 2
    return args["speed"] * jnp.stack([y[1], bend])


def parameters():
    return {"k": jnp.array(2.0), "speed": jnp.array([1.1, 0.9])}


def loss(y0, args, ts=TS, **options):
    sol = jo.solve(pendulum, y0, ts, args, **{"rtol": 1e-10, "atol": 1e-12, **options})
    return weighted((sol.ys, 2 * sol.y1))


Y0 = jnp.array([0.7, -0.3])


@pytest.mark.parametrize(
    ("name", "ts"),
    [
        ("tsit5", TS),
        ("dopri8", TS[::-1]),
        ("vern7", jnp.array([0.2, 0.9, 0.9, 1.4])),
        ("dopri5", TS[jnp.array([0, 2])]),
    ],
)
def test_adjoint_agrees_with_discrete_at_tight_tolerances(name, ts):
    found = [
        jax.jit(
            jax.grad(
                lambda y, args, ts, mode=mode: loss(
                    y, args, ts, solver=name, sensitivity=mode, rtol=1e-12, atol=1e-13
                ),
                argnums=(0, 1, 2),
            )
        )(Y0, parameters(), ts)
        for mode in MODES
    ]
    assert_close(found[1], found[0], 1e-6)


def test_adjoint_with_fixed_steps_converges_to_the_discrete_gradient():
    def gradient(mode, dt):
        run = jax.grad(lambda args: loss(Y0, args, solver="rk4", dt=dt, sensitivity=mode))
        return run(parameters())

    assert_close(gradient("adjoint", 1e-3), gradient("discrete", 1e-3), 1e-10)


def test_adjoint_of_complex_states():
    def value(p, mode):
        sol = jo.solve(
            lambda t, y, k: k * y + 0.1 * y**2 * jnp.cos(t),
            (p["y"][0] + 1j * p["y"][1])[None],
            TS,
            p["k"][0] + 1j * p["k"][1],
            sensitivity=mode,
            rtol=1e-12,
            atol=1e-13,
        )
        return weighted(sol.ys)

    p = {"y": jnp.array([0.5, 0.2]), "k": jnp.array([-0.2, 1.5])}
    assert_close(jax.grad(value)(p, "adjoint"), central(lambda q: value(q, "adjoint"), p), 1e-6)


def test_adjoint_of_mixed_pytrees():
    def value(y0, mode):
        def field(t, y, args):
            size = jnp.sum(jnp.abs(y["wave"]) ** 2)
            return {"wave": 1j * y["wave"] * y["real"][0], "real": (-y["real"][0] * size,)}

        start = {"wave": y0[:2] + 1j * y0[1:], "real": (y0[0],)}
        sol = jo.solve(field, start, TS, sensitivity=mode, rtol=1e-12, atol=1e-13)
        return weighted((sol.ys, sol.y1))

    y0 = jnp.array([0.6, 0.3, -0.4])
    assert_close(jax.grad(value)(y0, "adjoint"), jax.grad(value)(y0, "discrete"), 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_none_integers_and_unused_parameters(mode):
    def field(t, y, args):
        assert args["nothing"] is None
        return -args["rate"] * y * args["power"] * jnp.arange(4)[args["index"]]

    def value(args):
        sol = jo.solve(field, Y0, TS, {**args, "index": jnp.array(1)}, sensitivity=mode)
        return jnp.sum(sol.y1)

    args = {
        "rate": jnp.array(0.5),
        "unused": jnp.ones((2, 3)),
        "nothing": None,
        "power": 2.0,
    }
    gradient = jax.grad(value)(args)
    assert gradient["nothing"] is None
    assert gradient["rate"] != 0
    assert gradient["power"] != 0
    np.testing.assert_array_equal(gradient["unused"], np.zeros((2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_python_integers_in_args_stay_static(mode):
    def field(t, y, args):
        rate, count = args
        for _ in range(count):
            y = y * rate
        return -y

    gradient = jax.grad(
        lambda rate: jnp.sum(jo.solve(field, Y0, TS, (rate, 2), sensitivity=mode).y1)
    )(0.7)
    assert gradient < 0


@pytest.mark.parametrize("mode", MODES)
def test_vmap_of_grad_and_grad_of_vmap_equal_a_loop(mode):
    """Parameters shared by the batch, parameters of each lane, and times of each lane."""
    starts = Y0 + 0.2 * jnp.arange(6.0).reshape(3, 2)
    shared = {"speed": jnp.array([1.1, 0.9])}
    own = jnp.array([1.0, 2.0, 3.0])
    times = TS * jnp.array([1.0, 0.5, -0.7])[:, None]

    def one(y, k, shared, ts):
        return loss(y, {"k": k, **shared}, ts, sensitivity=mode, rtol=1e-8, atol=1e-9)

    gradient = jax.jit(jax.grad(one, argnums=(0, 1, 2, 3)))
    alone = [gradient(y, k, shared, ts) for y, k, ts in zip(starts, own, times, strict=True)]
    loop = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    axes = (0, 0, None, 0)
    lanes = jax.jit(jax.vmap(jax.grad(one, argnums=(0, 1, 2, 3)), in_axes=axes))
    assert_close(lanes(starts, own, shared, times), loop, 1e-9)

    def total(*inputs):
        return jnp.sum(jax.vmap(one, in_axes=axes)(*inputs))

    of_sum = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(starts, own, shared, times)
    summed = (*loop[:2], jax.tree.map(lambda x: jnp.sum(x, axis=0), loop[2]), loop[3])
    assert_close(of_sum, summed, 1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("save", ["ts", lambda t, y, args: y])
def test_gradient_is_finite_where_nothing_moves(mode, save):
    """A state of zero, a field of zero, an error estimate of zero."""

    def value(y0, rate):
        sol = jo.solve(lambda t, y, k: k * y, y0, TS, rate, sensitivity=mode, save=save)
        return jnp.sum(sol.ys[-1])

    gradients = jax.grad(value, argnums=(0, 1))
    of_state, of_rate = gradients(jnp.zeros(2), jnp.array(0.3))
    np.testing.assert_allclose(of_state, np.exp(0.3), rtol=1e-3)
    assert of_rate == 0.0
    of_state, of_rate = gradients(jnp.ones(2), jnp.array(0.0))
    np.testing.assert_allclose(of_state, 1.0)
    np.testing.assert_allclose(of_rate, 2.0, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["dopri8", "tsit5"])
def test_error_estimate_of_zero_is_differentiable(mode, name):
    def value(y):
        sol = jo.solve(lambda t, y, args: 0 * y, y, TS, solver=name, sensitivity=mode)
        return jnp.sum(sol.ys)

    gradient = jax.grad(value)(jnp.ones(2))
    np.testing.assert_array_equal(gradient, [3.0, 3.0])


@pytest.mark.parametrize("mode", MODES)
def test_no_time_to_cross_has_the_gradient_of_the_identity(mode):
    ts = jnp.array([1.0, 1.0])
    gradient = jax.grad(
        lambda y: jnp.sum(jo.solve(pendulum, y, ts, parameters(), sensitivity=mode).ys ** 2)
    )(Y0)
    np.testing.assert_allclose(gradient, 4 * Y0)


@pytest.mark.parametrize("mode", MODES)
def test_tolerances_and_steps_have_no_gradient(mode):
    def value(rtol, atol, dt):
        return loss(Y0, parameters(), rtol=rtol, atol=atol, dt=dt, sensitivity=mode)

    assert jax.grad(value, argnums=(0, 1, 2))(1e-5, 1e-6, 0.1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_repeat_of_the_first_time_moves_by_the_slope(mode):
    """The second value leaves `y0` with the slope as its own time moves on."""

    def second(ts):
        sol = jo.solve(pendulum, Y0, ts, parameters(), sensitivity=mode)
        return jnp.sum(sol.ys[1])

    slope = jnp.sum(pendulum(jnp.array(0.2), Y0, parameters()))
    gradient = jax.grad(second)(jnp.array([0.2, 0.2, 0.9]))
    np.testing.assert_allclose(gradient, jnp.array([-slope, slope, 0.0]), atol=1e-12)


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
    gradient = run(Y0, parameters(), ts)
    wide = run(jnp.broadcast_to(Y0[:, None], (2, copies)), parameters(), ts)
    assert_close((jnp.sum(wide[0], -1), *wide[1:]), gradient, 1e-11)
