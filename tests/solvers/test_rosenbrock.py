"""Rosenbrock solvers and the switching one: stiff problems, mass matrices, Jacobians, failures."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.implicit.rosenbrock23 import ROSENBROCK23_TABLEAU
from tests.support.differences import central_by_calls
from tests.support.sweeps import few

RATES = jnp.array([0.04, 3e7, 1e4])
START = jnp.array([1.0, 0.0, 0.0])
TIGHT = {"rtol": 1e-8, "atol": 1e-12, "max_steps": 20_000}
# At t = 1e11; Hairer, Wanner, Solving Ordinary Differential Equations II (1996), as in the test set
# for IVP solvers of Mazzia and Magherini.
ROBERTSON_END = jnp.array([2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050])
NAMES = ["rosenbrock23", "rodas4", "rodas5p", "auto"]


def robertson(t, y, k):
    made, lost = k[0] * y[0], k[2] * y[1] * y[2]
    return jnp.stack([lost - made, made - lost - k[1] * y[1] ** 2, k[1] * y[1] ** 2])


def robertson_dae(t, y, k):
    """The same with the conserved sum in the place of its last equation."""
    return robertson(t, y, k).at[2].set(jnp.sum(y) - 1)


MASS = jnp.diag(jnp.array([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("name", NAMES)
def test_robertson_over_eleven_decades(name):
    sol = jo.solve(
        robertson, START, (0.0, 1e11), RATES, solver=name, rtol=1e-7, atol=1e-16, max_steps=200_000
    )
    np.testing.assert_allclose(sol.y1, ROBERTSON_END, rtol=1e-5)


def prothero_robinson(t, y, rate):
    """Its smooth solution is the cosine, whatever the rate."""
    return rate * (y - jnp.cos(t)) - jnp.sin(t)


@pytest.mark.parametrize("name", ["rosenbrock23", "rodas4", "rodas5p"])
def test_steps_far_longer_than_the_fastest_decay_are_damped(name):
    """From a start off the slow solution, cos t, with steps of 0.1."""
    for rate in (-1e3, -1e6, -1e12):
        sol = jo.solve(
            prothero_robinson, jnp.array([2.0]), (0.0, 2.0), rate, solver=name,
            controller=jo.Fixed(0.1),
        )  # fmt: skip
        np.testing.assert_allclose(sol.y1, jnp.cos(2.0), atol=3e-3)


@pytest.mark.parametrize(
    "solver",
    [pytest.param(jo.Rodas4(mass=MASS), marks=pytest.mark.slow), jo.Rodas5P(mass=MASS)],
)
def test_an_algebraic_equation(solver):
    dae = jo.solve(robertson_dae, START, (0.0, 1e4), RATES, solver=solver, **TIGHT)
    ode = jo.solve(robertson, START, (0.0, 1e4), RATES, solver="rodas5p", **TIGHT)
    np.testing.assert_allclose(dae.y1, ode.y1, rtol=1e-6)


def test_a_start_is_moved_onto_the_algebraic_equations():
    off = START.at[2].set(0.3)
    sol = jo.solve(
        robertson_dae, off, (0.0, 1.0), RATES, solver=jo.Rodas5P(mass=MASS), save="steps", **TIGHT
    )
    np.testing.assert_allclose(sol.ys[0], START, atol=1e-12)


def test_a_start_that_cannot_be_consistent_says_so():
    def field(t, y, args):
        return jnp.stack([-y[0], y[1] ** 2 + 1])

    solver = jo.Rodas5P(mass=jnp.diag(jnp.array([1.0, 0.0])))
    with pytest.raises(jo.SolveError, match="algebraic equations"):
        jo.solve(field, jnp.ones(2), (0.0, 1.0), solver=solver)
    sols = jo.solve_batch(field, jnp.ones((3, 2)), (0.0, 1.0), solver=solver)
    np.testing.assert_array_equal(sols.status, jo.Status.INCONSISTENT_START)
    assert np.all(np.isnan(sols.y1))


def test_a_regular_mass_matrix_is_that_of_its_inverse_times_the_field():
    mass = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.3, 0.0, 1.5]])

    def field(t, y, k):
        return mass @ robertson(t, y, k)

    found = jo.solve(field, START, (0.0, 1e3), RATES, solver=jo.Rodas5P(mass=mass), **TIGHT)
    plain = jo.solve(robertson, START, (0.0, 1e3), RATES, solver="rodas5p", **TIGHT)
    np.testing.assert_allclose(found.y1, plain.y1, rtol=1e-7)


def robertson_jacobian(t, y, k):
    return jax.jacfwd(robertson, 1)(t, y, k)


WITH_JACOBIAN = jo.Rodas5P(jac=robertson_jacobian)


def no_jacobian(t, y, k):
    return jnp.zeros((3, 3))


def test_a_jacobian_that_is_given_is_used():
    times = 0.0, 1e3
    given = jo.solve(robertson, START, times, RATES, solver=WITH_JACOBIAN, **TIGHT)
    by_default = jo.solve(robertson, START, times, RATES, solver="rodas5p", **TIGHT)
    np.testing.assert_allclose(given.y1[0], by_default.y1[0], rtol=1e-12)
    wrong = jo.Rodas5P(jac=no_jacobian)
    zero = jo.solve(robertson, START, (0.0, 1.0), RATES, solver=wrong, throw=False, **TIGHT)
    assert zero.stats.num_steps > 100  # a wrong one makes small steps, not a wrong answer


@pytest.mark.slow
def test_a_jacobian_that_is_given_is_differentiated_and_serves_a_batch():
    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(k, given):
        solver = WITH_JACOBIAN if given else jo.Rodas5P()
        y1 = jo.solve(robertson, START, (0.0, 1e3), k, solver=solver, **TIGHT).y1
        return y1[0], y1

    ((_, got), gradient), ((_, expected), other) = run(RATES, True), run(RATES, False)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, other, rtol=1e-9)
    axes = (None, None, 0)
    sols = jo.solve_batch(
        robertson, START, (0.0, 1e3), RATES[None], in_axes=axes, solver=WITH_JACOBIAN, **TIGHT
    )
    np.testing.assert_allclose(sols.y1[0, 0], expected[0], rtol=1e-12)


CASES: list[tuple[Any, Any]] = [
    ("rodas5p", robertson), ("auto", robertson), (jo.Rodas5P(mass=MASS), robertson_dae),
]  # fmt: skip
SCALES = jnp.ones(3)


@functools.cache
def single_gradient(case):
    """The first component at the end, and its gradient by what scales the rates."""
    solver, field = CASES[case]

    @jax.jit
    @jax.value_and_grad
    def run(scale, rates):
        return jo.solve(field, START, (0.0, 40.0), scale * rates, solver=solver, **TIGHT).y1[0]

    return run


@pytest.mark.parametrize("case", few([0, 1, 2], 0), ids=["rodas5p", "auto", "mass matrix"])
def test_gradients_agree_with_differences(case):
    run = single_gradient(case)
    differences = central_by_calls(lambda scale: run(scale, RATES)[0], SCALES, 1e-4)
    np.testing.assert_allclose(run(SCALES, RATES)[1], differences, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1, 2], ids=["rodas5p", "auto", "mass matrix"])
def test_gradients_of_a_batch_are_those_of_single_solves(case):
    solver, field = CASES[case]
    spread = jnp.array([[1.0, 1.0, 1.0], [0.7, 1.5, 1.1], [1.3, 0.8, 0.6]]) * RATES

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def batch(scales):
        axes = (None, None, 0)
        sols = jo.solve_batch(
            field, START, (0.0, 40.0), scales * spread, in_axes=axes, solver=solver, **TIGHT
        )
        return jnp.sum(sols.y1[:, 0]), sols.y1[:, 0]

    gradients, ends = batch(jnp.ones((3, 3)))
    for end, gradient, rates in zip(ends, gradients, spread, strict=True):
        value, expected = single_gradient(case)(SCALES, rates)
        np.testing.assert_allclose(end, value, rtol=1e-10)
        np.testing.assert_allclose(gradient, expected, rtol=1e-9)


def test_auto_takes_the_explicit_steps_where_nothing_is_stiff():
    def field(t, y, args):
        return jnp.stack([y[1], -y[0]])

    runs = [
        jo.solve(field, jnp.array([1.0, 0.0]), (0.0, 20.0), solver=s, controller=jo.PI())
        for s in ("auto", "tsit5")
    ]
    assert runs[0].stats.num_steps == runs[1].stats.num_steps
    # Step sizes come from float32 factors: two programs may differ by 1e-7 of the errors, 1e-4.
    np.testing.assert_allclose(runs[0].y1, runs[1].y1, rtol=1e-9)


def test_auto_switches_where_tsit5_crawls():
    def field(t, y, args):
        return jnp.stack([y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]])

    ends = {}
    for name in ("auto", "rodas5p"):
        sol = jo.solve(field, jnp.array([2.0, 0.0]), (0.0, 1000.0), solver=name, max_steps=10_000)
        assert sol.stats.num_steps < 1000
        ends[name] = sol.y1
    np.testing.assert_allclose(ends["auto"], ends["rodas5p"], rtol=1e-3)


def test_a_jacobian_that_is_not_finite_has_a_status():
    def root(t, y, args):
        return -jnp.sqrt(y)

    sol = jo.solve(root, jnp.zeros(1), (0.0, 1.0), solver="rodas5p", throw=False)
    assert sol.status == jo.Status.BAD_JACOBIAN


def test_a_singular_matrix_has_a_status():
    dt, gamma = 0.5, ROSENBROCK23_TABLEAU.gamma
    solver = jo.Rosenbrock23(jac=lambda t, y, args: jnp.eye(2) * (1 / (gamma * jnp.float64(dt))))
    sol = jo.solve(
        lambda t, y, args: -y,
        jnp.ones(2),
        (0.0, 1.0),
        solver=solver,
        controller=jo.Fixed(dt),
        throw=False,
    )
    assert sol.status == jo.Status.SINGULAR


def test_algebraic_equations_without_an_unknown_have_a_status():
    def field(t, y, args):
        return jnp.stack([-y[0], y[0] - 2.0])

    solver = jo.Rodas5P(mass=jnp.diag(jnp.array([1.0, 0.0])))
    sol = jo.solve(field, jnp.ones(2), (0.0, 1.0), solver=solver, throw=False)
    assert sol.status == jo.Status.INCONSISTENT_START


@pytest.mark.parametrize(
    ("solver", "y0", "error", "words"),
    [
        (
            jo.Rodas5P(mass=jnp.eye(2)),
            START,
            jo.OptionError,
            r"mass of Rodas5P.*\(2, 2\).*\(3, 3\)",
        ),
        (jo.Rodas5P(mass=jnp.eye(3) * jnp.nan), START, jo.OptionError, "finite"),
        (jo.Rodas5P(jac=lambda t, y, k: y), START, jo.FieldError, r"jac.*\[3\].*\(3, 3\)"),
    ],
)
def test_bad_input_is_refused_by_name(solver, y0, error, words):
    with pytest.raises(error, match=words):
        jo.solve(robertson, y0, (0.0, 1.0), RATES, solver=solver)


def test_a_jacobian_that_is_no_function_is_refused_when_it_is_given():
    with pytest.raises(jo.OptionError, match="jac of Rodas5P must be a function"):
        jo.Rodas5P(jac="robertson")  # pyright: ignore[reportArgumentType]
