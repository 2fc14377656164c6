"""Stabilised explicit steps: their stability, their order, their gradient, and how many."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.explicit import chebyshev, rkc
from tests.support.differences import assert_close, central
from tests.support.sweeps import few

STAGES = (2, 3, 4, 5, 10, 33, 100, 512)


@jax.jit
def increments(z, stages):
    one = jnp.ones((1, z.size), z.dtype)
    step = chebyshev.ChebyshevStep([z], 0 * z, 1 + 0 * z, one, z * one, stages)
    return chebyshev.increment(lambda t, y, z: z * y, step)


def grown(z, stages, dtype=jnp.float64):
    """The stability polynomials: the ends of steps of h = 1 of y' = z y, from y = 1, in lanes."""
    z, stages = (jnp.asarray(x, dtype) for x in (z, stages))
    return 1 + np.asarray(increments(z, stages), np.float64)[0]


@pytest.mark.parametrize("stages", STAGES)
def test_steps_are_stable_as_far_as_they_are_said_to_be(stages):
    z = -float(chebyshev.stability_limit(stages)) * np.append(np.linspace(0, 1, 1001), 1.5)
    sizes = np.abs(grown(z, np.full_like(z, stages)))
    (z, beyond), size = (z[:-1], sizes[-1]), sizes[:-1]
    assert np.all(size <= 1 + 1e-12)
    assert np.all(size[z < -3] < 0.96) or stages < 4
    assert beyond > 1
    assert chebyshev.stages_for(jnp.asarray(-0.999 * z[-1])) == stages
    assert chebyshev.stages_for(jnp.asarray(-1.001 * z[-1])) == stages + 1


@pytest.mark.parametrize(("dtype", "rounding"), [(jnp.float64, 1e-15), (jnp.float32, 1e-5)])
def test_steps_agree_with_the_exponential_to_order_two(dtype, rounding):
    """Also in single precision with many stages, and each lane with stages of its own."""
    stages = np.array(STAGES, float)
    z = np.full_like(stages, -0.01)
    defect = grown(z, stages, dtype) - (1 + z + z**2 / 2)
    # The third coefficient lies between zero and 0.102, and rises with the stages.
    assert np.all(np.abs(defect) <= 0.102 * np.abs(z) ** 3 + rounding)
    assert dtype == jnp.float32 or np.all(np.diff(-defect) > -1e-15)


def grid(n):
    return jnp.arange(1, n + 1) / (n + 1)


def laplacian(u, n):
    wide = jnp.pad(u, 1)
    return (wide[2:] - 2 * u + wide[:-2]) * (n + 1.0) ** 2


def heat(n):
    """u_t = u_xx - u^3 / 2 + g on `n` points, its solution, and its spectral radius."""
    shape = jnp.sin(jnp.pi * grid(n))
    eigenvalue = 4 * (n + 1) ** 2 * jnp.sin(jnp.pi / (2 * (n + 1))) ** 2

    def exact(t):
        return (1.5 + jnp.sin(3 * t)) * shape

    def field(t, u, args):
        source = 3 * jnp.cos(3 * t) * shape + eigenvalue * exact(t) + exact(t) ** 3 / 2
        return laplacian(u, n) - u**3 / 2 + source

    return field, exact, 4 * (n + 1.0) ** 2


def test_order_two_with_steps_far_beyond_what_explicit_methods_bear():
    field, exact, radius = heat(60)
    steps = np.array([56, 80, 112])

    @jax.jit
    def error(dt):
        sol = jo.solve(field, exact(0.0), (0.0, 1.0), solver="rkc2", controller=jo.Fixed(dt))
        return jnp.max(jnp.abs(sol.y1 - exact(1.0)))

    found = [error(1 / n) for n in steps]
    assert np.all(radius / steps > 100)
    assert abs(-np.polyfit(np.log(steps), np.log(found), 1)[0] - 2) < 0.1


@pytest.mark.parametrize("dtype", few([jnp.float64, jnp.float32], jnp.float64))
def test_far_fewer_steps_and_calls_than_an_explicit_pair(dtype):
    field, exact, _ = heat(100)
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4, "max_steps": 50_000}

    def typed(t, y, args):
        return field(t, y, args).astype(dtype)

    def run(solver):
        sol = jo.solve(
            typed, exact(0.0).astype(dtype), (0.0, 1.0), solver=solver, **options,
        )  # fmt: skip
        return np.max(np.abs(sol.y1 - exact(1.0))), sol.stats

    error, stats = run("rkc2")
    with pytest.warns(jo.StiffnessWarning):
        _, other = run("tsit5")
    assert error < 5e-4
    assert stats.num_rejected < 4
    assert 50 * stats.num_steps < other.num_steps
    assert 15 * stats.num_evaluations < other.num_evaluations


