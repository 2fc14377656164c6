"""A Jacobian that is grossly wrong ends in a failure or a right answer, never in a wrong one."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.problem.status import Status
from jaxode.solvers.registry import SOLVERS
from tests.support.registry import ADAPTIVE, IMPLICIT
from tests.support.sweeps import few

Y0, RATES = jnp.array([1.0, 1.0]), np.array([1.0, 3.0])


def field(t, y, factor):
    return -jnp.asarray(RATES) * y


def scaled_identity(t, y, factor):
    return factor * jnp.eye(2)


def outcome(name, factor, batch=False):
    solver = SOLVERS[name](jac=scaled_identity)  # pyright: ignore[reportCallIssue]
    solve = jo.solve_batch if batch else jo.solve
    y0 = jnp.stack([Y0, Y0]) if batch else Y0
    sol = solve(
        field, y0, (0.0, 1.0), factor, solver=solver, rtol=1e-3, atol=1e-5, throw=False,
        max_steps=20_000,
    )  # fmt: skip
    error = np.max(np.abs(np.asarray(sol.y1) - np.exp(-RATES)))
    return [Status(int(s)) for s in np.ravel(sol.status)], error


NAMES = [name for name in IMPLICIT if name in ADAPTIVE]


@pytest.mark.parametrize("name", few(NAMES, "kvaerno5", "bdf", "rodas5p"))
def test_a_jacobian_far_too_large_is_refused(name):
    for factor in (1e8, -1e8, 1e4, -1e4):
        statuses, _ = outcome(name, factor)
        assert statuses == [Status.NOT_CONVERGED], factor


@pytest.mark.parametrize("name", few(NAMES, "kvaerno5"))
def test_a_crude_jacobian_gives_a_right_answer(name):
    for factor in (-10.0, -2.0, 0.0):
        statuses, error = outcome(name, factor)
        assert statuses == [Status.SUCCESS] and error < 2e-2, (factor, error)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kvaerno5", "bdf", "rodas5p", "radau_iia5"])
def test_in_a_batch_too(name):
    assert outcome(name, 1e8, batch=True)[0] == [Status.NOT_CONVERGED] * 2
    statuses, error = outcome(name, -2.0, batch=True)
    assert statuses == [Status.SUCCESS] * 2 and error < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kvaerno5", "bdf", "rodas5p", "radau_iia5"])
def test_a_right_jacobian_passes_at_a_kink(name):
    def kinked(t, y, args):
        return jnp.stack([-jnp.maximum(y[0] - 1, 0) - 1e-3 * y[0], jnp.where(t > 0, y[0], 0)])

    def jac(t, y, args):
        slope = jnp.where(y[0] >= 1, -1.0, 0.0) - 1e-3
        return jnp.stack([jnp.stack([slope, 0.0]), jnp.stack([jnp.where(t > 0, 1.0, 0.0), 0.0])])

    solver = SOLVERS[name](jac=jac)  # pyright: ignore[reportCallIssue]
    sol = jo.solve(kinked, jnp.array([1.0, 0.0]), (0.0, 1.0), solver=solver)
    np.testing.assert_allclose(sol.y1[0], np.exp(-1e-3), rtol=1e-4)
