"""The discrete gradient against finite differences, for every kind of solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, gradient_and_differences, weighted
from tests.support.pendulum import loss_of, pendulum, point
from tests.support.registry import ADAPTIVE, PARTITIONED

# A save mode for each family of solvers, and on a few solvers all the others.
CASES = [
    ("midpoint", "ends"),
    ("rk4", "function"),
    ("tsit5", "dense"),
    ("dopri8", "ts"),
    ("vern7", "ts"),
    ("bosh3", "ts"),
    ("euler", "ts"),
    *((name, "dense") for name in ("semi_implicit_euler", "stormer_verlet", "yoshida4", "dprkn6")),
    *((name, "dense") for name in ("nystrom4", "rkc2", "kvaerno5", "radau_iia5", "bdf", "adams")),
    ("kencarp4", "ts"),
    ("trbdf2", "steps"),
    ("trapezoid", "function"),
    ("gauss_legendre4", "ts"),
    ("implicit_midpoint", "steps"),
    ("implicit_euler", "function"),
]
MORE_CASES = [
    *(("midpoint", mode) for mode in ("ts", "function", "steps")),
    *(("tsit5", mode) for mode in ("ends", "ts", "function", "steps")),
    *(("rk4", mode) for mode in ("ends", "ts", "steps", "dense")),
    *((name, "dense") for name in ("dopri8", "vern7", "mclachlan4", "yoshida6")),
    *((name, "ts") for name in ("semi_implicit_euler", "stormer_verlet", "dprkn6")),
]


def check(loss, p, tolerance, step=1e-3):
    assert_close(*gradient_and_differences(loss, p, step), tolerance)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)],
)
def test_fixed_steps_have_the_exact_gradient(name, mode):
    """Seven steps of 0.17 and one cut short, so that no perturbation changes their number."""
    step = {"controller": jo.Fixed(0.17)} if name in ADAPTIVE else {"dt": 0.17}
    p = point()
    if mode == "ends":
        p["ts"] = p["ts"][jnp.array([0, -1])]
    check(loss_of(mode, solver=name, max_steps=12, **step), p, 1e-9)


def test_every_partitioned_solver_has_its_dense_output_differentiated():
    assert {name for name, mode in [*CASES, *MORE_CASES] if mode == "dense"} >= set(PARTITIONED)


@pytest.mark.parametrize("name", ["tsit5", pytest.param("dopri8", marks=pytest.mark.slow)])
def test_backwards_in_time_the_gradient_is_exact_too(name):
    options = {"solver": name, "controller": jo.Fixed(0.17), "max_steps": 12}
    check(loss_of("ts", **options), point(ts=(1.4, 0.9, 0.5, 0.2)), 1e-9)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("tsit5", "ts"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("tsit5", "dense"), ("vern7", "ts"), ("dopri8", "function"))
        ),
    ],
)
def test_adaptive_steps_agree_with_differences(name, mode):
    options = {"solver": name, "rtol": 1e-12, "atol": 1e-12, "max_steps": 2048}
    check(loss_of(mode, **options), point(), 1e-6, step=3e-3)


def test_repeated_times_share_the_gradient():
    """The values at one time, saved thrice, pull thrice; of `y0` too."""
    options = {"solver": "tsit5", "controller": jo.Fixed(0.17), "max_steps": 12}

    def loss(p, ts):
        sol = jo.solve(pendulum, p["y0"], ts, p["args"], **options)
        return jnp.sum(sol.ys**3)

    def thrice(p, ts):
        sol = jo.solve(pendulum, p["y0"], ts, p["args"], **options)
        return jnp.sum(jnp.array([2.0, 3.0, 1.0])[:, None] * sol.ys**3)

    p = {name: value for name, value in point().items() if name != "ts"}
    repeated = jax.jit(jax.grad(loss))(p, jnp.array([0.2, 0.2, 0.9, 0.9, 0.9, 1.4]))
    assert_close(repeated, jax.jit(jax.grad(thrice))(p, jnp.array([0.2, 0.9, 1.4])), 1e-13)


def test_the_times_that_come_back_carry_their_gradient():
    def loss(ts):
        sol = jo.solve(pendulum, point()["y0"], ts, point()["args"], solver="tsit5")
        return jnp.sum(sol.ts**2)

    ts = point()["ts"]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(ts), 2 * ts)


def test_the_query_time_of_dense_output_gets_the_slope():
    sol = jo.solve(
        pendulum, point()["y0"], (0.2, 1.4), point()["args"], save="dense", rtol=1e-10, atol=1e-12
    )
    slope = jax.jacobian(sol)(0.8)
    np.testing.assert_allclose(slope, pendulum(0.8, sol(0.8), point()["args"]), rtol=1e-5)


class Field(eqx.Module):
    net: eqx.nn.MLP
    name: str = eqx.field(static=True, default="field")

    def __call__(self, t, y, args):
        return self.net(jnp.concatenate([y, t[None]]))


def network():
    net = eqx.nn.MLP(3, 2, 4, 1, activation=jax.nn.tanh, key=jax.random.key(3))
    return eqx.partition(Field(net), eqx.is_inexact_array)


@pytest.mark.parametrize("save", ["ts", pytest.param("dense", marks=pytest.mark.slow)])
def test_arrays_of_a_module_get_the_exact_gradient(save):
    arrays, rest = network()

    def loss(arrays):
        sol = jo.solve(
            eqx.combine(arrays, rest), jnp.ones(2), (0.2, 0.8, 1.4), save=save,
            controller=jo.Fixed(0.17), max_steps=12,
        )  # fmt: skip
        return weighted(sol.ys)

    check(loss, arrays, 1e-9)


def test_closed_over_arrays_of_field_and_read_out_get_the_exact_gradient():
    def loss(p):
        sol = jo.solve(
            lambda t, y, args: p["inner"] @ jnp.sin(y),
            jnp.array([0.4, 0.8]),
            (0.2, 0.8, 1.4),
            save=lambda t, y, args: p["outer"] * y,
            controller=jo.Fixed(0.17),
        )
        return weighted(sol.ys)

    p = {"inner": jnp.array([[0.1, 1.0], [-1.2, 0.3]]), "outer": jnp.array([1.0, -2.0])}
    check(loss, p, 1e-9)


@pytest.mark.parametrize(
    "sensitivity", [pytest.param("discrete", marks=pytest.mark.slow), "adjoint"]
)
def test_a_saved_function_and_its_arguments_under_both_modes(sensitivity):
    """The discrete one of adaptive steps, the adjoint to the tolerance."""
    options = {"solver": "dopri8", "sensitivity": sensitivity, "rtol": 1e-11, "atol": 1e-12}
    check(loss_of("function", **options), point(), 1e-6, step=3e-3)


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float64, marks=pytest.mark.slow), jnp.complex128]
)
def test_complex_states_and_parameters(dtype):
    def loss(p):
        y0 = (p["y"][0] + 1j * p["y"][1])[None]
        factor = p["k"][0] + 1j * p["k"][1]
        args = factor if dtype == jnp.complex128 else p["k"]

        def field(t, y, k):
            k = k if dtype == jnp.complex128 else k[0] + 1j * k[1]
            return k * y + 0.1 * y**2 * jnp.cos(t)

        sol = jo.solve(field, y0, p["ts"], args, controller=jo.Fixed(0.17), max_steps=12)
        return weighted(sol.ys)

    p = {"y": jnp.array([0.5, 0.2]), "k": jnp.array([-0.2, 1.5]), "ts": point()["ts"]}
    check(loss, p, 1e-9)


def test_mixed_pytree_states():
    def loss(p):
        y0 = {"wave": p["a"] + 1j * p["b"], "real": (p["a"][:1], p["b"][None])}

        def field(t, y, args):
            size = jnp.sum(jnp.abs(y["wave"]) ** 2)
            real = jax.tree.map(lambda x: -x * size, y["real"])
            return {"wave": 1j * y["wave"] * y["real"][0][0], "real": real}

        sol = jo.solve(field, y0, (0.2, 0.8, 1.4), controller=jo.Fixed(0.17), max_steps=12)
        return weighted((sol.ys, sol.y1))

    check(loss, {"a": jnp.array([0.6, 0.3]), "b": jnp.array([-0.4, 0.9])}, 1e-9)
