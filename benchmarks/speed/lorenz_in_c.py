"""The Lorenz ensemble in hand-vectorised C (`lorenz.c`), compiled here and called by ctypes."""

import ctypes
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np

SOURCE = pathlib.Path(__file__).with_name("lorenz.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
FIRST_STEP = 1e-3


def lorenz(
    y0: np.ndarray, args: np.ndarray, t1: float, rtol: float, atol: float
) -> Callable[[], tuple[np.ndarray, int]] | None:
    """A call that gives end states and steps tried; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / "lorenz.so"
        subprocess.run([compiler, *FLAGS, SOURCE, "-o", library, "-lm"], check=True)
        solve = ctypes.CDLL(str(library)).solve
    array = np.ctypeslib.ndpointer(np.float64, ndim=2, flags="C")
    solve.argtypes = [ctypes.c_long, array, array, array, *4 * [ctypes.c_double]]
    solve.restype = ctypes.c_long
    y0, args = (np.ascontiguousarray(x, np.float64) for x in (y0, args))
    ends = np.empty_like(y0)

    def run() -> tuple[np.ndarray, int]:
        steps = solve(len(y0), y0, args, ends, t1, rtol, atol, FIRST_STEP)
        return ends, steps

    return run
