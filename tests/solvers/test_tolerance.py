"""The error follows the tolerance, on problems with published end values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.problems import BY_NAME, PROBLEMS

# By the number of components: problems of as many share one compiled program.
NAMES = {
    2: ["predator_prey", "bessel", "van_der_pol", "lotka_volterra", "brusselator"],
    3: ["rigid_body", "lorenz"],
}
# The most that steps of one tolerance each add up to over these spans; dozens of steps for the
# methods of high order, hundreds for the others.
MOST = {"tsit5": 60, "dopri5": 100, "dopri8": 10, "vern7": 10, "bosh3": 100}
TOLERANCES = np.logspace(-3, -10, 8)
# At 1e-3, where a dozen steps make a period, one whose estimate happens to be zero errs by hundreds
# of tolerances: whether there is one depends on each step's size. So medians are compared.
NEARBY = np.array([0.8, 0.9, 1.0, 1.1, 1.25])


@functools.cache
def run_of(names, solver):
    """A compiled function of a name among `names` and a tolerance: the state at the end."""
    fields = list(dict.fromkeys(BY_NAME[name].field for name in names))

    def field(t, y, index):
        slopes = [field(t, y, None) for field in fields]
        return jax.lax.select_n(index, *slopes) if len(slopes) > 1 else slopes[0]

    @jax.jit
    def run(index, y0, t1, tolerance):
        return jo.solve(
            field, y0, (0.0, t1), index, solver=solver, rtol=tolerance, atol=tolerance,
            max_steps=100_000,
        ).y1  # fmt: skip

    def end(name, tolerance):
        problem = BY_NAME[name]
        index = jnp.int32(fields.index(problem.field))
        return run(index, jnp.array(problem.y0), problem.t1, float(tolerance))

    return end


def slope(tolerances, found):
    return np.polyfit(np.log(tolerances), np.log(found), 1)[0]


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "dopri8", "vern7", "bosh3"])
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_error_is_proportional_to_tolerance(size, solver):
    """The steps go as `tol^(1/k)`, `k` the power of the error estimate, and the error as their
    power `p`, so it falls as `tol^(p/k)`; in every pair here `p = k`."""
    found_solver = SOLVERS[solver]()
    assert found_solver.order == found_solver.error_exponent
    tolerances = TOLERANCES[:4] if solver == "bosh3" else TOLERANCES
    run = run_of(tuple(NAMES[size]), solver)
    for name in NAMES[size]:
        found = [
            np.median([BY_NAME[name].error(run(name, x * r)) for r in NEARBY]) for x in tolerances
        ]
        assert abs(slope(tolerances, found) - 1) < 0.3, name
        assert np.max(found / tolerances) < MOST[solver], name


LARGE = {"pleiades": ("pleiades",), "arenstorf": ("arenstorf",)}
LARGE |= dict.fromkeys(("kepler", "kepler_eccentric"), ("kepler", "kepler_eccentric"))
TOGETHER = {name: tuple(names) for names in NAMES.values() for name in names} | LARGE
SLOW = ("pleiades", "arenstorf", *NAMES[3])


@pytest.mark.parametrize(
    "name",
    [pytest.param(p.name, marks=[pytest.mark.slow] * (p.name in SLOW)) for p in PROBLEMS],
)
def test_reference_values_are_met_at_tight_tolerances(name):
    """To ten digits; to eight on the orbit that passes close by the moon twice."""
    limit = 1e-8 if name == "arenstorf" else 1e-10
    assert BY_NAME[name].error(run_of(TOGETHER[name], "dopri8")(name, 1e-13)) < limit
