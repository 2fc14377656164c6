"""What a solve returns: times, states of every kind, save modes, statuses, dense output."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.problems import lotka_volterra
from tests.support.registry import (
    ADAPTIVE,
    FAMILIES,
    NAMES,
    PARTITIONED,
    REPRESENTATIVES,
    linear,
    nonlinear,
    step_of,
)
from tests.support.sweeps import few

TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
Y0 = jnp.array([1.0, 1.0])


def decay(t, y, args):
    return -y


def rotation(t, y, args):
    return 1j * y


LINEAR, NONLINEAR = (1.0, 0.0), (0.0, 1.0)


def weighted_sum(name: str) -> Callable:
    """A field `(t, y, weights)`: the sum of `linear(name)` at rate 1 and `nonlinear(name)`."""
    if name in PARTITIONED:
        return lambda t, y, w: jnp.stack([y[1], -(w[0] * y[0] + w[1] * jnp.sin(y[0]))])
    return lambda t, y, w: -w[0] * y + w[1] * lotka_volterra(t, y, None)


@functools.cache
def jitted(name: str, save: Any = "ts") -> Callable:
    """The solve by `name` at 33 times, compiled once: options, too, are traced."""

    def solve(y0, ts, weights, options):
        sol = jo.solve(
            weighted_sum(name), y0, ts, weights, solver=name, save=save,
            max_steps=100_000 if save == "ts" else 4096, **options,
        )  # fmt: skip
        return (sol, sol(ts), sol(ts[5])) if save == "dense" else sol

    return jax.jit(solve)


def options_of(name: str, rtol: float = 1e-4, atol: float = 1e-6, dt: float = 0.05) -> Any:
    return {"rtol": rtol, "atol": atol, **step_of(name, dt)}


@pytest.mark.parametrize("name", few(NAMES, *REPRESENTATIVES))
def test_first_row_is_y0_and_last_row_is_y1_to_the_bit(name):
    ts = jnp.linspace(0.5, 1.9, 33)
    sol = jitted(name)(Y0, ts, NONLINEAR, options_of(name))
    np.testing.assert_array_equal(sol.ts, ts)
    np.testing.assert_array_equal(sol.ys[0], Y0)
    np.testing.assert_array_equal(sol.ys[-1], sol.y1)
    assert sol.ys.shape == (33, 2)
    assert sol.status == jo.Status.SUCCESS
    assert sol.success


def test_the_ends_are_those_of_a_longer_solve():
    ends = jo.solve(lotka_volterra, Y0, (0.5, 1.9))
    longer = jo.solve(lotka_volterra, Y0, [0.5, 0.7, 1.3, 1.9])
    np.testing.assert_allclose(ends.ys, longer.ys[jnp.array([0, -1])], rtol=1e-13)
    assert ends.stats.num_steps == longer.stats.num_steps


def test_repeated_times_repeat_their_values():
    sol = jo.solve(lotka_volterra, Y0, [0.0, 0.0, 0.7, 0.7, 0.7, 1.3, 1.3])
    once = jo.solve(lotka_volterra, Y0, [0.0, 0.7, 1.3])
    expected = once.ys[jnp.array([0, 0, 1, 1, 1, 2, 2])]
    np.testing.assert_allclose(sol.ys, expected, rtol=1e-13)


@pytest.mark.parametrize("ts", [(2.0, 2.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("save", ["ts", "steps", "dense"])
def test_no_time_to_cross_leaves_the_state_as_it_was(ts, save):
    sol = jo.solve(decay, Y0, ts, save=save)
    assert sol.status == jo.Status.SUCCESS
    assert sol.stats.num_steps == 0
    np.testing.assert_array_equal(sol.y1, Y0)
    np.testing.assert_array_equal(sol.ys[0], Y0)
    if save != "steps":
        np.testing.assert_array_equal(sol.ys, jnp.broadcast_to(Y0, (len(ts), 2)))


def test_dense_output_of_no_time_knows_its_one_time():
    sol = jo.solve(decay, Y0, (2.0, 2.0), save="dense")
    np.testing.assert_array_equal(sol(2.0), Y0)
    assert np.all(np.isnan(sol(2.1)))


@pytest.mark.parametrize("name", few(NAMES, *REPRESENTATIVES))
def test_backwards_in_time_follows_the_closed_form(name):
    ts = jnp.linspace(1.0, -1.0, 33)
    tolerances = (1e-6, 1e-9) if name in ADAPTIVE else (1e-4, 1e-6)
    loose = {
        "euler": 3e-3, "semi_implicit_euler": 3e-3, "fehlberg2": 3e-4, "rosenbrock23": 1e-4,
        "trbdf2": 3e-5, "implicit_euler": 3e-3, "rkc2": 3e-4, "sdirk2": 1e-4,
        "kencarp5": 2e-4,  # its dense output has order 3, inside of steps of order 5
    }  # fmt: skip
    _, flow = linear(name)
    sol = jitted(name)(Y0, ts, LINEAR, options_of(name, *tolerances, dt=1e-3))
    expected = flow(ts - 1.0, Y0, 1.0)
    limit = loose.get(name, 1e-5)
    np.testing.assert_allclose(sol.ys, expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("name", few(sorted(set(ADAPTIVE) - {"implicit_euler"}), *REPRESENTATIVES))
def test_reversed_times_return_to_the_start(name):
    loose = name in ("heun_euler", "fehlberg2", "trbdf2")
    rtol, atol = (1e-7, 1e-8) if loose else (1e-9, 1e-11)
    # Where solutions draw near each other, reversible solvers take tiny steps.
    end = 0.5 if SOLVERS[name]().reversible else 2.0
    ts, options = jnp.linspace(0.0, end, 33), options_of(name, rtol, atol)
    there = jitted(name)(Y0, ts, NONLINEAR, options)
    back = jitted(name)(there.y1, ts[::-1], NONLINEAR, options)
    # Each way errs by a few tolerances, those of a hundred steps that all err alike.
    np.testing.assert_allclose(back.y1, Y0, rtol=20 * rtol)


def test_time_reaches_the_field():
    sol = jo.solve(lambda t, y, args: jnp.cos(t) * y, 1.0, jnp.linspace(0.3, 4.0, 9), **TIGHT)
    expected = jnp.exp(jnp.sin(sol.ts) - jnp.sin(0.3))
    np.testing.assert_allclose(sol.ys, expected, rtol=1e-8)


def test_scalar_state_stays_scalar():
    sol = jo.solve(decay, 1.0, jnp.array([0.0, 1.0, 2.0]), **TIGHT)
    assert sol.ys.shape == (3,)
    assert sol.y1.shape == ()
    np.testing.assert_allclose(sol.ys, np.exp(-sol.ts), rtol=1e-8)


def test_complex_state_turns_in_the_plane():
    sol = jo.solve(rotation, jnp.array([1.0 + 0j, 2j]), jnp.linspace(0.0, 3.0, 7), **TIGHT)
    assert sol.ys.dtype == jnp.complex128
    assert sol.ts.dtype == jnp.float64
    expected = jnp.exp(1j * sol.ts)[:, None] * jnp.array([1.0, 2j])
    np.testing.assert_allclose(sol.ys, expected, rtol=1e-8)


def nested_state():
    return {
        "a": jnp.array([1.0, 2.0, 3.0]),
        "b": (jnp.array(0.5), {"c": jnp.arange(6.0).reshape(2, 3) + 1}),
    }


@pytest.mark.parametrize("save", ["ts", "steps", "dense"])
def test_pytree_state_comes_back_in_its_own_shapes(save):
    y0 = nested_state()
    sol = jo.solve(
        lambda t, y, args: jax.tree.map(jnp.negative, y), y0, (0.0, 0.5, 1.0), save=save, **TIGHT
    )
    assert jax.tree.structure(sol.ys) == jax.tree.structure(sol.y1) == jax.tree.structure(y0)
    for start, end, rows in zip(*map(jax.tree.leaves, (y0, sol.y1, sol.ys)), strict=True):
        assert rows.shape[1:] == end.shape == start.shape
        np.testing.assert_allclose(end, np.exp(-1.0) * start, rtol=1e-8)
        np.testing.assert_array_equal(rows[0], start)
    if save == "dense":
        middle = sol(jnp.array([[0.25, 0.5]]))
        assert middle["b"][1]["c"].shape == (1, 2, 2, 3)
        np.testing.assert_allclose(middle["a"][0, 1], np.exp(-0.5) * y0["a"], rtol=1e-8)


def test_real_and_complex_leaves_keep_their_dtypes_and_do_not_mix():
    y0 = {"real": jnp.array([1.0, 2.0]), "wave": jnp.array([[1.0 + 1j]])}

    def field(t, y, args):
        assert y["real"].dtype == jnp.float64
        return {"real": -y["real"], "wave": 2j * y["wave"]}

    sol = jo.solve(field, y0, (0.0, 0.4, 1.0), **TIGHT)
    assert sol.ys["real"].dtype == jnp.float64
    assert sol.ys["wave"].dtype == jnp.complex128
    np.testing.assert_allclose(sol.y1["real"], np.exp(-1.0) * y0["real"], rtol=1e-8)
    np.testing.assert_allclose(sol.y1["wave"], np.exp(2j) * y0["wave"], rtol=1e-8)


def solve_in_float32(name: str) -> tuple[Any, ...]:
    """Values, end state, times and dense output of a linear problem with rate 0.5."""
    linear_field, _ = linear(name)

    def field(t, y, args):
        assert (t.dtype, y.dtype, args.dtype) == (jnp.float32,) * 3
        return linear_field(t, y, args)

    y0, rate = jnp.ones(2, jnp.float32), jnp.float32(0.5)
    ts = jnp.linspace(0.0, 1.0, 4)
    sol = jo.solve(field, y0, ts, rate, solver=name, save="dense", **step_of(name))
    return sol.ys, sol.y1, sol.ts, sol(0.3)


KEPT = [jnp.float32, jnp.float32, jnp.float64, jnp.float32]  # times as they were given


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_though_float64_is_enabled(name):
    shapes = jax.eval_shape(lambda: solve_in_float32(name))
    assert [x.dtype for x in shapes] == KEPT


@pytest.mark.parametrize("name", few(FAMILIES, "tsit5", "rk4", "kvaerno5", "bdf"))
def test_a_float32_solve_follows_the_closed_form(name):
    found = jax.jit(lambda: solve_in_float32(name))()
    assert [x.dtype for x in found] == KEPT
    expected = linear(name)[1](1.0, jnp.ones(2, jnp.float32), jnp.float32(0.5))
    loose = {"euler": 2e-2, "semi_implicit_euler": 5e-2, "fehlberg2": 5e-3, "implicit_euler": 5e-3}
    np.testing.assert_allclose(found[1], expected, rtol=loose.get(name, 1e-3))


def test_float32_state_takes_a_python_number_in_the_field_and_args():
    sol = jo.solve(lambda t, y, k: -k * 1.0 * y, jnp.ones(2, jnp.float32), (0, 1), 0.5)
    assert sol.y1.dtype == sol.ts.dtype == jnp.float32


def test_integer_times_are_welcome():
    sol = jo.solve(decay, Y0, (0, 1, 2), **TIGHT)
    np.testing.assert_allclose(sol.ys[:, 0], np.exp(-np.arange(3.0)), rtol=1e-8)


def test_rows_that_were_not_reached_are_nan():
    ts = jnp.linspace(0.0, 2.0, 21)
    sol = jo.solve(decay, Y0, ts, solver="rk4", dt=0.1, max_steps=7, throw=False)
    assert sol.status == jo.Status.MAX_STEPS
    np.testing.assert_allclose(sol.stats.t_reached, 0.7)
    assert np.all(np.isfinite(sol.ys[:7]))
    assert np.all(np.isnan(sol.ys[8:]))
    assert np.all(np.isnan(sol.y1))


def test_every_step_is_kept_and_the_rest_is_nan():
    sol = jo.solve(lotka_volterra, Y0, (0.0, 2.0), save="steps", max_steps=200)
    count = int(sol.stats.num_accepted)
    assert sol.ts.shape == (201,)
    assert sol.ys.shape == (201, 2)
    assert (sol.ts[0], sol.ts[count]) == (0.0, 2.0)
    assert np.all(np.diff(sol.ts[: count + 1]) > 0)
    np.testing.assert_array_equal(sol.ys[0], Y0)
    np.testing.assert_array_equal(sol.ys[count], sol.y1)
    assert np.all(np.isnan(sol.ts[count + 1 :]))
    assert np.all(np.isnan(sol.ys[count + 1 :]))
    longer = jo.solve(lotka_volterra, Y0, sol.ts[: count + 1])
    np.testing.assert_allclose(sol.ys[: count + 1], longer.ys, rtol=1e-13)


def test_rejected_last_step_leaves_no_row():
    sol = jo.solve(
        lambda t, y, args: y**2, 1.0, (0.0, 2.0), save="steps", throw=False, max_steps=60
    )
    count = int(sol.stats.num_accepted)
    assert sol.stats.num_rejected > 0
    assert np.all(np.isnan(sol.ts[count + 1 :]))
    assert np.all(np.isfinite(sol.ys[: count + 1]))


def test_rejected_steps_leave_no_dense_output():
    sol = jo.solve(
        lambda t, y, args: 50 * (jnp.cos(20 * t) - y), 0.0, (0.0, 2.0), save="dense", dt=0.5,
        rtol=1e-6, throw=False, max_steps=3,
    )  # fmt: skip
    assert sol.stats.num_rejected == 3
    np.testing.assert_array_equal(sol(jnp.array([0.0, 1e-6, 0.01])), [0.0, np.nan, np.nan])


@pytest.mark.parametrize("name", few(NAMES, *REPRESENTATIVES[::2], "dopri8", "rodas5p"))
def test_dense_output_agrees_with_values_saved_at_times(name):
    for direction in (1.0, -1.0) if name in ("rk4", "tsit5") else (1.0,):
        problem = Y0, direction * jnp.linspace(0.0, 2.0, 33), NONLINEAR, options_of(name)
        kept = jitted(name)(*problem)
        dense, at_times, at_a_time = jitted(name, "dense")(*problem)
        assert kept.success
        np.testing.assert_allclose(dense.ys, kept.ys, rtol=1e-12)
        np.testing.assert_allclose(at_times, kept.ys, rtol=1e-12)
        np.testing.assert_allclose(at_a_time, kept.ys[5], rtol=1e-12)
        np.testing.assert_allclose(dense.y1, kept.y1, rtol=1e-12)


def test_dense_output_outside_the_solve_is_nan():
    sol = jo.solve(decay, Y0, (1.0, 2.0), save="dense")
    values = sol(jnp.array([0.9, 1.0, 1.5, 2.0, 2.1, jnp.nan]))
    finite = np.all(np.isfinite(values), axis=-1)
    np.testing.assert_array_equal(finite, [False, True, True, True, False, False])


def test_dense_output_of_a_solve_that_stopped_ends_where_it_did():
    sol = jo.solve(
        decay, Y0, (0.0, 2.0), solver="rk4", dt=0.1, max_steps=7, save="dense", throw=False
    )
    assert np.all(np.isfinite(sol(0.65)))
    assert np.all(np.isnan(sol(0.75)))


def test_a_function_of_the_state_is_saved_in_its_place():
    def energy(t, y, args):
        return {"sum": jnp.sum(y), "when": t, "scaled": args * y}

    ts = jnp.linspace(0.0, 1.0, 5)
    sol = jo.solve(decay, Y0, ts, 3.0, save=energy, **TIGHT)
    states = jo.solve(decay, Y0, ts, 3.0, **TIGHT)
    np.testing.assert_allclose(sol.ys["sum"], states.ys.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(sol.ys["scaled"], 3 * states.ys, rtol=1e-14)
    np.testing.assert_array_equal(sol.ys["when"], ts)
    np.testing.assert_allclose(sol.y1, states.y1, rtol=1e-14)


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_a_saved_function_may_return_integers_and_booleans(sensitivity):
    def flags(t, y, args):
        return jnp.int32(3), y[0] > 0.5

    sol = jo.solve(decay, Y0, (0.0, 0.2, 2.0), save=flags, sensitivity=sensitivity)
    np.testing.assert_array_equal(sol.ys[0], [3, 3, 3])
    np.testing.assert_array_equal(sol.ys[1], [True, True, False])


def test_names_of_other_libraries_find_the_same_solvers():
    for theirs, ours in [
        ("heun2", "heun"),
        ("adaptive_heun", "heun_euler"),
        ("rk45", "dopri5"),
        ("rk23", "bosh3"),
        ("dop853", "dopri8"),
        ("DOPRI5", "dopri5"),
        ("leapfrog", "stormer_verlet"),
        ("velocity_verlet", "stormer_verlet"),
    ]:
        field, step = nonlinear(ours), step_of(ours)
        one, two = (jo.solve(field, Y0, (0, 1), solver=name, **step) for name in (theirs, ours))
        np.testing.assert_array_equal(one.y1, two.y1)


def test_solver_objects_and_names_are_the_same():
    for name in NAMES:
        found = SOLVERS[name]()
        assert type(getattr(jo, type(found).__name__)()) is type(found)


def test_resnet_is_euler_to_rounding():
    blocks = 7
    func = eqx.nn.MLP(3, 3, 8, 1, activation=jax.nn.tanh, key=jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (3,))

    @jax.jit
    def resnet(x):
        return jax.lax.fori_loop(0, blocks, lambda _, y: y + func(y), x)

    sol = jo.solve(lambda t, y, args: func(y), x, (0.0, blocks), solver="euler", dt=1.0)
    assert sol.stats.num_steps == blocks
    np.testing.assert_allclose(sol.y1, resnet(x), rtol=0, atol=1e-14)


def test_solution_passes_through_jit_and_tree_map():
    sol = jax.jit(lambda y: jo.solve(decay, y, (0.0, 1.0), save="dense"))(Y0)
    doubled = jax.tree.map(lambda x: x, sol)
    np.testing.assert_array_equal(doubled(0.5), sol(0.5))
