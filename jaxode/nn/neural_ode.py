"""The neural ODE: a vector field solved from t0 to t1 as one layer."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, PyTree

from ..integrate.solution import Solution
from ..problem.errors import DataError, FieldError
from ..problem.times import check_time
from ..problem.validation import check_count
from .batched_solve import solve_samples
from .solve_options import Settings, SolveOptions


class NeuralODE(eqx.Module):
    """Maps `x` to the state at `t1` of the ODE that starts at `x` and follows `field`.

    **Arguments:**

    - `field`: a network or function of `(y)`, `(t, y)` or `(t, y, args)` for one sample, such as
      those of `jo.nn`; its output has the shape of `y`. Each sample of a batch takes steps of its
      own.
    - `t0`, `t1`: the span of time, the depth of the layer.
    - `augment`: this many zeros are appended to the first axis of each sample (its features or
      channels) before the solve; `field` acts on the longer sample, and outputs have the added
      features too, so a loss such as the cross entropy sees them all.
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
    settings: Settings
    batched = True
    # `fit` and `plotting.flow` then call `solve`, whose end state `y1` is the prediction.
    flow_map = True

    def __init__(
        self,
        field: Callable[..., Array],
        *,
        t0: float = 0.0,
        t1: float = 1.0,
        augment: int = 0,
        **options: Unpack[SolveOptions],
    ) -> None:
        if not callable(field) or isinstance(field, type):
            raise FieldError(
                f"the field must be a callable such as an eqx.nn.MLP instance, got {field!r}"
            )
        self.field = field
        self.t0, self.t1 = float(check_time("t0", t0)), float(check_time("t1", t1))
        self.augment = check_count("augment", augment, least=0)
        self.settings = Settings(options)

    def __call__(
        self,
        x: Float[Array, "*batch features"],
        ts: Float[Array, "*batch times"] | None = None,
        args: PyTree = None,
        *,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Float[Array, "*times_batch features"]:
        """The state at `t1`, shaped like `x` with the augmented features.

        `x` is one sample if it has one axis, else a batch along the first. With `ts` the result is
        the trajectory at these times, its first axis the times; `ts[0]` is the time of `x`. Times
        of shape `(batch, times)` are per sample, and a shorter series repeats its last time. `args`
        are shared by the batch, except what `args_axes` maps, as an entry of `vmap`'s `in_axes`.
        `key` is for the random values that the field draws once per solve, such as dropout.
        """
        solution = self.solve(x, ts, args, args_axes=args_axes, key=key)
        return solution.y1 if ts is None else solution.ys

    def solve(
        self,
        x: Array,
        ts: ArrayLike | None = None,
        args: PyTree = None,
        *,
        args_axes: Any = None,
        key: Array | None = None,
    ) -> Solution:
        """The `Solution` from `x`, with `ys`, `stats` and `status`.

        `ys` is shaped as in a call; of a batch `stats` and `status` have an axis of samples.
        """
        times = (self.t0, self.t1) if ts is None else ts
        return self._solve(self._append_zeros(_check_sample(x)), times, args, args_axes, key)

    def inverse(
        self, y1: Array, args: PyTree = None, *, args_axes: Any = None, key: Array | None = None
    ) -> Array:
        """The state at `t0` that leads to `y1` at `t1`, by a solve backwards in time.

        `y1` and the result have the augmented features.
        """
        return self._solve(_check_sample(y1), (self.t1, self.t0), args, args_axes, key).y1

    def _append_zeros(self, x: Array) -> Array:
        if not self.augment:
            return x
        axis = min(1, x.ndim - 1)
        shape = list(x.shape)
        shape[axis] = self.augment
        return jnp.concatenate([x, jnp.zeros(shape, x.dtype)], axis)

    def _solve(
        self, y0: Array, ts: Any, args: PyTree, args_axes: Any, key: Array | None
    ) -> Solution:
        try:
            if y0.ndim == 1:
                return solve_samples(self.field, y0, ts, args, self.settings, key=key)
            axes = 0, 0 if np.ndim(ts) == 2 else None, args_axes
            solution = solve_samples(self.field, y0, ts, args, self.settings, in_axes=axes, key=key)
            return dataclasses.replace(solution, ys=jnp.moveaxis(solution.ys, 1, 0))
        except FieldError as error:
            size = y0.shape[min(1, y0.ndim - 1)]
            error.add_note(
                f"NeuralODE: each sample has {size} features, of which augment={self.augment} are "
                "added; the field must take and return as many"
            )
            raise


def _check_sample(x: Any) -> Array:
    if not isinstance(x, Array) and not hasattr(x, "__array__"):
        raise DataError(f"x must be an array of samples, got {type(x).__name__}")
    x = jnp.asarray(x)
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"x must be a sample (features,) or a batch, got shape {x.shape}")
    return x
