"""What a solve returns: values, how it went, and dense output."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import PyTree

from ..problem.errors import OptionError, SolveError
from ..problem.state import Packing
from ..problem.status import Status


class Stats(eqx.Module):
    """Counts of one solve, int32 scalars.

    - `num_steps`: attempted; `num_accepted` and `num_rejected` sum to it.
    - `num_evaluations`: calls of the vector field, forward solve only; of a field in two parts,
      those of the first. A Jacobian counts as one.
    - `num_jacobians`, `num_factorisations`: of solvers that keep them over steps; else None.
    - `t_reached`: the last time an accepted step ended at.
    - `useful_share`: of a batch, the share of its lanes' steps that trajectories took, a scalar;
      else None.
    - `engine`: what ran it, "kernel" or "xla"; where a kernel was only wished for, "xla: " and why
      there is none.
    """

    num_steps: Array
    num_accepted: Array
    num_rejected: Array
    num_evaluations: Array
    t_reached: Array
    num_jacobians: Array | None = None
    num_factorisations: Array | None = None
    useful_share: Array | None = None
    engine: str = eqx.field(static=True, default="xla")


class DenseOutput(eqx.Module):
    """The recorded steps, and how to read the state between them."""

    t: Array
    h: Array
    y: Array
    dense: Array
    count: Array
    interpolate: Callable[..., Array]
    packing: Packing = eqx.field(static=True)
    last: Array | None = None  # the time at which an event may have ended it

    def __call__(self, t: Array) -> PyTree:
        """The state at `t`, a scalar or an array of times, whose axes come first; NaN outside."""
        t = jnp.asarray(t, self.t.dtype)
        return self.packing.unpack(
            jax.vmap(self._at)(t.reshape(-1)).reshape(t.shape + self.y.shape[1:])
        )

    def _at(self, t: Array) -> Array:
        sign = jnp.where(self.h[0] < 0, -1.0, 1.0).astype(t.dtype)
        slots = jnp.arange(self.t.shape[0])
        starts = jnp.where(slots < self.count, sign * self.t, jnp.inf)
        index = jnp.clip(jnp.searchsorted(starts, sign * t, side="right") - 1, 0)
        start, h = self.t[index], self.h[index]
        theta = (t - start) / jnp.where(h == 0, 1.0, h)
        value = self.interpolate(theta, self.y[index], h, tuple(self.dense[index]))
        slack = 4 * jnp.finfo(t.dtype).eps * jnp.maximum(jnp.abs(start), jnp.abs(h))
        known = (sign * (t - start) >= -slack) & (sign * (t - start - h) <= slack)
        if self.last is not None:
            known = known & (sign * (t - self.last) <= slack)
        return jnp.where(known, jnp.where(h == 0, self.y[index], value), jnp.nan)


class Events(eqx.Module):
    """The events that a solve met, in order; unused places are NaN, and -1.

    - `ts`: when, shape `(max_events,)`. `ys`: the states then, before `apply`, a pytree like `y0`.
    - `index`: which event, int32. `count`: how many, int32. `terminated`: whether the last one
      ended the solve, boolean.
    """

    ts: Array
    ys: PyTree
    index: Array
    count: Array
    terminated: Array


class Solution(eqx.Module):
    """The outcome of `solve`.

    - `ts`: the times of `ys`, shape `(times,)`.
    - `ys`: the saved values, a pytree like `y0` (or like what the `save` function returns) with a
      leading axis of times. Rows that were not reached are NaN.
    - `y1`: the state at the last time, or where an event ended the solve, a pytree like `y0`; NaN
      if it was not reached.
    - `stats`: a `Stats`. `status`: int32, a `Status` by number.
    - `sol(t)`: the state at any `t` of the solve, where `save="dense"`.
    - `events`: an `Events`, where there were any to look for.
    """

    ts: Array
    ys: PyTree
    y1: PyTree
    stats: Stats
    status: Array
    dense: DenseOutput | None = None
    events: Events | None = None

    @property
    def success(self) -> Array:
        """Whether the last time was reached, a boolean array."""
        return self.status == Status.SUCCESS

    def __call__(self, t: Any) -> PyTree:
        """The state at `t`, a scalar or an array of times inside the solve.

        Of many solutions their axes come first.

        **Raises:** `OptionError` unless the solve was made with `save="dense"`.
        """
        if self.dense is None:
            raise OptionError('sol(t) needs dense output: call solve(..., save="dense")')
        at = DenseOutput.__call__
        for _ in range(self.status.ndim):
            at = eqx.filter_vmap(at, in_axes=(eqx.if_array(0), None))
        return at(self.dense, jnp.asarray(t))


def raise_on_failure(solution: Solution, advice: str = "") -> None:
    """Raise `SolveError` if the status is known here, outside any `jit`, and is a failure.

    `advice`: what else may be the cause where the steps ran out or became too small.
    """
    status, stats = lax.stop_gradient((solution.status, solution.stats))
    if isinstance(status, Tracer):
        return
    failed = np.flatnonzero(np.asarray(status))
    if failed.size == 0:
        return
    first = () if status.ndim == 0 else np.unravel_index(failed[0], status.shape)
    found = Status(int(status[first]))
    who = (
        ""
        if status.ndim == 0
        else (f"{failed.size} of {status.size} trajectories failed, the first number {failed[0]}: ")
    )
    more = f". {advice}" if found in (Status.MAX_STEPS, Status.STEP_UNDERFLOW) and advice else ""
    raise SolveError(
        f"{who}{found.name}: at t = {float(stats.t_reached[first]):.6g} after "
        f"{int(stats.num_steps[first])} steps {found.message}{more}. (throw=False returns the "
        "solution as far as it got.)"
    )
