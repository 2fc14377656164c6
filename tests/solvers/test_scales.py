"""The units of time and state do not matter, up to the range of the floats."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.registry import ADAPTIVE, PARTITIONED

# Eigenvalues of -1, -3 and -30, coupled.
MATRIX = np.array([[-1.0, 0.5, 0.0], [0.0, -30.0, 1.0], [0.2, 0.0, -3.0]])
Y0 = np.array([1.0, 0.75, 0.5])
Y1 = expm(MATRIX) @ Y0
# Reversible solvers take thousands of steps where the solution decays fast.
NAMES = [n for n in ADAPTIVE if n not in PARTITIONED and not SOLVERS[n].reversible]
RANGES = {"float32": (30, 34), "float64": (250, 290)}


def field(t, y, args):
    matrix, unit = args
    return matrix @ y / unit


def error(solver, time, size, dtype, rtol):
    """The largest error, in units of the state's size, of a solve over one unit of time."""
    dtype = np.dtype(dtype).type
    unit, scale = dtype(10.0**time), dtype(10.0**size)
    sol = jo.solve(
        field,
        jnp.asarray(Y0 * scale, dtype),
        (dtype(0), unit),
        (jnp.asarray(MATRIX, dtype), unit),
        solver=solver,
        rtol=rtol,
        atol=dtype(0.01 * rtol) * scale,
        max_steps=20_000,
    )
    return np.max(np.abs(np.asarray(sol.y1, float) / float(scale) - Y1))


def scales(dtype):
    """Times and sizes, as exponents of ten, whose slopes are normal floats."""
    most, slopes = RANGES[dtype]
    times = [-most, -most // 2, 0, most // 2, most]
    return [(t, s) for t, s in itertools.product(times, (-20, 0, 20)) if abs(s - t) < slopes]


@pytest.mark.parametrize("name", ["tsit5", "kvaerno5"])
def test_float32_solves_at_any_scale(name):
    for time, size in [(17, -6), (-30, 0), (30, 0), (0, 20), (0, -20)]:
        assert error(name, time, size, "float32", 1e-3) < 2e-2, (time, size)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_solver_at_any_scale(name, dtype):
    for time, size in scales(dtype):
        assert error(name, time, size, dtype, 1e-3) < 2e-2, (time, size)
