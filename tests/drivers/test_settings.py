"""Settings of JAX that forbid what a library may do without thinking: promotion, NaN, leaks."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.problem.test_captured_values import Unhashable
from tests.support.sweeps import few

TS = (0.0, 0.5, 1.0)
WAYS = {"solve": jo.solve, "batch": jo.solve_batch}
SOLVERS = ["tsit5", "dopri8", "rodas5p", "kvaerno5", "bdf", "radau", "adams", "rkc2", "auto"]


def decay(t, y, k):
    return -k * y


@pytest.fixture
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def gradient(solver: str, way: str, sensitivity: Any, dtype: Any = jnp.float64) -> Any:
    """The derivative by the rate of the states at `TS`, and what it has to be."""
    y0 = jnp.ones((3, 2) if way == "batch" else 2, dtype)

    def loss(k):
        sol = WAYS[way](decay, y0, TS, k, solver=solver, sensitivity=sensitivity)
        return jnp.sum(sol.ys)

    found = jax.grad(loss)(jnp.ones((), dtype))
    return found, -y0.size * (0.5 * np.exp(-0.5) + np.exp(-1.0))


@pytest.mark.parametrize("solver", few(SOLVERS, "tsit5"))
def test_strict_promotion(solver, strict):
    """In the mode that differs from the other cases of its solver."""
    number = SOLVERS.index(solver)
    dtypes = jnp.float32, jnp.float64
    for way, sensitivity, dtype in (
        ("solve", "discrete", dtypes[number % 2]),
        ("batch", "adjoint", dtypes[(number + 1) % 2]),
    ):
        found, expected = gradient(solver, way, sensitivity, dtype)
        assert found.dtype == dtype
        assert float(found) == pytest.approx(expected, rel=3e-3)


def test_strict_promotion_holds_for_the_users_functions(strict):
    mixed = lambda t, y, a: -y * jnp.ones(2, jnp.float32)  # noqa: E731
    broadcast = lambda t, y, a: -y * jnp.ones((1, 1))  # noqa: E731
    for field in (mixed, broadcast):
        with pytest.raises(jo.FieldError, match="promotion"):
            jo.solve(field, jnp.ones(2), TS)


@pytest.mark.slow
def test_strict_promotion_of_what_else_there_is(strict):
    event = jo.Event(lambda t, y, k: y[0] - 0.5, terminal=True)
    sol = jo.solve(decay, jnp.ones(2), TS, 1.0, events=event, save="dense", rtol=1e-8, atol=1e-10)
    assert sol.events is not None
    assert float(sol.events.of(0).ts[0]) == pytest.approx(np.log(2.0), abs=1e-7)
    assert float(sol(0.5)[0]) == pytest.approx(np.exp(-0.5), abs=1e-7)
    assert float(jo.solve(decay, jnp.ones(1), TS, 1.0, jumps=[0.3]).y1[0]) > 0.36
    model = jo.NeuralODE(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)))
    data = jnp.ones((4, 2)), jnp.zeros((4, 2))
    _, log = jo.fit(model, data, loss="mse", steps=3, optimizer=optax.adam(0.1), progress=False)
    assert log.loss[-1] < log.loss[0]


@pytest.mark.parametrize("solver", few(SOLVERS, "tsit5"))
def test_no_nan_but_in_unused_rows(solver):
    with jax.debug_nans(True):
        for way, sensitivity in (("solve", "discrete"), ("batch", "adjoint")):
            found, expected = gradient(solver, way, sensitivity)
            assert found == pytest.approx(expected, rel=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "sensitivity"), [("solve", "discrete"), ("batch", "adjoint")])
def test_no_tracer_leaks(way, sensitivity):
    with jax.checking_leaks():  # which looks through all of Python's objects, again and again
        found, expected = gradient("tsit5", way, sensitivity)
        assert found == pytest.approx(expected, rel=3e-3)


def test_known_arrays_as_tolerances_times_and_grids_under_jit_and_scan():
    tolerance, ts, grid = jnp.array(1e-6), jnp.array(TS), jnp.linspace(0.0, 1.0, 21)
    options = (
        {"rtol": tolerance, "atol": np.float32(1e-8), "dt": jnp.array(0.1)},
        {"solver": "rk4", "controller": jo.Grid(grid)},
        {"controller": jo.PID(dtmax=jnp.array(0.1)), "jumps": jnp.array([0.25]), "rtol": 1e-6},
    )

    def solved(y, option):
        return jo.solve(decay, y, ts, 1.0, **option).y1

    for option in options:
        assert jax.jit(lambda y, o=option: solved(y, o))(jnp.ones(1)) == pytest.approx(
            np.exp(-1.0), rel=1e-5
        )
        thrice = jax.lax.scan(lambda y, _, o=option: (solved(y, o), None), jnp.ones(1), length=3)
        assert thrice[0] == pytest.approx(np.exp(-3.0), rel=1e-5)


def test_none_among_saved_values():
    sol = jo.solve(decay, jnp.ones(1), TS, 1.0, save=lambda t, y, k: {"y": y, "none": None})
    assert sol.ys["none"] is None
    assert sol.ys["y"].shape == (3, 1)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Its hash fails, for it holds an array."""

    rate: float
    weights: Any

    def __call__(self, t, y, args):
        return -self.rate * y


@pytest.mark.parametrize("field", [Frozen(1.0, np.ones(2)), Unhashable(1.0)])
def test_objects_without_a_hash_as_fields_and_in_args(field):
    assert jo.solve(field, jnp.ones(1), TS).y1[0] == pytest.approx(np.exp(-1.0), rel=1e-3)
    inside = lambda t, y, a: a["k"] * a["f"](t, y, None)  # noqa: E731

    def end(k, way, y0):
        return way(inside, y0, TS, {"f": field, "k": k}).y1.sum()

    for way, y0 in ((jo.solve, jnp.ones(1)), (jo.solve_batch, jnp.ones((2, 1)))):
        assert jax.grad(end)(1.0, way, y0) == pytest.approx(-y0.size * np.exp(-1.0), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_random_keys_in_args(make, sensitivity):
    def noisy(t, y, args):
        return -args["k"] * y * (1 + 0 * jax.random.normal(args["key"], ()))

    def end(k):
        keys, axes = jax.random.split(make(0), 2), {"key": 0, "k": None}
        return jo.solve_batch(
            noisy, jnp.ones((2, 1)), TS, {"key": keys, "k": k}, in_axes=(0, None, axes),
            sensitivity=sensitivity,
        ).y1.sum()  # fmt: skip

    assert jax.grad(end)(1.0) == pytest.approx(-2 * np.exp(-1.0), rel=1e-3)


def test_any_number_of_steps():
    for most in (2**31, 2**70):
        assert jo.solve(decay, jnp.ones(1), TS, 1.0, max_steps=most).success
