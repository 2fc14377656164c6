"""A network, or any field, as a layer of continuous depth."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, PyTree

from ..control import Controller
from ..errors import DataError, FieldError, OptionError
from ..options import Sensitivity, check_max_steps, find_sensitivity, find_solver
from ..problem import call_field, is_traced
from ..solution import Solution
from ..solve import solve
from ..solve_batch import solve_batch
from ..stepping.solver import Solver


class NeuralODE(eqx.Module):
    """Maps `x` to the state at `t1` of the ODE that starts at `x` and follows `field`.

    **Arguments:**

    - `field`: a network or function of `(y)`, `(t, y)` or `(t, y, args)` for one sample; its
      output has the shape of `y`. Each sample of a batch takes steps of its own.
    - `t0`, `t1`: the span of depth.
    - `augment`: this many zeros are appended to the first axis of each sample (its features or
      channels) before the solve; `field` then works on the longer sample, and longer samples are
      what comes out, so a loss such as the cross entropy sees them all.
    - `solver`, `rtol`, `atol`, `dt`, `controller`, `sensitivity`, `max_steps`, `throw`,
      `progress`: as in `solve`.

    **Raises:** `OptionError` and `FieldError` for bad options; what `solve` raises when called.

    Source: Chen et al., Neural ordinary differential equations (2018), arXiv 1806.07366;
    augmentation: Dupont et al. (2019), arXiv 1904.01681.
    """

    field: Callable[..., Array]
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    augment: int = eqx.field(static=True)
    solver: Solver
    sensitivity: Sensitivity
    controller: Controller | None
    rtol: ArrayLike
    atol: ArrayLike
    dt: ArrayLike | None
    max_steps: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)
    progress: bool | None = eqx.field(static=True)
    batched = True

    def __init__(
        self,
        field: Callable[..., Array],
        *,
        t0: float = 0.0,
        t1: float = 1.0,
        augment: int = 0,
        solver: str | Solver = "tsit5",
        sensitivity: str | Sensitivity = "discrete",
        rtol: ArrayLike = 1e-4,
        atol: ArrayLike = 1e-6,
        dt: ArrayLike | None = None,
        controller: Controller | None = None,
        max_steps: int = 4096,
        throw: bool = True,
        progress: bool | None = None,
    ) -> None:
        if not callable(field) or isinstance(field, type):
            raise FieldError(
                f"the field must be a callable such as an eqx.nn.MLP instance, got {field!r}"
            )
        if isinstance(augment, bool) or not isinstance(augment, int) or augment < 0:
            raise OptionError(f"augment must be a non-negative integer, got {augment!r}")
        self.field = field
        self.t0, self.t1 = float(t0), float(t1)
        self.augment = augment
        self.solver = find_solver(solver)
        self.sensitivity = find_sensitivity(sensitivity)
        self.controller = _plain(controller)
        self.rtol, self.atol, self.dt = _plain((rtol, atol, dt))
        self.max_steps = check_max_steps(max_steps)
        self.throw, self.progress = throw, progress

    def __call__(
        self,
        x: Float[Array, "*batch features"],
        ts: Float[Array, " times"] | None = None,
        args: PyTree = None,
        *,
        key: Any = None,
    ) -> Float[Array, "*times_batch features"]:
        """The state at `t1`, shaped like `x` with the augmented features.

        `x` is one sample if it has one axis, else a batch along the first. With `ts` the
        trajectory at these times comes back, its first axis the times; `ts[0]` is the time of
        `x`. `key` is accepted, and ignored, so that the model fits into `eqx.nn.Sequential`.
        """
        solution = self.solve(x, ts, args)
        return solution.y1 if ts is None else solution.ys

    def solve(self, x: Array, ts: ArrayLike | None = None, args: PyTree = None) -> Solution:
        """The whole `Solution` from `x`: its `ys`, `stats` and `status`.

        `ys` is shaped as in a call; of a batch `stats` and `status` have an axis of samples.
        """
        return self._run(
            self._augmented(_sample(x)), (self.t0, self.t1) if ts is None else ts, args
        )

    def inverse(self, y1: Array, args: PyTree = None) -> Array:
        """The state at `t0` that leads to `y1` at `t1`: the flow run backwards.

        `y1` and the result have the augmented features.
        """
        return self._run(_sample(y1), (self.t1, self.t0), args).y1

    def _augmented(self, x: Array) -> Array:
        if not self.augment:
            return x
        axis = min(1, x.ndim - 1)
        shape = list(x.shape)
        shape[axis] = self.augment
        return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis)

    def _run(self, y0: Array, ts: Any, args: PyTree) -> Solution:
        options = {
            "solver": self.solver,
            "rtol": self.rtol,
            "atol": self.atol,
            "dt": self.dt,
            "controller": self.controller,
            "sensitivity": self.sensitivity,
            "max_steps": self.max_steps,
            "throw": self.throw,
            "progress": self.progress,
        }
        field = _OfSample(self.field)
        try:
            if y0.ndim == 1:
                return solve(field, y0, ts, args, **options)
            solution = solve_batch(field, y0, ts, args, **options)
            return dataclasses.replace(solution, ys=jnp.moveaxis(solution.ys, 1, 0))
        except FieldError as error:
            size = y0.shape[min(1, y0.ndim - 1)]
            error.add_note(
                f"NeuralODE: each sample has {size} features, of which augment={self.augment} are "
                "added; the field must take and return as many"
            )
            raise


class _OfSample(eqx.Module):
    """A field of `(y)`, `(t, y)` or `(t, y, args)` as one of all three."""

    field: Callable[..., Array]

    def __call__(self, t: Array, y: Array, args: PyTree) -> Array:
        return call_field(self.field, t, y, args)


def _plain(settings: PyTree) -> Any:
    """Known numbers as Python's own, which no optimiser takes for parameters."""

    def plain(x: Any) -> Any:
        known = isinstance(x, jax.Array | np.ndarray) and not is_traced(x)
        return np.asarray(x).tolist() if known else x

    return jax.tree.map(plain, settings)


def _sample(x: Any) -> Array:
    if not isinstance(x, jax.Array) and not hasattr(x, "__array__"):
        raise DataError(f"x must be an array of samples, got {type(x).__name__}")
    x = jnp.asarray(x)
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"x must be a sample (features,) or a batch, got shape {x.shape}")
    return x
