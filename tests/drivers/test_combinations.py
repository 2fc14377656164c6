"""Random combinations of options against closed forms: values, statuses and derivatives.

They cover every pair of options of which some combination is not refused. What the rules refuse is
refused by the rule's error, and nothing else is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.combinations import DIRECTIONS, DT, Combination, KnownProblem
from tests.support.refusals import (
    allowed_pairs,
    covering_combinations,
    pairs,
    refused_combinations,
)
from tests.support.sweeps import few

# Each is solved in both directions of time: 400 solves are compared.
COMBINATIONS = {c.name: c for c in covering_combinations(200, seed=18)}
REFUSED = {c.name: (rule, c) for rule, c in refused_combinations(14, seed=18)}


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
    leading term of a method of its order.
    """
    if not case.has_fixed_steps:
        return 300 * case.rtol
    rounding = 1e-4 if case.state == "float32" else 1e-8
    return max(10 * DT ** min(case.order, 5), rounding)


def assert_near(found: Any, expected: Any, error: float) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=error * (1 + np.max(np.abs(b))))


def value_and_derivative(case: Combination) -> Any:
    """The function of a direction's sign and the parameters; a scan or `vmap` is in the loss."""

    def of_both(sign: Any, point: Any) -> Any:
        def loss(p: Any) -> Any:
            found, status = KnownProblem(case, sign).run(p)
            return weighted(found), (found, status)

        derivative = jax.jacfwd if case.sensitivity == "forward" else jax.grad
        return derivative(loss, has_aux=True)(point)

    return of_both


def exact_and_derivative(case: Combination) -> Any:
    """As `value_and_derivative`, of the closed form: one program, not one of each operation."""

    def of_both(sign: Any, point: Any) -> Any:
        def loss(p: Any) -> Any:
            exact = KnownProblem(case, sign).run_exact(p)
            return weighted(exact), exact

        return jax.grad(loss, has_aux=True)(point)

    return of_both


# Those whose event is only passed compile longest.
FAST = [name for name in list(COMBINATIONS)[26::50] if "passed" not in name]


@pytest.mark.parametrize("name", few(COMBINATIONS, *FAST))
def test_a_combination_is_right(name):
    case = COMBINATIONS[name]
    function, error = jax.jit(value_and_derivative(case)), accepted_error(case)
    reference = jax.jit(exact_and_derivative(case))
    for direction, sign in DIRECTIONS.items():
        problem = KnownProblem(case, sign)
        gradient, (found, status) = function(jnp.asarray(sign), problem.point)
        np.testing.assert_array_equal(status, jo.Status.SUCCESS, err_msg=direction)
        derivative, exact = reference(jnp.asarray(sign), problem.point)
        assert_near(found, exact, error)
        assert_near(gradient, derivative, 10 * error)


def test_combinations_cover_every_pair_that_is_not_refused():
    assert allowed_pairs() == set().union(*map(pairs, COMBINATIONS.values()))


@pytest.mark.parametrize("name", few(REFUSED, *list(REFUSED)[:14]))
def test_a_combination_is_refused(name):
    rule, case = REFUSED[name]
    point = KnownProblem(case).point
    with pytest.raises(rule.error, match=rule.words) as refused:
        jax.eval_shape(value_and_derivative(case), 1.0, point)
    assert refused.type is rule.error
    assert len(str(refused.value)) > 40, rule.because
