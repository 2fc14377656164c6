"""A batch in one kernel, interpreted, against the same batch in tiles."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.sensitivity.discrete import rule_kernel
from tests.support.sweeps import few

N = 11  # one block of eight lanes, and another that is filled up
RHO = jnp.linspace(1.0, 21.0, N)
Y0 = jnp.array([1.0, 0.2, 0.0])
TS = jnp.linspace(0.0, 1.0, 6)
BOTH = (None, None, 0)


def lorenz(t, y, rho):
    x, y, z = y
    return jnp.stack([10.0 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z])


def pendulum(t, y, args):
    return y[1], -args * jnp.sin(y[0])


def solve(kernel: bool, f: Any = lorenz, y0: Any = Y0, ts: Any = TS, args: Any = RHO, **options):
    options = {"in_axes": BOTH, "max_steps": 300, "lanes": 8, **options}
    return jo.solve_batch(f, y0, ts, args, kernel=kernel, **options)


def close(got: Any, expected: Any, rtol: float = 1e-10) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol), got, expected)


def sum_and_pair(t, y, args):
    return {"sum": args * jnp.sum(y), "pair": t * y[:2]}


# Steps of a size that is given leave nothing to rounding but the numbers themselves.
FIXED: dict[str, dict[str, Any]] = {
    "ends": {"ts": (0.0, 1.0)},
    "values": {"solver": "bosh3"},
    "times of their own": {
        "ts": jnp.outer(jnp.arange(N) / 5, TS),
        "in_axes": (None, 0, 0),
        "solver": "bosh3",
    },
    "starts of their own": {
        "y0": Y0 + jnp.arange(N)[:, None] / 9,
        "in_axes": (0, None, 0),
        "solver": "bosh3",
    },
    "a function": {"save": sum_and_pair, "solver": "bosh3"},
    "dense stages": {"solver": "rk4"},
    "more dense stages": {"solver": "dopri8"},
    "a linear system": {"solver": "rosenbrock23"},
    "a tree": {"f": pendulum, "y0": (jnp.ones(2), jnp.zeros(2)), "solver": "yoshida4"},
    "a state kept twice": {"solver": "reversible_heun", "ts": TS * 0.3},
}
# The times that the case "values" is solved at.
SPANS = {
    "forwards": TS,
    "backwards": TS[::-1] * 0.3,
    "times repeated": jnp.array([0.0, 0.0, 0.3, 0.3, 0.8, 0.8]),
    "no time": jnp.zeros(6),
}


@functools.cache
def jitted(name: str, kernel: bool) -> Callable:
    """The solution of a case for `(y0, rho)` and times."""
    options = {"controller": jo.Fixed(0.04), **FIXED[name], "kernel": kernel}

    def solution(point, ts):
        return solve(**{**options, "y0": point[0], "ts": ts, "args": point[1]})

    return jax.jit(solution)


@functools.cache
def gradient(name: str, kernel: bool) -> Callable:
    """The gradient of a case by `(y0, rho)`, and its solution."""

    def loss(point, ts):
        sol = jitted(name, kernel)(point, ts)
        return sum(jnp.sum(jnp.sin(x + 1)) for x in jax.tree.leaves((sol.ys, sol.y1))), sol

    return jax.jit(jax.grad(loss, has_aux=True))


def problem(name: str, span: str) -> tuple[Any, Any]:
    ts = SPANS[span] if name == "values" else FIXED[name].get("ts", TS)
    return (FIXED[name].get("y0", Y0), RHO), ts


PROBLEMS = [(name, "") for name in FIXED if name != "values"] + [("values", span) for span in SPANS]


@pytest.mark.parametrize(
    ("name", "span"),
    few(PROBLEMS, *(("values", span) for span in SPANS)),
)
def test_a_kernel_and_its_gradient_are_those_of_tiles(name, span):
    """The solution of the kernel that writes no log, and of the one that writes one."""
    given = problem(name, span)
    expected, tiles = gradient(name, False)(*given)
    found, logged = gradient(name, True)(*given)
    assert np.linalg.norm(jax.tree.leaves(expected)[0]) > 1e-3
    close(found, expected)
    for kernel in (jitted(name, True)(*given), logged):
        assert (tiles.stats.engine, kernel.stats.engine) == ("xla", "kernel")
        np.testing.assert_array_equal(kernel.status, tiles.status)
        close((kernel.ts, kernel.ys, kernel.y1), (tiles.ts, tiles.ys, tiles.y1))
        close(kernel.stats.t_reached, tiles.stats.t_reached)
        for count in ("num_steps", "num_accepted", "num_evaluations"):
            np.testing.assert_array_equal(getattr(kernel.stats, count), getattr(tiles.stats, count))


ADJOINT: dict[str, dict[str, Any]] = {
    "ends": {"ts": (0.0, 0.5), "solver": "bosh3"},
    "values": {"solver": "bosh3"},
    "a function": {"save": sum_and_pair, "solver": "bosh3"},
    "one equation": {"sensitivity": jo.Continuous("backsolve", restarts=0)},
    "a linear system": {"solver": "rosenbrock23", "ts": (0.0, 0.3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", few(ADJOINT, "values"))
def test_adjoint_equations_in_a_kernel(name):
    options = {
        "sensitivity": jo.Continuous(restarts=0),
        "controller": jo.Fixed(0.02),
        **ADJOINT[name],
    }

    def loss(kernel):
        def value(point, ts):
            sol = solve(
                kernel, lambda t, y, a: point[2] * lorenz(t, y, a), point[0], ts, point[1],
                **options,
            )  # fmt: skip
            return sum(jnp.sum(jnp.sin(x + 1)) for x in jax.tree.leaves((sol.ys, sol.y1)))

        return jax.jit(jax.grad(value))

    times = [options.pop("ts", TS)]
    if name == "values":
        times.append(TS[::-1] * 0.3)
    tiles, kernel = loss(False), loss(True)
    for ts in times:
        expected = tiles((Y0, RHO, jnp.asarray(0.7)), ts)
        assert min(np.linalg.norm(x) for x in expected) > 1e-3
        close(kernel((Y0, RHO, jnp.asarray(0.7)), ts), expected)


@pytest.mark.parametrize(
    ("solver", "dtype"),
    few(
        [(s, dtype) for s in ("tsit5", "vern7", "rodas5p") for dtype in (jnp.float32, jnp.float64)],
        ("tsit5", jnp.float32),
    ),
)
def test_adaptive_steps(solver, dtype):
    options = {"solver": solver, "y0": Y0.astype(dtype), "args": RHO.astype(dtype)}
    tiles, kernel = (solve(flag, ts=TS.astype(dtype), **options) for flag in (False, True))
    assert kernel.ys.dtype == dtype
    np.testing.assert_array_equal(kernel.status, tiles.status)
    close(kernel.ys, tiles.ys, 1e-6 if dtype == jnp.float64 else 1e-3)
    assert len(np.unique(kernel.stats.num_steps)) > 1
    # In float32 rounding decides which steps are just rejected.
    if dtype == jnp.float64:
        np.testing.assert_array_equal(kernel.stats.num_steps, tiles.stats.num_steps)
    np.testing.assert_allclose(kernel.stats.num_accepted, tiles.stats.num_accepted, atol=2)


def blowing_up(t, y, rate):
    return rate * y**2


@pytest.mark.parametrize("parts", few([1, 3], 3))
def test_gradients_of_what_is_shared_are_summed(monkeypatch, parts):
    """`parts`: whether the trace of all trajectories fits, or of one block after the other."""
    if parts > 1:
        monkeypatch.setattr(rule_kernel, "TRACE_BYTES", 8 * 300 * 5 * 8)
    y0 = Y0 + jnp.arange(N)[:, None] / 10
    weights = jax.random.normal(jax.random.key(0), (3, 3))

    def loss(weights, y0, kernel):
        field = lambda t, y, a: jnp.tanh(a @ y) - y  # noqa: E731
        axes = (0, None, None)
        sol = solve(kernel, field, y0, args=weights, in_axes=axes, solver="bosh3", **FIX)
        return jnp.mean(sol.ys**3)

    run = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    tiles, kernel = (run(weights, y0, flag) for flag in (False, True))
    close(kernel, tiles)


FIX: dict[str, Any] = {"controller": jo.Fixed(0.1)}


def test_a_trajectory_that_fails_is_nan_and_leaves_the_rest_alone():
    y0 = jnp.linspace(0.1, 1.85, N)[:, None]

    def loss(y0, kernel):
        sol = solve(kernel, blowing_up, y0, args=1.0, in_axes=(0, None, None))
        return jnp.sum(jnp.where(jnp.isnan(sol.ys), 0, sol.ys)), sol

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    tiles, kernel = (run(y0, flag) for flag in (False, True))
    failed = np.asarray(kernel[1].status) != jo.Status.SUCCESS
    assert 0 < failed.sum() < N
    np.testing.assert_array_equal(kernel[1].status, tiles[1].status)
    np.testing.assert_array_equal(np.isnan(kernel[1].ys), np.isnan(tiles[1].ys))
    close(kernel[1].ys, tiles[1].ys, 1e-6)
    # What a trajectory reached before it failed has its gradient.
    assert np.all(np.isfinite(kernel[0]))
    close(kernel[0], tiles[0], 1e-5)
    slopes = 1 / (1 - y0 * np.where(np.isnan(kernel[1].ys[..., 0]), np.nan, TS)) ** 2
    np.testing.assert_allclose(kernel[0][:, 0], np.nansum(slopes, axis=1), rtol=2e-2)


def test_times_out_of_order_have_their_status():
    sol = jitted("values", True)((Y0, RHO), jnp.array([0.0, 0.6, 0.3, 1.0, 1.0, 1.0]))
    assert np.all(np.asarray(sol.status) == jo.Status.BAD_TIMES)


@pytest.mark.parametrize("sign", few([1, -1], -1))
def test_steps_that_run_out(sign):
    options: dict[str, Any] = {"ts": sign * TS, "max_steps": 5, "solver": "bosh3"}
    tiles, kernel = (solve(flag, **options) for flag in (False, True))
    assert np.all(np.asarray(kernel.status) == jo.Status.MAX_STEPS)
    close(kernel.ys, tiles.ys, 1e-6)
    assert np.isnan(np.asarray(kernel.ys)[:, -1]).all()


@pytest.mark.slow
def test_it_works_in_jit_and_for_many_batches():
    options: dict[str, Any] = {"solver": "bosh3", **FIX}
    sols = jax.jit(jax.vmap(lambda y0: solve(True, y0=y0, **options).y1))(jnp.stack([Y0, 2 * Y0]))
    close(sols[1], solve(False, y0=2 * Y0, **options).y1)


@pytest.mark.slow
def test_closures_tolerances_of_their_own_and_lanes_that_are_no_power_of_two():
    bend = jnp.array([0.3, -0.2, 0.1])

    def field(t, y, args):
        return args * jnp.sin(bend * t) - y

    options: dict[str, Any] = {"in_axes": (None, None, 0, 0, None), "lanes": 11}
    options["rtol"] = 10.0 ** -jnp.linspace(3, 6, N)
    tiles, kernel = (solve(flag, field, **options) for flag in (False, True))
    close(kernel.ys, tiles.ys, 1e-6)
    steps = np.asarray(kernel.stats.num_steps)
    assert steps[-1] > steps[0]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [False, True])
def test_the_order_of_work_changes_no_result(kernel):
    work = jnp.cos(jnp.arange(N))

    def loss(rho, work):
        sol = solve(kernel, args=rho, work=work, solver="bosh3", **FIX)
        return jnp.sum(jnp.arange(N)[:, None, None] * sol.ys), sol

    run = jax.jit(jax.grad(loss, has_aux=True))
    plain, sorted_ = (run(RHO, w) for w in (None, work))
    close(sorted_[0], plain[0])
    close(sorted_[1].ys, plain[1].ys)
    np.testing.assert_array_equal(sorted_[1].stats.num_steps, plain[1].stats.num_steps)


@pytest.mark.slow
def test_those_that_take_long_share_a_block():
    """Every second trajectory takes ten times the steps of the others."""
    span = jnp.where(jnp.arange(16) % 2, 1.0, 0.1)
    ts = span[:, None] * jnp.array([0.0, 1.0])
    options: dict[str, Any] = {
        "args": 5.0,
        "in_axes": (None, 0, None),
        "controller": jo.Fixed(0.01),
        "solver": "bosh3",
    }
    sols = [solve(True, ts=ts, work=work, **options) for work in (None, span)]
    shares = [float(np.asarray(sol.stats.useful_share)) for sol in sols]
    assert shares[0] < 0.6
    assert shares[1] == 1.0
