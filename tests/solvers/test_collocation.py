"""Collocation methods of Gauss and Radau: tableaus, stability, order reduction, invariants."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.implicit.collocation import Collocation
from jaxode.solvers.registry import SOLVERS
from tests.support.batches import assert_same, in_tile, one_by_one, outcome
from tests.support.differences import assert_close, central_by_calls, weighted
from tests.support.sweeps import few

TABLES = {
    name: solver.tableau
    for name, solver in SOLVERS.items()
    if issubclass(solver, Collocation) and name not in ("gl4", "gl6", "radau", "radau5")
}
GAUSS = ["implicit_midpoint", "gauss_legendre4", "gauss_legendre6"]
RADAU = ["implicit_euler", "radau_iia5"]


def of(name):
    table = TABLES[name]
    return np.array(table.A), np.array(table.b), np.array(table.c)


@pytest.mark.parametrize("name", TABLES)
def test_simplifying_assumptions_hold_up_to_exactly_these_orders(name):
    """B(p) of the step, C(s) of the stages and D(s or s - 1): by Butcher's theorem, order p."""
    A, b, c = of(name)
    p, s = TABLES[name].order, len(b)

    def quadrature(q):
        return abs(b @ c ** (q - 1) - 1 / q)

    def stage(q):
        return np.max(np.abs(A @ c ** (q - 1) - c**q / q))

    def adjoint(q):
        return np.max(np.abs((b * c ** (q - 1)) @ A - b * (1 - c**q) / q))

    assert max(quadrature(q) for q in range(1, p + 1)) < 1e-15
    assert quadrature(p + 1) > 1e-5
    assert max(stage(q) for q in range(1, s + 1)) < 1e-15
    assert stage(s + 1) > 1e-3
    assert max((adjoint(q) for q in range(1, p - s + 1)), default=0) < 1e-15
    assert p <= 2 * s


@pytest.mark.parametrize("name", TABLES)
def test_dense_output_interpolates_and_corrections_vanish_where_they_must(name):
    table, (A, _, c) = TABLES[name], of(name)
    P, Q = np.array(table.dense), np.array(table.increments)
    powers = c[:, None] ** np.arange(1, len(c) + 1)
    np.testing.assert_allclose(powers @ P.T, A, atol=1e-15)
    np.testing.assert_allclose(powers @ Q.T, np.eye(len(c)), atol=1e-14)
    for row in table.corrections:
        degrees = np.arange(1, len(row) + 1)
        slopes = degrees * c[:, None] ** (degrees - 1) @ row
        np.testing.assert_allclose(slopes, 0, atol=1e-13)


@pytest.mark.parametrize("name", TABLES)
def test_blocks_put_together_are_the_inverse(name):
    A = of(name)[0]
    T = np.concatenate([np.array(b.basis) for b in TABLES[name].blocks], axis=1)
    scale = [1 / TABLES[name].gamma0 if len(b.matrix) == 1 else 1 for b in TABLES[name].blocks]
    parts = [s * np.array(b.project) for s, b in zip(scale, TABLES[name].blocks, strict=True)]
    np.testing.assert_allclose(T @ np.concatenate(parts) @ A, np.eye(len(A)), atol=1e-13)


@pytest.mark.parametrize("name", TABLES)
def test_stability_at_infinity_and_on_the_imaginary_axis(name):
    """|R| is 1 everywhere there for the symmetric ones; the others forget what is stiff."""
    A, b, _ = of(name)
    one = np.ones(len(b))

    def growth(z):
        return abs(1 + z * b @ np.linalg.solve(np.eye(len(b)) - z * A, one))

    assert abs(abs(1 - b @ np.linalg.solve(A, one)) - (name in GAUSS)) < 1e-13
    circle = [growth(1j * y) for y in np.logspace(-3, 3, 121)]
    assert max(circle) <= 1 + 1e-13
    if name in GAUSS:
        assert min(circle) >= 1 - 1e-13
    assert max(growth(r * np.exp(1j * a)) for r in np.logspace(-2, 4, 25) for a in (1.6, 2, 3)) <= 1


@pytest.mark.parametrize("name", GAUSS)
def test_the_condition_of_symplecticity(name):
    A, b, _ = of(name)
    M = b[:, None] * A
    np.testing.assert_allclose(M + M.T, np.outer(b, b), atol=1e-16)


