"""The peers on stiff problems, each as its own documents advise; all by the same tolerances.

diffrax: Kvaerno5, one outer jit, no runtime checks, the PI controller of its documents for stiff
problems, which takes half the steps of its default. SciPy and CVODE: the field in Python, on Python
floats; their own Jacobians by differences. SciPy's LSODA is called through `odeint`, whose loop is
compiled, several times as fast as by `solve_ivp`.
"""

import functools
from collections.abc import Callable
from functools import partial
from importlib import util
from typing import Any, cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax import Array

from benchmarks.problems.stiff import Stiff

# The end state by rtol.
Run = Callable[[float], Any]

NAMES = ("diffrax Kvaerno5", "CVODE", "SciPy LSODA", "SciPy Radau", "SciPy BDF")


@functools.cache
def runs(problem: Stiff) -> dict[str, Run]:
    """The end state of `problem` by each peer that is installed."""
    makers = (diffrax_run, cvode_run, lsoda_run, *(partial(scipy_run, m) for m in ("Radau", "BDF")))
    found = {name: make(problem) for name, make in zip(NAMES, makers, strict=True)}
    return {name: run for name, run in found.items() if run is not None}


def diffrax_solution(
    f: Callable, args: Array, y0: Array, ts: Array, rtol: Any, atol: Any, max_steps: int
) -> diffrax.Solution:
    """The end alone by Kvaerno5."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        diffrax.Kvaerno5(),
        ts[0],
        ts[-1],
        None,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4),
        max_steps=max_steps,
        throw=False,
    )


def diffrax_end(
    f: Callable, args: Array, y0: Array, ts: Array, rtol: Any, atol: Any, max_steps: int = 100_000
) -> Array:
    """The end state by Kvaerno5, NaN where it was not reached."""
    solution = diffrax_solution(f, args, y0, ts, rtol, atol, max_steps)
    found = cast(Array, solution.ys)[-1]
    return jnp.where(solution.result == diffrax.RESULTS.successful, found, jnp.nan)


def diffrax_ends(f: Callable, args: Array, y0: Array, ts: Array, rtol: Any, atol: Any) -> Array:
    """The end states of many, by `vmap`; differentiated by `RecursiveCheckpointAdjoint`."""
    return jax.vmap(lambda a, y: diffrax_end(f, a, y, ts, rtol, atol, 4096))(args, y0)


def diffrax_run(problem: Stiff) -> Run:
    end = jax.jit(partial(diffrax_end, problem.field))
    ts, y0, rates = jnp.array([0.0, problem.t1]), jnp.array(problem.y0), jnp.array(problem.rates)
    return lambda rtol: end(rates, y0, ts, rtol, rtol * problem.share)


def cvode_run(problem: Stiff) -> Run | None:
    """CVODE's BDF from Python, by scikit-sundae; None where that is not installed."""
    if util.find_spec("sksundae") is None:
        return None
    from sksundae.cvode import CVODE

    def field(t: float, y: np.ndarray, slope: np.ndarray) -> None:
        slope[:] = problem.in_python(t, y)

    # Three times: of two, it would return every step.
    times, y0 = np.array([0.0, 0.5, 1.0]) * problem.t1, np.array(problem.y0)

    def run(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol * problem.share, "max_num_steps": 1_000_000}
        solution = CVODE(field, **options).solve(times, y0)
        return solution.y[-1] if solution.success else np.full_like(y0, np.nan)

    return run


def lsoda_run(problem: Stiff) -> Run:
    y0, times = np.array(problem.y0), np.array([0.0, problem.t1])

    def run(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol * problem.share, "mxstep": 1_000_000}
        return scipy.integrate.odeint(problem.in_python, y0, times, tfirst=True, **options)[-1]

    return run


def scipy_run(method: str, problem: Stiff) -> Run:
    y0, span = np.array(problem.y0), (0.0, problem.t1)

    def run(rtol: float) -> np.ndarray:
        found = scipy.integrate.solve_ivp(
            problem.in_python, span, y0, method, rtol=rtol, atol=rtol * problem.share
        )
        return found.y[:, -1] if found.success else np.full_like(y0, np.nan)

    return run
