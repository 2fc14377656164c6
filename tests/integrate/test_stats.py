"""The counts of a solve against a counter inside the field; times that land and do not drift."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.registry import FAMILIES, REPRESENTATIVES, step_of
from tests.support.sweeps import few

Y0 = jnp.array([1.0, 0.5])
TIMES: list[float] = []
END = 2.0


def note(t):
    TIMES.append(float(t))  # in one operation: two threads may be here at once


def counted(t, y, args):
    jax.debug.callback(note, t)
    return jnp.stack([y[1], -3 * y[0] * jnp.cos(t)])


def calls_of(**options):
    TIMES.clear()
    sol = jax.block_until_ready(jo.solve(counted, Y0, **options))
    jax.effects_barrier()
    # A field is tried at times after the end before it is used there: the two count as one.
    return sum(0.5 if t > END + 1e-6 else 1 for t in TIMES), sol.stats


MODES = ("ends", "inside", "dense")


@pytest.mark.parametrize(
    ("name", "mode"),
    few(
        product(FAMILIES, MODES),
        *product(REPRESENTATIVES, ["inside"]),
        *product(["tsit5", "dopri8", "bdf"], MODES),
    ),
)
def test_field_calls_are_counted_to_the_last_one(name, mode):
    ts = jnp.array([0.0, 0.3, 0.31, 0.7, END]) if mode == "inside" else (0.0, END)
    options = {"rtol": 1e-3, **step_of(name, 0.11)}
    called, stats = calls_of(
        ts=ts, solver=name, save="dense" if mode == "dense" else "ts", **options
    )
    assert stats.num_evaluations == called
    assert stats.num_accepted + stats.num_rejected == stats.num_steps


@pytest.mark.parametrize("name", few(["tsit5", "dopri8", "heun_euler"], "dopri8"))
def test_field_calls_with_a_given_first_step_and_with_fixed_steps(name):
    for step in ({"dt": 0.9}, {"controller": jo.Fixed(0.3)}):
        called, stats = calls_of(ts=(0.0, 2.0), solver=name, **step)
        assert stats.num_evaluations == called


def test_rejected_steps_are_counted():
    called, stats = calls_of(ts=(0.0, 2.0), solver="tsit5", dt=2.0, rtol=1e-8, atol=1e-10)
    assert stats.num_rejected > 0
    assert stats.num_evaluations == called


def test_no_time_to_cross_counts_no_steps():
    called, stats = calls_of(ts=(1.0, 1.0), solver="tsit5")
    assert stats.num_evaluations == called
    assert stats.num_steps == 0


@pytest.mark.parametrize("dt", [0.1, 0.3, 1.0])
def test_fixed_steps_land_on_the_last_time_in_the_fewest_steps(dt):
    sol = jo.solve(counted, Y0, (0.0, 1.0), solver="rk4", dt=dt, save="steps", max_steps=16)
    number = int(np.ceil(1.0 / dt - 1e-9))
    assert sol.stats.num_steps == number
    assert sol.ts[number] == 1.0
    assert sol.stats.t_reached == 1.0
    np.testing.assert_allclose(np.diff(sol.ts[:number]), dt, rtol=1e-14)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_grid_lands_on_each_of_its_times(sign):
    grid = sign * jnp.array([0.1, 0.15, 0.4, 0.41, 1.1])
    sol = jo.solve(
        counted, Y0, grid[jnp.array([0, -1])], solver="tsit5", controller=jo.Grid(grid),
        save="steps", max_steps=8,
    )  # fmt: skip
    assert sol.stats.num_steps == 4
    np.testing.assert_allclose(sol.ts[:5], grid, rtol=1e-15)
    assert sol.ts[4] == grid[-1]


def test_grid_takes_python_lists_and_fixed_solvers():
    grid: Any = [0.0, 0.5, 1.0]
    sol = jo.solve(lambda t, y, args: -y, Y0, (0.0, 1.0), solver="euler", controller=jo.Grid(grid))
    np.testing.assert_allclose(sol.y1, 0.25 * Y0)


def test_a_long_float32_solve_does_not_drift_in_time():
    """After 100,000 steps of 1/1000 a sum in float32 would be off by seconds."""
    dt = np.float32(1e-3)
    sol = jax.jit(
        lambda y: jo.solve(
            lambda t, y, args: jnp.ones_like(y), y, (0.0, 99.9995), solver="euler", dt=dt,
            max_steps=100_001,
        )
    )(jnp.zeros((), jnp.float32))  # fmt: skip
    assert sol.ts.dtype == jnp.float32
    assert sol.success
    assert sol.stats.num_steps == 100_000


@pytest.mark.slow
def test_float32_field_sees_times_without_drift():
    dt = np.float32(1e-3)
    steps = 60_000
    sol = jax.jit(
        lambda y: jo.solve(
            lambda t, y, args: jnp.ones_like(y), y, (0.0, 60.0), solver="euler", dt=dt,
            max_steps=steps + 1, save="steps",
        )
    )(jnp.zeros((), jnp.float32))  # fmt: skip
    expected = np.arange(steps - 1) * np.float64(dt)
    np.testing.assert_allclose(sol.ts[: steps - 1], expected, rtol=2e-7)
