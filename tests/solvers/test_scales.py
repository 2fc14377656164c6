"""The units of time and state do not matter, up to the range of the floats."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm_frechet

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.registry import ADAPTIVE, PARTITIONED, REPRESENTATIVES

# Eigenvalues of -1, -3 and -30, coupled, and a push that grows with time.
MATRIX = np.array([[-1.0, 0.5, 0.0], [0.0, -30.0, 1.0], [0.2, 0.0, -3.0]])
PUSH = np.array([0.5, 2.0, -1.0])
Y0 = np.array([1.0, 0.75, 0.5])
# Reversible solvers take thousands of steps where the solution decays fast.
NAMES = [n for n in ADAPTIVE if n not in PARTITIONED and not SOLVERS[n].reversible]
RANGES = {"float32": (30, 34), "float64": (250, 290)}
TIMES = {"float32": (-30, 0, 17, 30), "float64": (-250, 0, 250)}
# With a mass matrix two solvers begin differently, and linear solvers have Jacobians of their own.
SPECIAL: dict[str, Callable[[], Any]] = {
    "bdf with a mass": lambda: jo.BDF(mass=np.eye(3)),
    "rodas5p with a mass": lambda: jo.Rodas5P(mass=np.eye(3)),
    "rodas5p with a Jacobian": lambda: jo.Rodas5P(jac=lambda t, y, args: args[0] / args[2]),
    "rodas5p, banded": lambda: jo.Rodas5P(linear_solver=jo.Banded(2, 1)),
    "rodas5p, sparse": lambda: jo.Rodas5P(linear_solver=jo.Sparse(MATRIX != 0)),
    # Of smaller residuals the slopes would underflow in float32.
    "rodas5p, Krylov": lambda: jo.Rodas5P(linear_solver=jo.Krylov(rtol=1e-3)),
}


def exact() -> tuple[np.ndarray, np.ndarray]:
    """The state after one unit of time, and its derivative along `MATRIX` by that."""
    whole, along = np.zeros((2, 5, 5))
    whole[:3, :3] = along[:3, :3] = MATRIX
    whole[:3, 3], whole[3, 4] = PUSH, 1.0
    flow, derivative = expm_frechet(whole, along)
    start = np.concatenate([Y0, [0.0, 1.0]])
    return (flow @ start)[:3], (derivative @ start)[:3]


Y1, SLOPE = exact()


def field(t, y, args):
    matrix, push, unit = args
    return (matrix @ y + push * (t / unit)) / unit


def inputs(time, size, dtype):
    """The unit of time, the start, its absolute tolerance, the matrix and the push."""
    dtype = np.dtype(dtype).type
    unit, scale = dtype(10.0**time), dtype(10.0**size)
    y0, push = (jnp.asarray(x * scale, dtype) for x in (Y0, PUSH))
    return jnp.asarray(unit), y0, jnp.asarray(dtype(1e-5) * scale), jnp.asarray(MATRIX, dtype), push


def end(solver, unit, y0, atol, matrix, push, **options):
    ts = jnp.stack([jnp.zeros_like(unit), unit])
    args, options = (matrix, push, unit), {"rtol": 1e-3, "max_steps": 20_000, **options}
    return jo.solve(field, y0, ts, args, solver=solver, atol=atol, **options).y1


def error(solver, time, size, dtype):
    """The largest error, in units of the state's size, of a solve over one unit of time."""
    y1 = end(solver, *inputs(time, size, dtype))
    return np.max(np.abs(np.asarray(y1, float) / 10.0**size - Y1))


def derivative_errors(solver, times, dtype):
    """The errors of derivatives along the matrix, backwards and forwards, at each unit of time."""

    def of(mode, unit, y0, atol, matrix, push):
        return lambda m: end(
            solver, unit, y0, atol, m, push, sensitivity=mode, rtol=1e-4, throw=False
        )

    @jax.jit
    def both(unit, y0, atol, matrix, push):
        given = unit, y0, atol, matrix, push
        forwards = jax.jvp(of("forward", *given), (matrix,), (matrix,))[1]
        y1, pull = jax.vjp(of("discrete", *given), matrix)
        return jnp.sum(forwards), jnp.sum(pull(jnp.ones_like(y1))[0] * matrix)

    got = np.array([both(*inputs(time, 0, dtype)) for time in times], float)
    return np.abs(got - np.sum(SLOPE))


def scales(dtype):
    """Times and sizes, as exponents of ten, whose slopes are normal floats."""
    most, slopes = RANGES[dtype]
    times = [-most, -most // 2, 0, most // 2, most]
    return [(t, s) for t, s in itertools.product(times, (-20, 0, 20)) if abs(s - t) < slopes]


@pytest.mark.parametrize("name", ["tsit5", "kvaerno5", "rodas5p"])
def test_float32_solves_at_any_scale(name):
    for time, size in [(17, -6), (-30, 0), (30, 0), (0, 20), (0, -20)]:
        assert error(name, time, size, "float32") < 2e-2, (time, size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kvaerno5"])
def test_float32_derivatives_at_any_unit_of_time(name):
    assert np.all(derivative_errors(name, TIMES["float32"], "float32") < 5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*NAMES, *SPECIAL])
def test_every_solver_at_any_scale(name, dtype):
    solver = SPECIAL[name]() if name in SPECIAL else name
    for time, size in scales(dtype):
        assert error(solver, time, size, dtype) < 2e-2, (time, size)


# One of each family, whose solvers share all but their coefficients.
FAMILIES = [n for n in (*NAMES, *SPECIAL) if n in (*REPRESENTATIVES, "trbdf2", *SPECIAL)]
# What underflows in float64 does so in float32 much earlier.
DERIVATIVES = [(name, "float32") for name in FAMILIES]
DERIVATIVES += [(name, "float64") for name in FAMILIES if name not in SPECIAL]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), DERIVATIVES)
def test_every_derivative_at_any_unit_of_time(name, dtype):
    solver = SPECIAL[name]() if name in SPECIAL else name
    # Residuals of an iteration, times a tiny step, underflow before the iteration converges.
    first = 1 if "Krylov" in name and dtype == "float32" else 0
    errors = derivative_errors(solver, TIMES[dtype][first:], dtype)
    assert np.all(errors < 5e-3), errors