def brusselator(t, y, args):
    u, v = y
    n = u.size
    ends = jnp.zeros(n).at[0].set(1.0).at[-1].set(1.0) * (n + 1.0) ** 2
    return jnp.stack([
        1 + u**2 * v - 4 * u + (laplacian(u, n) + ends) / 50,
        3 * u - u**2 * v + (laplacian(v, n) + 3 * ends) / 50,
    ])  # fmt: skip


def test_the_error_follows_the_tolerance_on_a_reaction_with_diffusion():
    x = grid(60)
    y0 = jnp.stack([1 + jnp.sin(2 * jnp.pi * x), 3.0 + 0 * x])
    exact = jo.solve(brusselator, y0, (0.0, 10.0), solver="rodas5p", rtol=1e-9, atol=1e-9).y1

    @jax.jit
    def error(tolerance):
        sol = jo.solve(brusselator, y0, (0.0, 10.0), solver="rkc2", rtol=tolerance, atol=tolerance)
        return jnp.max(jnp.abs(sol.y1 - exact))

    tolerances = np.logspace(-3, -6, 4)
    found = np.array([error(x) for x in tolerances])
    # Steps go as tol^(1/3), and the error as their square; less fast while stages grow fewer.
    assert 0.45 < np.polyfit(np.log(tolerances), np.log(found), 1)[0] < 0.7
    assert np.all(found < tolerances ** (2 / 3))


def test_the_spectral_radius_is_bounded_from_the_first_step_on():
    n = 50
    field, exact, radius = heat(n)
    t, solver, packed = jnp.array(0.0), rkc.RKC2(), functools.partial(field, args=None)

    @jax.jit
    def longest_next(y):
        carry = solver.init(packed, t, y)
        return solver.step(packed, t, y, jnp.array(1e-3), carry, None).max_next_step

    starts = {"rough": jnp.sin(jnp.arange(n) ** 2.0), "smooth": exact(0.0), "zero": jnp.zeros(n)}
    for name, y in starts.items():
        bound = 0.9 * chebyshev.stability_limit(chebyshev.MAX_STAGES) / longest_next(y)
        assert 1.0 < bound / radius < 1.25, name


@pytest.mark.slow
def test_a_state_of_zeros_and_a_complex_one_are_stepped():
    field, _, _ = heat(30)
    options: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
    zero = jo.solve(field, jnp.zeros(30), (0.0, 0.5), solver="rkc2", **options)
    other = jo.solve(field, jnp.zeros(30), (0.0, 0.5), solver="rodas5p", **options)
    np.testing.assert_allclose(zero.y1, other.y1, atol=1e-4)
    wave = (1 + 2j) * jnp.sin(jnp.pi * grid(30))
    sol = jo.solve(lambda t, y, args: laplacian(y, 30), wave, (0.0, 0.1), solver="rkc2", **options)
    np.testing.assert_allclose(sol.y1, wave * jnp.exp(-0.1 * 9.8611), atol=2e-4)


@pytest.mark.slow
def test_a_spectral_radius_that_is_known_spares_the_search():
    """The same steps but for the margin; nothing is differentiated by it, nothing recompiled."""
    field, exact, radius = heat(60)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(radius, y0):
        solver = jo.RKC2(spectral_radius=radius)
        sol = jo.solve(field, y0, (0.0, 0.3), solver=solver, rtol=1e-4, atol=1e-4)
        return jnp.sum(sol.y1**2), (sol.y1, sol.stats)

    (_, (y1, stats)), (by_radius, by_state) = run(radius, exact(0.0))

    @functools.partial(jax.value_and_grad, has_aux=True)
    def searching(y0):
        sol = jo.solve(field, y0, (0.0, 0.3), solver="rkc2", rtol=1e-4, atol=1e-4)
        return jnp.sum(sol.y1**2), sol.stats

    (_, searched), expected = searching(exact(0.0))
    assert np.max(np.abs(y1 - exact(0.3))) < 5e-4
    assert stats.num_evaluations < searched.num_evaluations
    assert by_radius == 0
    np.testing.assert_allclose(by_state, expected, atol=2e-3 * np.max(np.abs(expected)))
    sols = jo.solve_batch(
        field, exact(0.0)[None] * jnp.ones((3, 1)), (0.0, 0.3), rtol=1e-4, atol=1e-4,
        solver=jo.RKC2(spectral_radius=radius),
    )  # fmt: skip
    np.testing.assert_allclose(sols.y1, jnp.broadcast_to(y1, (3, 60)), rtol=1e-9)
    np.testing.assert_array_equal(sols.stats.num_evaluations, stats.num_evaluations)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan"), np.ones(2)])
def test_a_spectral_radius_that_is_none_is_refused(radius):
    with pytest.raises(jo.OptionError, match="spectral_radius of RKC2 must be a positive number"):
        jo.RKC2(spectral_radius=radius)


