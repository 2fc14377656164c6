"""The options of `solve` that every model takes: their types, defaults and validation."""

from collections.abc import Callable
from typing import Any, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, PyTree

from ..drivers.eager_model import run_model
from ..drivers.options import (
    Sensitivity,
    check_dt,
    check_max_steps,
    find_sensitivity,
    find_solver,
)
from ..drivers.solve import solve
from ..drivers.solve_batch import solve_batch
from ..integrate.progress import solve_progress
from ..integrate.solution import Solution
from ..problem.errors import unknown_name
from ..problem.field import call_field
from ..problem.promotion import with_own_promotion
from ..problem.staging import under_jit
from ..problem.state import Packing, is_traced
from ..problem.tolerances import check_not_both_zero, check_tolerance
from ..problem.validation import check_flag
from ..solvers.base import Solver
from ..solvers.step_size import Controller


class SolveOptions(TypedDict, total=False):
    """The options that every model passes on to `solve`, by their names there."""

    solver: str | Solver
    sensitivity: str | Sensitivity
    controller: Controller | None
    rtol: ArrayLike
    atol: ArrayLike
    dt: ArrayLike | None
    max_steps: int | None
    throw: bool
    progress: bool | None


# Those of `solve`, but `rtol`: what is trained does not depend on the fourth digit of a solve.
DEFAULTS: SolveOptions = {
    "solver": "tsit5",
    "sensitivity": "discrete",
    "controller": None,
    "rtol": 1e-3,
    "atol": 1e-6,
    "dt": None,
    "max_steps": 4096,
    "throw": True,
    "progress": None,
}


class Settings(eqx.Module):
    """The validated options by which a model solves, with the calls of `solve` and `solve_batch`.

    **Raises:** `OptionError` for an unknown option or a bad value.
    """

    solver: Solver
    sensitivity: Sensitivity
    controller: Controller | None
    rtol: ArrayLike
    atol: ArrayLike
    dt: ArrayLike | None
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)
    progress: bool | None = eqx.field(static=True)

    def __init__(self, options: SolveOptions, **defaults: Any) -> None:
        for name in options:
            if name not in DEFAULTS:
                raise unknown_name("option", name, DEFAULTS)
        chosen: Any = {**DEFAULTS, **defaults, **options}
        self.solver = find_solver(chosen["solver"])
        self.sensitivity = find_sensitivity(chosen["sensitivity"])
        self.controller = _to_python_numbers(chosen["controller"])
        self.rtol, self.atol, self.dt = _to_python_numbers(
            (chosen["rtol"], chosen["atol"], chosen["dt"])
        )
        self.max_steps = check_max_steps(chosen["max_steps"])
        self.throw = check_flag("throw", chosen["throw"])
        solve_progress(chosen["progress"])
        self.progress = chosen["progress"]

    def solve(
        self, field: Callable, y0: PyTree, ts: Any, args: PyTree = None, **overrides: Any
    ) -> Solution:
        """`solve` for one sample; `overrides` are options of it that the model sets."""
        return solve(_AnySignature(field), y0, ts, args, **{**self._options(), **overrides})

    def solve_batch(
        self,
        field: Callable,
        y0: PyTree,
        ts: Any,
        args: PyTree = None,
        in_axes: Any = None,
        **overrides: Any,
    ) -> Solution:
        """`solve_batch` for samples along a first axis; `ts` and `args` are shared by default."""
        options = {**self._options(), "in_axes": in_axes or (0, None, None), **overrides}
        return solve_batch(_AnySignature(field), y0, ts, args, **options)

    def with_arrays(self, state: Array) -> "Settings":
        """The settings whose tolerances and `dt` are arrays: other values are no other program.

        `state`: an array of the precision in which the model solves.

        **Raises:** `ToleranceError` and `OptionError`. **Warns:** `ToleranceWarning`.
        """
        names = [name for name in ("rtol", "atol", "dt") if isinstance(getattr(self, name), float)]
        if not names or is_traced(state):
            return self
        check_not_both_zero(self.rtol, self.atol)
        check_dt(self.dt)
        for name in {"rtol", "atol"}.intersection(names):
            check_tolerance(name, getattr(self, name), Packing.of(state), state)
        arrays = [np.asarray(getattr(self, name), state.dtype) for name in names]
        return eqx.tree_at(lambda s: [getattr(s, name) for name in names], self, arrays)

    def _options(self) -> Any:
        return {name: getattr(self, name) for name in DEFAULTS}


@with_own_promotion
def run_with_settings(function: Callable[..., Any], model: Any, *args: Any) -> Any:
    """`function(model, *args)`, as `run_model` runs it; tolerances of models are arrays.

    The last floating-point array of `args[0]` has the precision of the states.
    """
    if under_jit():
        return function(model, *args)
    state = [x for x in jax.tree.leaves(args[0]) if jnp.issubdtype(x.dtype, jnp.floating)][-1]

    def with_arrays(part: Any) -> Any:
        return part.with_arrays(state) if isinstance(part, Settings) else part

    model = jax.tree.map(with_arrays, model, is_leaf=lambda part: isinstance(part, Settings))
    return run_model(function, model, *args)


class _AnySignature(eqx.Module):
    """A field of `(y)`, `(t, y)` or `(t, y, args)`, called with all three arguments."""

    field: Callable[..., Array]

    @property
    def func(self) -> Callable[..., Array]:
        """The user's field, by whose name messages speak of it."""
        return self.field

    def __call__(self, t: Array, y: Array, args: PyTree) -> Array:
        return call_field(self.field, t, y, args)


def _to_python_numbers(settings: PyTree) -> Any:
    """Concrete arrays as Python numbers, which no optimiser takes for parameters."""

    def to_python(x: Any) -> Any:
        concrete = isinstance(x, jax.Array | np.ndarray) and not is_traced(x)
        return np.asarray(x).tolist() if concrete else x

    return jax.tree.map(to_python, settings)
