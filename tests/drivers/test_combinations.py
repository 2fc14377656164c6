"""Random combinations of options against closed forms: values, statuses and derivatives.

They cover every pair of options. A combination that is refused is refused by one of our errors.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.combinations import DT, Combination, KnownProblem, covering_combinations
from tests.support.sweeps import few

COMBINATIONS = {c.name: c for c in covering_combinations(400, seed=18)}
REFUSALS = (jo.OptionError, jo.StateError, jo.EventError, jo.DifferentiationError, jo.BatchError)


def weighted(tree: Any) -> Any:
    """A weighted sum of all numbers; of complex ones of both parts."""
    total = jnp.zeros(())
    for x in jax.tree.leaves(tree):
        parts = jnp.real(x) + 0.5 * jnp.imag(x)
        total += jnp.sum(parts * jnp.cos(jnp.arange(x.size)).reshape(x.shape))
    return total


def accepted_error(case: Combination) -> float:
    """How far values and derivatives may be off, relative to their size.

    That of an adaptive solve is some hundred tolerances, that of steps of 0.02 a few times the
    leading term of a method of its order; a multistep method has order one in its first step.
    """
    if not case.has_fixed_steps:
        return 300 * case.rtol
    rounding = 1e-4 if case.state == "float32" else 1e-8
    order = 2 if case.solver in ("bdf", "adams") else min(SOLVERS[case.solver]().order, 5)
    return max(10 * DT**order, rounding)


def assert_near(found: Any, expected: Any, error: float) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=error * (1 + np.max(np.abs(b))))


@pytest.mark.parametrize("name", few(COMBINATIONS, *list(COMBINATIONS)[::100]))
def test_a_combination_is_right_or_refused(name):
    case = COMBINATIONS[name]
    problem = KnownProblem(case)

    def loss(p: Any) -> Any:
        found, status = problem.run(p)
        return weighted(found), (found, status)

    derivative = jax.jacfwd if case.sensitivity == "forward" else jax.grad
    try:
        gradient, (found, status) = jax.jit(derivative(loss, has_aux=True))(problem.point)
    except REFUSALS as refused:
        assert len(str(refused)) > 40
        return
    np.testing.assert_array_equal(status, jo.Status.SUCCESS)
    error = accepted_error(case)
    assert_near(found, problem.run_exact(problem.point), error)
    exact = jax.grad(lambda p: weighted(problem.run_exact(p)))(problem.point)
    assert_near(gradient, exact, 10 * error)