def test_the_count_of_a_known_radius_is_of_calls():
    calls = []

    def field(t, y, args):
        jax.debug.callback(lambda: calls.append(1))
        return -args * y

    solver = jo.RKC2(spectral_radius=400.0)
    sol = jax.block_until_ready(jo.solve(field, 1.0, (0.0, 1.0), 400.0, solver=solver))
    jax.effects_barrier()
    assert sol.stats.num_evaluations == len(calls)


def test_steps_that_no_number_of_stages_makes_stable():
    """Fixed ones fail; of an adaptive solve they are bounded."""

    def stiff(t, y, args):
        return -args * (y - jnp.cos(t))

    rate = 1e7
    fixed = jo.solve(
        stiff, 1.0, (0.0, 1.0), rate, solver="rkc2", controller=jo.Fixed(0.1), throw=False
    )
    assert fixed.status == jo.Status.NOT_FINITE
    sol = jo.solve(stiff, 1.0, (0.0, 1.0), rate, solver="rkc2", rtol=1e-3, save="steps")
    assert sol.stats.num_rejected <= 4
    longest = np.nanmax(np.diff(sol.ts))
    assert 0.5 < longest * rate / chebyshev.stability_limit(chebyshev.MAX_STAGES) < 1.0
    np.testing.assert_allclose(sol.y1, np.cos(1.0), rtol=1e-3)


N = 20
QUERIES = jnp.array([0.21, 0.5])


def diffusion(t, u, k):
    """Diffusion that hangs on the state, 5 to 60 stages for the steps below."""
    wide = jnp.pad(u, 1)
    flux = k["d"] * (1 + 0.1 * jnp.tanh(wide[1:] + wide[:-1])) * jnp.diff(wide)
    return jnp.diff(flux) * (N + 1.0) ** 2 - k["r"] * u**3 + jnp.cos(3 * t)


def values(p, save: Any = "ts"):
    sol = jo.solve(
        diffusion, p["y0"], p["ts"], p["k"], solver="rkc2", controller=jo.Fixed(0.17), save=save,
        max_steps=16,
    )  # fmt: skip
    return sol(QUERIES) if save == "dense" else sol.ys


def point():
    x = grid(N)
    return {
        "y0": jnp.sin(jnp.pi * x) + 0.3 * jnp.sin(2 * jnp.pi * x),
        "k": {"d": jnp.array(0.9), "r": jnp.array(0.5)},
        "ts": jnp.array([0.2, 0.5, 1.4]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("save", few(["ts", "dense"], "dense"))
def test_the_gradient_through_many_stages_is_exact(save):
    """Over several segments of stages, by every input, the step's own start and size too."""

    def loss(p):
        return jnp.sum(jnp.sin(1.0 + jnp.arange(N)) * values(p, save) ** 2)

    p = point()
    assert_close(jax.jit(jax.grad(loss))(p), central(loss, p, 1e-4), 1e-7)


@pytest.mark.slow
def test_gradients_in_lanes_are_those_of_single_solves():
    """Each lane with a diffusion, and so with stages, of its own."""
    count = 5
    starts = point()["y0"] * jnp.linspace(0.5, 1.5, count)[:, None]
    own, shared = jnp.logspace(-2, 0, count), jnp.array(0.5)
    options: dict[str, Any] = {"solver": "rkc2", "rtol": 1e-3, "atol": 1e-4, "max_steps": 64}

    def batch(y, d, r):
        axes = (0, None, {"d": 0, "r": None})
        sols = jo.solve_batch(
            diffusion, y, (0.0, 0.7), {"d": d, "r": r}, in_axes=axes, lanes=3, **options
        )
        return jnp.sum(sols.y1**3), sols.stats.num_evaluations

    def loop(y, d, r):
        def one(y, d):
            sol = jo.solve(diffusion, y, (0.0, 0.7), {"d": d, "r": r}, **options)
            return sol.y1, sol.stats.num_evaluations

        y1, calls = jax.lax.map(lambda row: one(*row), (y, d))
        return jnp.sum(y1**3), calls

    inputs = starts, own, shared
    (got, calls), (expected, other) = (
        jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(*inputs) for f in (batch, loop)
    )
    np.testing.assert_array_equal(calls, other)
    assert len(np.unique(calls)) == count
    assert_close(got, expected, 1e-10)


@pytest.mark.slow
def test_the_continuous_adjoint_agrees():
    """On a span over which the way back, that of heat, does not blow up."""
    p = point()

    def loss(k, sensitivity):
        sol = jo.solve(
            lambda t, y, k: diffusion(t, y, k) / 100, p["y0"], (0.0, 0.5), k, solver="rkc2",
            rtol=1e-7, atol=1e-9, sensitivity=sensitivity,
        )  # fmt: skip
        return jnp.sum(sol.y1**2)

    both = jax.jit(lambda k: [jax.grad(loss)(k, mode) for mode in ("discrete", "adjoint")])
    exact, adjoint = both(p["k"])
    assert_close(adjoint, exact, 1e-3)
