"""Stiff problems with published end values, over tolerances: never a wrong answer called right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.stiff_problems import BRUSSELATOR_Y0, BRUSSELATOR_Y1, PROBLEMS, brusselator_1d

NAMES = [name for name in ("rodas5p", "auto", "bdf") if name in SOLVERS]
RTOLS = (1e-4, 1e-7, 1e-10)


def outcomes(problem, solver):
    """For each tolerance the status, and the largest error at the end in units of the tolerance.

    `atol` is `rtol` times the problem's floor, a thousandth unless it says otherwise, times the
    size of each component.
    """

    @jax.jit
    def run(rtol, atol):
        return jo.solve(
            problem.field, jnp.array(problem.y0), (0.0, problem.t1), problem.args,
            solver=solver, rtol=rtol, atol=atol, max_steps=100_000,
        )  # fmt: skip

    for rtol in RTOLS:
        sol = run(rtol, problem.atol(rtol))
        yield jo.Status(int(sol.status)), problem.excess(sol.y1, rtol)


@pytest.mark.parametrize("solver", NAMES)
def test_errors_are_near_the_tolerance(solver):
    """A hundred times it at most, five times in the median."""
    found = {
        (problem.name, rtol): outcome
        for problem in PROBLEMS
        for rtol, outcome in zip(RTOLS, outcomes(problem, solver), strict=True)
    }
    failed = {key: status.name for key, (status, _) in found.items() if status}
    wrong = {k: error for k, (status, error) in found.items() if not status and not error <= 100}
    assert not wrong
    assert not failed
    assert np.median([error for _, error in found.values()]) <= 5


def test_a_thousand_unknowns():
    """The Brusselator with diffusion: dense factors of a banded Jacobian."""
    sol = jo.solve(brusselator_1d, BRUSSELATOR_Y0, (0.0, 10.0), solver="rodas5p", rtol=1e-4)
    np.testing.assert_allclose(sol.y1[::98], BRUSSELATOR_Y1, rtol=1e-4)
