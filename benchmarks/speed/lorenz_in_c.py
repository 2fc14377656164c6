"""The Lorenz ensemble in hand-vectorised C (`lorenz.c`), called by ctypes."""

import ctypes
import pathlib
from collections.abc import Callable

import numpy as np

from benchmarks.harness.c_library import compile_c

SOURCE = pathlib.Path(__file__).with_name("lorenz.c")
FIRST_STEP = 1e-3


def make_lorenz_in_c(
    y0: np.ndarray, args: np.ndarray, t1: float, rtol: float, atol: float
) -> Callable[[], tuple[np.ndarray, int]] | None:
    """A function that returns end states and attempted steps; None if there is no C compiler."""
    library = compile_c(SOURCE)
    if library is None:
        return None
    solve = library.solve
    array = np.ctypeslib.ndpointer(np.float64, ndim=2, flags="C")
    solve.argtypes = [ctypes.c_long, array, array, array, *4 * [ctypes.c_double]]
    solve.restype = ctypes.c_long
    y0, args = (np.ascontiguousarray(x, np.float64) for x in (y0, args))
    ends = np.empty_like(y0)

    def solve_ensemble() -> tuple[np.ndarray, int]:
        steps = solve(len(y0), y0, args, ends, t1, rtol, atol, FIRST_STEP)
        return ends, steps

    return solve_ensemble