def rigid_body(t, y, args):
    return jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def kepler(t, y, args):
    return jnp.concatenate([y[2:], -y[:2] * jnp.sum(y[:2] ** 2) ** -1.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", few(GAUSS, "gauss_legendre4"))
def test_quadratic_invariants_are_kept_to_rounding(name):
    """Two of a rigid body, and the angular momentum of an orbit; energy does not drift."""
    sol = jo.solve(rigid_body, jnp.array([0.0, 1.0, 1.0]), jnp.linspace(0.0, 100.0, 11),
                   solver=name, controller=jo.Fixed(0.1))  # fmt: skip
    a, b, c = sol.ys[-1]
    assert abs(a**2 + b**2 - 1) < 1e-12
    assert abs(0.51 * b**2 - c**2 + 0.49) < 1e-12
    sol = jo.solve(kepler, jnp.array([0.5, 0.0, 0.0, np.sqrt(3.0)]), jnp.linspace(0.0, 200.0, 801),
                   solver=name, dt=0.05, max_steps=8192)  # fmt: skip
    x, y, u, v = sol.y1
    assert abs(x * v - y * u - 0.5 * np.sqrt(3.0)) < 1e-12
    x, y, u, v = sol.ys.T
    energy = (u**2 + v**2) / 2 - (x**2 + y**2) ** -0.5
    drift = np.abs(energy + 0.5)
    assert np.max(drift[400:]) < 1.05 * np.max(drift[:400])


# Of the step h at an infinite rate, and whether the error falls with the rate too.
REDUCED = {
    "implicit_euler": (1, True), "implicit_midpoint": (2, False), "gauss_legendre4": (2, False),
    "gauss_legendre6": (4, False), "radau_iia5": (3, True),
}  # fmt: skip


def prothero_robinson(t, y, rate):
    """Its smooth solution is the cosine, whatever the rate."""
    return rate * (y - jnp.cos(t)) - jnp.sin(t)


@pytest.mark.parametrize("name", few(REDUCED, "gauss_legendre4", "radau_iia5"))
def test_order_reduction_on_the_problem_of_prothero_and_robinson(name):
    """As in Hairer and Wanner II, table IV.15.1: of order five, three are left, over the rate."""
    order, falls = REDUCED[name]
    steps, found = (15, 21, 31, 45), {}
    for rate in (-1e7, -1e8):
        found[rate] = []
        for n in steps:
            sol = jo.solve(
                prothero_robinson, jnp.array([1.0]), (0.0, 3.0), rate, solver=name,
                controller=jo.Fixed(3.0 / n),
            )  # fmt: skip
            found[rate].append(abs(sol.y1[0] - np.cos(3.0)))
        slope = -np.polyfit(np.log(steps), np.log(found[rate]), 1)[0]
        assert abs(slope - order) < 0.2
    ratio = found[-1e7][0] / found[-1e8][0]
    assert abs(ratio - (10 if falls else 1)) < 0.5


def swing(t, y, args):
    return -y * jnp.cos(t)


def test_implicit_euler_follows_the_tolerance():
    """Its local error is of order two: ten times the steps for a hundredth of the tolerance."""
    errors, counts = [], []
    for tol in (1e-3, 1e-5):
        sol = jo.solve(swing, jnp.array([1.0]), (0.0, 5.0), solver="implicit_euler", rtol=tol,
                       atol=tol)  # fmt: skip
        errors.append(abs(float(sol.y1[0]) - np.exp(-np.sin(5.0))))
        counts.append(int(sol.stats.num_steps))
    assert errors[0] < 0.3
    assert 7 < errors[0] / errors[1] < 14
    assert 7 < counts[1] / counts[0] < 14


def chemistry(t, y, k):
    """The third equation is that of the sum, not of a rate."""
    a, b = k * y[0], 1e4 * y[1] * y[2]
    return jnp.stack([b - a, a - b - 3e7 * y[1] ** 2, y[0] + y[1] + y[2] - 1])


@pytest.mark.slow
def test_a_singular_mass_matrix_of_algebraic_equations():
    """Robertson's chemistry with its conservation law, against the equation without one."""
    y0 = jnp.array([1.0, 0.0, 0.0])
    mass = jnp.diag(jnp.array([1.0, 1.0, 0.0]))
    options: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-11}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(k):
        solver = jo.RadauIIA5(mass=mass)
        y1 = jo.solve(chemistry, y0, (0.0, 40.0), k, solver=solver, **options).y1
        return weighted(y1), y1

    (_, y1), gradient = run(jnp.array(0.04))
    expected = [0.7158270687194, 9.185534764558e-6, 0.2841637457459]
    np.testing.assert_allclose(y1, expected, rtol=1e-6)
    slope = central_by_calls(lambda k: run(k)[0][0], jnp.array(0.04), 1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)


def bent(t, y, args):
    fast = args[1] * ((1 - y[0] ** 2) * y[1] - y[0])
    return jnp.stack([args[0] * y[1] + jnp.cos(t), fast, args[1] * (jnp.sin(t) * y[0] - y[2])])


ARGS = jnp.array([1.0, 8.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gauss_legendre4", "radau_iia5"])
def test_a_jacobian_that_is_given_is_used_and_changes_no_gradient(name):
    calls = []

    def jac(t, y, args):
        calls.append(1)
        return jax.jacfwd(bent, argnums=1)(t, y, args)

    def end(p, solver):
        return weighted(jo.solve(bent, p["y"], (0.0, 0.6), p["args"], solver=solver,
                                 controller=jo.Fixed(0.11)).y1)  # fmt: skip

    @jax.jit
    def both(p):
        return [jax.value_and_grad(end)(p, x) for x in (solver(jac=jac), solver())]

    solver: Any = SOLVERS[name]
    given, by_default = both({"y": jnp.array([1.2, 0.3, 0.7]), "args": ARGS})
    assert calls
    assert_close(given, by_default, 1e-9)


def heat(t, y, args):
    return 100 * (jnp.roll(y, 1).at[0].set(0) - 2 * y + jnp.roll(y, -1).at[-1].set(0))


@pytest.mark.slow
@pytest.mark.parametrize("solver", [jo.ImplicitEuler, jo.ImplicitMidpoint])
def test_methods_of_one_stage_take_other_linear_solvers(solver):
    y0 = jnp.sin(jnp.arange(1, 41) / 13)
    options: dict[str, Any] = {"controller": jo.Fixed(0.1)}
    dense = jo.solve(heat, y0, (0.0, 1.0), solver=solver(), **options)
    for linear_solver in (jo.Banded(1, 1), jo.Krylov("cg", rtol=1e-12)):
        other = solver(linear_solver=linear_solver)
        sol = jo.solve(heat, y0, (0.0, 1.0), solver=other, **options)
        np.testing.assert_allclose(sol.y1, dense.y1, rtol=1e-9, atol=1e-12)


def test_methods_of_several_stages_refuse_other_linear_solvers():
    for solver in (jo.GaussLegendre4, jo.GaussLegendre6, jo.RadauIIA5):
        with pytest.raises(jo.OptionError, match=r"solved together and takes .*Dense\(\) alone"):
            solver(linear_solver=jo.Banded(1, 1))


def six_rates(t, y, rate):
    return rate * (jnp.cos(t + jnp.arange(6)) - y) + jnp.sin(jnp.roll(y, 1))


SIX_STARTS = jax.random.normal(jax.random.key(0), (5, 6))
RATES = jnp.array([0.5, 3.0, 100.0, 1e4, 1.0])
LOOSE: dict[str, Any] = {"solver": "radau_iia5", "rtol": 1e-6}


@functools.cache
def single_solves():
    def single(y0, rate):
        return outcome(jo.solve(six_rates, y0, (0.0, 1.0), rate, throw=False, **LOOSE))

    return one_by_one(single, 0, SIX_STARTS, RATES)


@pytest.mark.slow
@pytest.mark.parametrize("wide", few([False, True], True))
def test_a_batch_of_a_few_components_equals_its_single_solves(wide):
    """Their pair of states is a system of twelve, which LAPACK factorises in lanes."""

    def batch(y0, rates):
        axes = {"in_axes": (0, None, 0), "lanes": 3}
        return outcome(jo.solve_batch(six_rates, y0, (0.0, 1.0), rates, **axes, **LOOSE))

    inputs = SIX_STARTS, RATES
    got = in_tile(wide, batch, *inputs)(*inputs)
    assert_same(got, single_solves(), 1e-6, counts=4)
