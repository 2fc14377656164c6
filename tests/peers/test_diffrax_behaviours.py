"""What diffrax's tests guard and no other test here does: saves, states, steps, events, bars."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxode as jo

Y0 = jnp.array([1.0, 0.5])
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-11}


def decay(t, y, args):
    return -y


def forced(t, y, rate):
    return jnp.cos(t) - rate * y


# What is saved.


@pytest.mark.parametrize(("time", "end"), [(0.0, "start"), (1.0, "y1")])
def test_one_saved_time_at_an_end_of_the_solve_is_the_state_there(time, end):
    sol = jo.solve(decay, Y0, [time], t0=0.0, t1=1.0)
    assert sol.ys.shape == (1, 2)
    np.testing.assert_array_equal(sol.ys[0], Y0 if end == "start" else sol.y1)
    np.testing.assert_allclose(sol.y1, np.exp(-1.0) * Y0, rtol=1e-4)


def test_more_saved_times_than_steps():
    ts = jnp.linspace(0.0, 1.0, 301)
    sol = jo.solve(lambda t, y: 1 + t + 0 * y, 0.0, ts, solver="rk4", dt=0.25, max_steps=4)
    assert sol.stats.num_steps == 4
    np.testing.assert_allclose(sol.ys, ts + ts**2 / 2, atol=1e-14)


def test_dense_output_begins_and_ends_with_the_saved_states():
    sol = jo.solve(decay, Y0, (0.0, 1.0), save="dense", max_steps=64)
    np.testing.assert_array_equal(sol(0.0), Y0)
    np.testing.assert_allclose(sol(1.0), sol.y1, rtol=1e-14)


def test_dense_output_is_mapped_over_times():
    sol = jo.solve(decay, Y0, (0.0, 1.0), save="dense", max_steps=64)
    ts = jnp.linspace(0.0, 1.0, 7)
    np.testing.assert_allclose(jax.vmap(sol)(ts), sol(ts), rtol=1e-14)


def test_several_values_are_saved_by_one_function():
    def both(t, y, args):
        return {"first": y[0], "size": (jnp.sum(y**2), t)}

    sol = jo.solve(decay, Y0, (0.0, 0.5, 1.0), save=both, **TIGHT)
    np.testing.assert_allclose(sol.ys["first"], np.exp(-sol.ts), rtol=1e-8)
    np.testing.assert_allclose(sol.ys["size"][0], 1.25 * np.exp(-2 * sol.ts), rtol=1e-8)
    np.testing.assert_array_equal(sol.ys["size"][1], sol.ts)


# States.


class Pair(eqx.Module):
    q: Array
    p: Array
    unit: str = eqx.field(static=True, default="metres")


def test_a_module_is_a_state():
    start = Pair(jnp.array(1.0), jnp.array(0.0))
    sol = jo.solve(lambda t, y: Pair(y.p, -y.q), start, (0.0, 0.5, 1.0), **TIGHT)
    assert isinstance(sol.y1, Pair) and sol.y1.unit == "metres"
    np.testing.assert_allclose([sol.y1.q, sol.y1.p], [np.cos(1), -np.sin(1)], rtol=1e-8)
    assert sol.ys.q.shape == (3,)


def test_none_in_a_state_stays_none():
    sol = jo.solve(lambda t, y: {"a": -y["a"], "b": None}, {"a": Y0, "b": None}, (0.0, 1.0))
    assert sol.y1["b"] is None and sol.ys["b"] is None
    np.testing.assert_allclose(sol.y1["a"], np.exp(-1.0) * Y0, rtol=1e-4)


def test_single_precision_needs_no_promotion():
    y0, rate = Y0.astype(jnp.float32), jnp.float32(2.0)
    with jax.numpy_dtype_promotion("strict"):
        sol = jo.solve(lambda t, y, k: -k * y, y0, (0.0, 1.0), rate, save="dense", max_steps=64)
        middle = sol(0.5)
    assert sol.y1.dtype == middle.dtype == jnp.float32
    np.testing.assert_allclose(middle, np.exp(-1.0) * Y0, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "error"),
    [("float16", 0.01, 2e-3), ("bfloat16", 0.1, 1e-2), ("complex64", 1e-4, 1e-4)],
)
def test_a_state_of_low_precision_keeps_it(dtype, tolerance, error):
    y0 = Y0.astype(dtype)
    sol = jo.solve(decay, y0, (0.0, 1.0), rtol=tolerance, atol=tolerance)
    assert sol.y1.dtype == y0.dtype and sol.stats.num_steps < 10
    np.testing.assert_allclose(np.abs(sol.y1), np.exp(-1.0) * Y0, atol=error)


# Steps.


def test_backwards_in_time_is_forwards_with_the_mirrored_field():
    def mirrored(t, y, rate):
        return -forced(-t, y, rate)

    there = jo.solve(forced, Y0, (0.5, 2.0), 1.3)
    back = jo.solve(mirrored, Y0, (-0.5, -2.0), 1.3)
    np.testing.assert_allclose(back.y1, there.y1, rtol=1e-14)
    assert back.stats.num_steps == there.stats.num_steps


@pytest.mark.parametrize("most", [3, 4])
def test_as_many_steps_as_are_needed_are_enough(most):
    sol = jo.solve(decay, Y0, (0.0, 1.0), solver="rk4", dt=0.25, max_steps=most, throw=False)
    assert sol.status == (jo.Status.SUCCESS if most == 4 else jo.Status.MAX_STEPS)


def test_a_solve_without_compilation():
    with jax.disable_jit():
        sol = jo.solve(lambda t, y: -y, 1.0, (0.0, 1.0), solver="rk4", dt=0.5)
    h = 0.5
    np.testing.assert_allclose(sol.y1, (1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24) ** 2, rtol=1e-14)


def test_a_step_that_becomes_nan_is_taken_again_with_a_smaller_size():
    sol = jo.solve(
        lambda t, y: jnp.where(y < 0, jnp.nan, -50 * y), jnp.ones(1), (0.0, 0.1, 1.0), dt=1.0,
        rtol=1e-6, atol=1e-9,
    )  # fmt: skip
    assert sol.stats.num_rejected > 0
    np.testing.assert_allclose(sol.ys[1], np.exp(-5.0), rtol=1e-4)


def test_a_step_ends_once_where_a_jump_and_a_step_time_coincide():
    sol = jo.solve(
        lambda t, y: jnp.where(t < 0.5, 1.0, -2.0) + 0 * y, 0.0, (0.0, 1.0),
        controller=jo.PID(step_ts=[0.25, 0.5]), jumps=[0.5], save="steps", max_steps=32,
    )  # fmt: skip
    ts = np.asarray(sol.ts)
    assert np.sum(ts == 0.25) == np.sum(ts == 0.5) == 1
    np.testing.assert_allclose(sol.y1, -0.5, rtol=1e-12)


def test_implicit_steps_of_a_given_size_need_no_tolerance():
    sol = jo.solve(decay, Y0, (0.0, 1.0), solver="implicit_euler", controller=jo.Fixed(0.25))
    np.testing.assert_allclose(sol.y1, Y0 / 1.25**4, rtol=1e-12)


def test_a_solver_is_an_argument_of_a_compiled_function():
    run = eqx.filter_jit(lambda solver, y0: jo.solve(decay, y0, (0.0, 1.0), solver=solver).y1)
    expected = jo.solve(decay, Y0, (0.0, 1.0), solver="bosh3").y1
    np.testing.assert_allclose(run(jo.Bosh3(), Y0), expected, rtol=1e-14)


# Derivatives.


@pytest.mark.parametrize(
    "options", [{"solver": "kvaerno3"}, {"sensitivity": "adjoint"}], ids=["implicit", "adjoint"]
)
def test_what_a_field_closes_over_is_differentiated(options):
    def end(rate):
        return jo.solve(lambda t, y: -rate * y, 1.0, (0.0, 1.0), rtol=1e-8, atol=1e-8, **options).y1

    np.testing.assert_allclose(jax.jit(jax.grad(end))(2.0), -np.exp(-2.0), rtol=1e-5)


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_a_loss_that_leaves_the_solution_out_has_a_gradient_of_zero(sensitivity):
    def loss(y0, rate):
        sol = jo.solve(forced, y0, (0.0, 1.0), rate, sensitivity=sensitivity)
        return jnp.sum(y0**2), sol.y1

    (by_y0, by_rate), _ = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(Y0, 1.3)
    np.testing.assert_array_equal(by_y0, 2 * Y0)
    assert by_rate == 0.0


# Events.


def level(place: int = 0) -> jo.Event:
    """Ends a solve where the first component crosses a level of `args`."""
    return jo.Event(lambda t, y, levels: y[0] - levels[place], terminal=True)


def test_steps_are_saved_up_to_a_terminal_event():
    sol: Any = jo.solve(
        decay, Y0, (0.0, 3.0), (0.5,), events=level(), save="steps", max_steps=64, **TIGHT
    )
    last = int(sol.stats.num_accepted)
    np.testing.assert_allclose(sol.ts[last], np.log(2.0), rtol=1e-8)
    np.testing.assert_allclose(sol.ys[last], [0.5, 0.25], rtol=1e-8)
    assert np.all(np.isnan(sol.ts[last + 1 :])) and np.all(np.isnan(sol.ys[last + 1 :]))


def test_an_event_that_never_occurs_changes_nothing():
    sol: Any = jo.solve(decay, Y0, (0.0, 1.0), (-1.0,), events=level())
    plain = jo.solve(decay, Y0, (0.0, 1.0))
    assert sol.events.count == 0 and not sol.events.terminated
    assert sol.stats.num_steps == plain.stats.num_steps
    np.testing.assert_allclose(sol.y1, plain.y1, rtol=1e-14)


@pytest.mark.parametrize("levels", [(0.6, 0.3), (0.3, 0.6)])
def test_of_two_terminal_events_the_earlier_ends_the_solve(levels):
    sol: Any = jo.solve(decay, Y0, (0.0, 3.0), levels, events=[level(0), level(1)], **TIGHT)
    assert sol.events.count == 1 and sol.events.index[0] == levels.index(0.6)
    np.testing.assert_allclose(sol.stats.t_reached, -np.log(0.6), rtol=1e-8)


def test_the_time_of_an_event_is_differentiated_by_what_its_condition_closes_over():
    def time(bound):
        event = jo.Event(lambda t, y: y[0] - bound, terminal=True)
        return jo.solve(decay, Y0, (0.0, 3.0), events=event, **TIGHT).stats.t_reached

    np.testing.assert_allclose(jax.jit(jax.grad(time))(0.5), -2.0, rtol=1e-7)


# Progress bars.


@pytest.mark.parametrize("compiled", [False, True])
def test_a_progress_bar_reaches_the_end(compiled, capsys):
    def run(y0):
        return jo.solve(decay, y0, (0.0, 2.0), solver="rk4", dt=0.5, progress=True).y1

    jax.block_until_ready((jax.jit(run) if compiled else run)(Y0))
    jax.effects_barrier()
    bar = capsys.readouterr().err
    assert re.search(r"solve: 100%.*, t=2\]", bar)


@pytest.mark.parametrize(
    "options", [{"events": jo.Event(lambda t, y: t - 0.7, terminal=True)}, {"max_steps": 2}]
)
def test_a_progress_bar_is_closed_where_a_solve_ends_early(options, capsys):
    sol = jo.solve(
        decay, Y0, (0.0, 2.0), solver="rk4", dt=0.5, progress=True, throw=False, **options
    )
    jax.block_until_ready(sol.y1)
    jax.effects_barrier()
    last = "t=0.7]" if "events" in options else "t=1]"
    assert capsys.readouterr().err.endswith(last + "\n")


def test_a_progress_bar_of_a_batch_counts_trajectories(capsys):
    sols = jo.solve_batch(decay, jnp.ones((3, 2)), (0.0, 2.0), solver="rk4", dt=0.5, progress=True)
    jax.block_until_ready(sols.y1)
    jax.effects_barrier()
    assert "3/3" in capsys.readouterr().err


def test_a_solve_with_a_progress_bar_has_the_gradient_of_one_without(capsys):
    def end(y0, progress):
        return jo.solve(decay, y0, (0.0, 2.0), solver="rk4", dt=0.5, progress=progress).y1[0]

    with_bar, without = (jax.grad(end)(Y0, progress) for progress in (True, False))
    jax.effects_barrier()
    np.testing.assert_allclose(with_bar, without, rtol=1e-14)
    assert "solve: 100%" in capsys.readouterr().err
