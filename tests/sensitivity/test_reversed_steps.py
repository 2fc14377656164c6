"""Steps that are reversed: their gradient is that of the computed solution, or NaN.

Where solutions contract by exp(-n), rounding grows by exp(n) on the way back.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few

SOLVERS: dict[str, Any] = {
    "reversible_heun": "reversible_heun",
    "bosh3": jo.ReversibleRK(jo.Bosh3(), coupling=0.99),
    "tsit5": jo.ReversibleRK(jo.Tsit5(), coupling=0.9),
}
RATES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)


def driven(t, y, rate):
    return -rate * (y - jnp.sin(3 * t))


def gradient(solver: Any, sensitivity: str, dtype: Any, **options: Any):
    def loss(p, tolerance):
        ts = jnp.array([0.0, 0.3, 2.0], dtype)
        sol: Any = jo.solve(
            driven, p[0], ts, p[1], solver=solver, rtol=tolerance, atol=tolerance,
            sensitivity=sensitivity, throw=False, **options,
        )  # fmt: skip
        return jnp.sum(sol.ys[1:])

    return jax.jit(jax.grad(loss))


def off(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "dtype"),
    few([(n, d) for n in SOLVERS for d in (jnp.float32, jnp.float64)], ("bosh3", jnp.float32)),
)
def test_a_gradient_by_steps_back_is_that_of_the_computed_solution_or_nan(name, dtype):
    """To 100 tolerances; in steps of a given size, to a hundred times what has to come back.

    At larger rates the coupled states are unstable themselves, with such a coupling.
    """
    rounding = float(jnp.finfo(dtype).eps) ** (1 / 3)
    fixed, numbers = {"controller": jo.Fixed(0.02)}, 0
    for options, rates, bounds in (({}, RATES[:5], (1e-3, 1e-5)), (fixed, RATES, (rounding,))):
        back, stored = (
            gradient(SOLVERS[name], mode, dtype, **options) for mode in ("reversible", "discrete")
        )
        for bound in bounds:
            for rate in rates:
                p = jnp.array([1.0, rate], dtype)
                error = off(back(p, bound), stored(p, bound))
                assert np.isnan(error) or error <= 100 * bound
                numbers += not np.isnan(error)
    assert numbers >= 12  # of 16


def test_a_batch_has_a_number_for_each_trajectory_that_came_back():
    """The others are NaN, in float32 where rounding grows by more digits than it has."""
    rates = jnp.array([1.0, 30.0, 2.0], jnp.float32)
    options: Any = {"solver": SOLVERS["bosh3"], "rtol": 1e-4, "atol": 1e-4, "throw": False}

    def loss(y0, sensitivity):
        ts = jnp.array([0.0, 2.0], jnp.float32)
        sols = jo.solve_batch(
            driven, y0, ts, rates, in_axes=(0, None, 0), sensitivity=sensitivity, **options
        )
        return jnp.sum(sols.y1)

    start = jnp.ones(3, jnp.float32)
    back, stored = (
        jax.jit(jax.grad(lambda y, s=s: loss(y, s)))(start) for s in ("reversible", "discrete")
    )
    np.testing.assert_array_equal(np.isnan(back), [False, True, False])
    np.testing.assert_allclose(back[::2], stored[::2], rtol=1e-2)
