"""Stiff problems with published end values, over tolerances: never a wrong answer called right."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.stiff_problems import (
    BRUSSELATOR_Y0,
    BRUSSELATOR_Y1,
    BY_NAME,
    PROBLEMS,
    brusselator_1d,
)

RTOLS = (1e-4, 1e-7, 1e-10)
# One program serves problems of one field and as many components.
FEW = [BY_NAME[name] for name in ("vdpolm", "stiff_E2", "stiff_A3", "stiff_B1")]


def outcomes(problem, solver):
    """For each tolerance the status, and the largest error at the end in units of the tolerance.

    `atol` is `rtol` times the problem's floor, a thousandth unless it says otherwise, times the
    size of each component.
    """
    args = None if problem.args is None else jnp.asarray(problem.args)
    for rtol in RTOLS:
        sol = jo.solve(
            problem.field, jnp.array(problem.y0), (0.0, problem.t1), args, solver=solver,
            rtol=rtol, atol=problem.atol(rtol), max_steps=100_000, throw=False,
        )  # fmt: skip
        yield jo.Status(int(sol.status)), problem.excess(sol.y1, rtol)


# In tolerances, as docs/solvers.md says.
LARGEST, MEDIAN = 100, 5


def check_errors(problems, solver):
    found = {
        (problem.name, rtol): outcome
        for problem in problems
        for rtol, outcome in zip(RTOLS, outcomes(problem, solver), strict=True)
    }
    failed = {key: status.name for key, (status, _) in found.items() if status}
    wrong = {
        k: error for k, (status, error) in found.items() if not status and not error <= LARGEST
    }
    assert not wrong
    assert not failed
    assert np.median([error for _, error in found.values()]) <= MEDIAN


@pytest.mark.parametrize("solver", ["rodas5p", "bdf"])
def test_errors_are_near_the_tolerance_on_a_few_problems(solver):
    check_errors(FEW, solver)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["rodas5p", "auto", "bdf"])
def test_errors_are_near_the_tolerance(solver):
    check_errors(PROBLEMS, solver)


@pytest.mark.slow
def test_a_thousand_unknowns():
    """The Brusselator with diffusion: dense factors of a banded Jacobian."""
    sol = jo.solve(brusselator_1d, BRUSSELATOR_Y0, (0.0, 10.0), solver="rodas5p", rtol=1e-4)
    np.testing.assert_allclose(sol.y1[::98], BRUSSELATOR_Y1, rtol=1e-4)
