"""The error follows the tolerance, on problems with published end values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.problems import BY_NAME, PROBLEMS

NAMES = [
    "predator_prey",
    "rigid_body",
    "bessel",
    "van_der_pol",
    "lotka_volterra",
    "brusselator",
    "lorenz",
]
# The most that steps of one tolerance each add up to over these spans; dozens of steps for the
# methods of high order, hundreds for the others.
MOST = {"tsit5": 60, "dopri5": 200, "dopri8": 10, "vern7": 20, "bosh3": 100}
TOLERANCES = np.logspace(-3, -10, 8)


@functools.cache
def errors(problem_name, solver, tolerances):
    problem = BY_NAME[problem_name]

    @jax.jit
    def run(tolerance):
        sol = jo.solve(
            problem.field, jnp.array(problem.y0), (0.0, problem.t1), solver=solver,
            rtol=tolerance, atol=tolerance, max_steps=100_000,
        )  # fmt: skip
        return sol.y1

    return np.array([problem.error(run(tolerance)) for tolerance in tolerances])


def slope(tolerances, found):
    return np.polyfit(np.log(tolerances), np.log(found), 1)[0]


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "dopri8", "vern7", "bosh3"])
@pytest.mark.parametrize("name", NAMES)
def test_error_is_proportional_to_tolerance(name, solver):
    """The steps go as `tol^(1/k)`, `k` the power of the error estimate, and the error as their
    power `p`, so it falls as `tol^(p/k)`; in every pair here `p = k`."""
    found_solver = SOLVERS[solver]()
    assert found_solver.order == found_solver.error_exponent
    tolerances = TOLERANCES[:4] if solver == "bosh3" else TOLERANCES
    found = errors(name, solver, tuple(tolerances))
    assert abs(slope(tolerances, found) - 1) < 0.3
    assert np.max(found / tolerances) < MOST[solver]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_reference_values_are_met_at_tight_tolerances(problem):
    """To ten digits; to eight on the orbit that passes close by the moon twice."""

    @jax.jit
    def run(y):
        options = {"solver": "dopri8", "rtol": 1e-13, "atol": 1e-13, "max_steps": 20_000}
        return jo.solve(problem.field, y, (0.0, problem.t1), **options).y1

    limit = 1e-8 if problem.name == "arenstorf" else 1e-10
    assert problem.error(run(jnp.array(problem.y0))) < limit
