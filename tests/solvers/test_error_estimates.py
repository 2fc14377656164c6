"""Error estimates are not far below the errors that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from jaxode.solvers.step_size import Tolerance, rms_norm
from tests.support.registry import ADAPTIVE, PARTITIONED
from tests.support.sweeps import few

MATRIX = np.array([[-1.0, 2.0], [-3.0, -0.5]])
ONE_STEP = [n for n in ADAPTIVE if n not in PARTITIONED and n not in ("adams", "bdf", "auto")]


@pytest.mark.parametrize("name", few(ONE_STEP, "fehlberg2", "heun_euler", "bosh3", "tsit5"))
def test_the_estimate_of_a_linear_step_is_not_far_below_its_error(name):
    tolerance = Tolerance(jnp.float64(1e-10), jnp.float64(1e-12), rms_norm)
    solver, t, y = SOLVERS[name]().with_tolerance(tolerance), jnp.float64(0), jnp.array([1.0, 0.5])

    def field(t, y):
        return jnp.asarray(MATRIX) @ y

    for h in (0.4, 0.2, 0.1):
        step = solver.step(field, t, y, jnp.float64(h), solver.init(field, t, y), None)
        error = np.linalg.norm(step.y1 - expm(h * MATRIX) @ np.asarray(y))
        assert step.error is not None
        assert np.linalg.norm(step.error) > 0.3 * error, h


def test_fehlberg2_keeps_its_tolerance_where_stability_binds_it():
    def prothero_robinson(t, y, rate):
        return -rate * (y - jnp.cos(t)) - jnp.sin(t)

    for rate in (20.0, 200.0):
        sol = jo.solve(
            prothero_robinson, jnp.ones(1), (0.0, 3.0), rate, solver="fehlberg2", rtol=1e-3,
            atol=1e-5,
        )  # fmt: skip
        assert abs(sol.y1[0] - np.cos(3.0)) < 5e-3, rate
