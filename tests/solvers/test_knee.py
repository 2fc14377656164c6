"""The knee problem: the solution leaves a branch that becomes unstable."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few


def knee(t, y, args):
    return ((1 - t) * y - y * y) / 1e-6


STAYS = jo.Event(
    lambda t, y, args: y[0], direction="down", apply=lambda t, y, args: jnp.maximum(y, 0)
)


@pytest.mark.parametrize(
    "name", few(["bdf", "rodas5p", "kvaerno5", "radau_iia5", "auto", "rosenbrock23"], "bdf")
)
@pytest.mark.parametrize("dtype", few(["float64", "float32"], "float64"))
def test_an_event_keeps_a_solution_off_an_unstable_branch(name, dtype):
    y0 = jnp.ones(1, dtype)
    for rtol in (1e-3, 1e-4, 1e-5):
        sol = jo.solve(knee, y0, (0.0, 2.0), solver=name, rtol=rtol, events=STAYS)
        np.testing.assert_allclose(sol.y1, [0.0], atol=1e-5)


def test_without_it_bdf_follows_the_unstable_branch():
    # Documented in docs/solvers.md: if this fails, BDF has become better than the page says.
    sol = jo.solve(knee, jnp.ones(1), (0.0, 2.0), solver="bdf")
    np.testing.assert_allclose(sol.y1, [-1.0], atol=1e-2)
