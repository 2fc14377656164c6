"""The discrete gradient against finite differences, for every kind of solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, gradient_and_differences
from tests.support.pendulum import loss_of, pendulum, point
from tests.support.registry import ADAPTIVE, PARTITIONED

# A save mode for each kind of step. Tangents of all other solvers are fast in test_forward.
CASES = [
    ("midpoint", "ends"),
    ("rk4", "function"),
    ("tsit5", "dense"),
    ("vern7", "ts"),
    ("bosh3", "ts"),
    ("euler", "ts"),
    ("semi_implicit_euler", "dense"),
    ("stormer_verlet", "dense"),
    ("nystrom4", "dense"),
    ("rkc2", "dense"),
    ("bdf", "dense"),
    ("adams", "dense"),
    ("trbdf2", "steps"),
    ("trapezoid", "function"),
    ("implicit_midpoint", "steps"),
    ("implicit_euler", "function"),
]
MORE_CASES = [
    *(("midpoint", mode) for mode in ("ts", "function", "steps")),
    *(("tsit5", mode) for mode in ("ends", "ts", "function", "steps")),
    *(("rk4", mode) for mode in ("ends", "ts", "steps", "dense")),
    *(("dopri8", mode) for mode in ("ts", "dense")),
    *((name, "dense") for name in ("vern7", "radau_iia5", "kvaerno5")),
    *((name, "ts") for name in ("kencarp4", "gauss_legendre4")),
    *((name, "dense") for name in ("yoshida4", "mclachlan4", "yoshida6", "dprkn6")),
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


@pytest.mark.parametrize(
    "mode",
    ["ts", *(pytest.param(m, marks=pytest.mark.slow) for m in ("ends", "steps", "function"))],
)
def test_a_solve_that_records_its_steps_has_the_same_values(mode):
    """Differences above are of solves under `grad`, which record what the gradient needs."""
    loss = loss_of(mode, solver="euler", controller=jo.Fixed(0.17), max_steps=12)
    alone, (recorded, _) = jax.jit(lambda p: (loss(p), jax.value_and_grad(loss)(p)))(point())
    np.testing.assert_allclose(recorded, alone, rtol=1e-14)


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


@pytest.mark.parametrize(
    "sensitivity", [pytest.param("discrete", marks=pytest.mark.slow), "adjoint"]
)
def test_a_saved_function_and_its_arguments_under_both_modes(sensitivity):
    """The discrete one of adaptive steps, the adjoint to the tolerance."""
    options = {"solver": "dopri8", "sensitivity": sensitivity, "rtol": 1e-11, "atol": 1e-12}
    check(loss_of("function", **options), point(), 1e-6, step=3e-3)
