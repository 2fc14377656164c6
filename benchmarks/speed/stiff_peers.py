"""The peers on single stiff problems, each as its own documentation advises; equal tolerances.

SciPy and CVODE evaluate the vector field in Python, on Python floats, and approximate the Jacobian
by finite differences. SciPy's LSODA is called through `odeint`, whose compiled loop is several
times as fast as `solve_ivp`.
"""

import functools
from functools import partial
from importlib import util

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from benchmarks.harness.peers import diffrax_stiff_end
from benchmarks.harness.work_precision import EndStateByRtol
from benchmarks.problems.stiff import StiffProblem

DIFFRAX_SOLVERS = ("Kvaerno3", "Kvaerno4", "Kvaerno5", "KenCarp3", "KenCarp4", "KenCarp5")


@functools.cache
def peer_solves(problem: StiffProblem) -> dict[str, dict[str, EndStateByRtol]]:
    """For each installed peer, the solves of `problem` by its solvers."""
    cvode = cvode_solve(problem)
    return {
        "diffrax": {name: diffrax_solve(name, problem) for name in DIFFRAX_SOLVERS},
        **({} if cvode is None else {"CVODE": {"BDF": cvode}}),
        "SciPy LSODA": {"LSODA": lsoda_solve(problem)},
        "SciPy, its best of Radau and BDF": {
            name: scipy_solve(name, problem) for name in ("Radau", "BDF")
        },
    }


def diffrax_solve(solver: str, problem: StiffProblem) -> EndStateByRtol:
    """The solve by one of diffrax's stiff solvers."""
    solve = partial(diffrax_stiff_end, problem.field, solver=getattr(diffrax, solver)())
    end_state = jax.jit(solve)
    ts, y0, rates = jnp.array([0.0, problem.t1]), jnp.array(problem.y0), jnp.array(problem.rates)
    return lambda rtol: end_state(rates, y0, ts, rtol, rtol * problem.atol_per_rtol)


def cvode_solve(problem: StiffProblem) -> EndStateByRtol | None:
    """The solve by CVODE's BDF from Python; None if scikit-sundae is not installed."""
    if util.find_spec("sksundae") is None:
        return None
    from sksundae.cvode import CVODE

    def field(t: float, y: np.ndarray, dy: np.ndarray) -> None:
        dy[:] = problem.python_field(t, y)

    # With two times only, CVODE would return every step.
    times, y0 = np.array([0.0, 0.5, 1.0]) * problem.t1, np.array(problem.y0)

    def end_state(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol * problem.atol_per_rtol, "max_num_steps": 1_000_000}
        solution = CVODE(field, **options).solve(times, y0)
        return solution.y[-1] if solution.success else np.full_like(y0, np.nan)

    return end_state


def lsoda_solve(problem: StiffProblem) -> EndStateByRtol:
    """The solve by SciPy's LSODA."""
    y0, times = np.array(problem.y0), np.array([0.0, problem.t1])

    def end_state(rtol: float) -> np.ndarray:
        options = {"rtol": rtol, "atol": rtol * problem.atol_per_rtol, "mxstep": 1_000_000}
        return scipy.integrate.odeint(problem.python_field, y0, times, tfirst=True, **options)[-1]

    return end_state


def scipy_solve(method: str, problem: StiffProblem) -> EndStateByRtol:
    """The solve by one of the implicit methods of SciPy's `solve_ivp`."""
    y0, span = np.array(problem.y0), (0.0, problem.t1)

    def end_state(rtol: float) -> np.ndarray:
        solution = scipy.integrate.solve_ivp(
            problem.python_field, span, y0, method, rtol=rtol, atol=rtol * problem.atol_per_rtol
        )
        return solution.y[:, -1] if solution.success else np.full_like(y0, np.nan)

    return end_state
