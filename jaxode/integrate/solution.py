"""The solution of a solve: values, statistics, status, events and dense output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import PyTree

from ..problem.errors import OptionError, SolveError, StiffnessWarning, TimesError, warn_user
from ..problem.origin import Origin
from ..problem.promotion import with_own_promotion
from ..problem.state import Packing, is_traced
from ..problem.status import Status
from ..problem.times import shown
from ..problem.validation import check_count, real_array
from .missing import missing_where
from .save import step_fraction


class Stats(eqx.Module):
    """The statistics of a solve; counts are int32 scalars (of a batch: one per trajectory).

    - `num_steps`: attempted steps, the sum of `num_accepted` and `num_rejected`.
    - `num_evaluations`: evaluations of the vector field in the forward solve; of a field in two
      parts, of the first part. A Jacobian counts as one.
    - `num_jacobians`, `num_factorisations`: of solvers that reuse them over steps; else None.
    - `num_stability_bound`: of an explicit solver with step-size control, the accepted steps whose
      size stability and not accuracy bound; -1 in lanes, where it is not counted; else None.
    - `t_reached`: the time at which the last accepted step ended. `next_dt`: the size of the step
      that would have followed, positive; NaN of a solve in a kernel.
    - `useful_share`: of a batch, the share of its lanes' steps that were not idle, a scalar; else
      None.
    - `engine`: "kernel" or "xla", the engine that ran the solve; under `kernel="auto"`, "xla: "
      with the reason why there is no kernel.
    """

    num_steps: Array
    num_accepted: Array
    num_rejected: Array
    num_evaluations: Array
    t_reached: Array
    next_dt: Array
    num_jacobians: Array | None = None
    num_factorisations: Array | None = None
    num_stability_bound: Array | None = None
    useful_share: Array | None = None
    engine: str = eqx.field(static=True, default="xla")


class DenseOutput(eqx.Module):
    """Dense output: the recorded steps, and the interpolant on each of them."""

    t: Array
    h: Array
    y: Array
    dense: Array
    count: Array
    interpolate: Callable[..., Array]
    packing: Packing = eqx.field(static=True)
    last: Array | None = None  # the end of the solve, which an event may have moved

    def __call__(self, t: Array) -> PyTree:
        """Evaluate the state at `t`, a scalar or an array whose axes come first; NaN outside."""
        t = jnp.asarray(t, self.t.dtype)
        states = self.packed_at(t.reshape(-1))
        return self.packing.unpack(states.reshape(t.shape + self.y.shape[1:]))

    def derivative(self, t: Array) -> PyTree:
        """Evaluate the derivative of the interpolant by time, as `__call__` does the state."""
        t = jnp.asarray(t, self.t.dtype)

        def slope(t: Array) -> Array:
            return jax.jvp(lambda t: self._at(t, False), (t,), (jnp.ones_like(t),))[1]

        slopes = jax.vmap(slope)(t.reshape(-1))
        return self.packing.unpack(slopes.reshape(t.shape + self.y.shape[1:]))

    def packed_at(self, ts: Array, before: bool = False) -> Array:
        """The packed states at `ts`, a vector; at the end of a step those of the step after it.

        `before`: there those of the step that ends, but at the start of the solve.
        """
        return jax.vmap(lambda t: self._at(t, before))(ts)

    def _at(self, t: Array, before: bool) -> Array:
        sign = jnp.where(self.h[0] < 0, -1.0, 1.0).astype(t.dtype)
        slots = jnp.arange(self.t.shape[0], dtype=jnp.int32)
        starts = jnp.where(slots < self.count, sign * self.t, jnp.inf)
        side = "left" if before else "right"
        index = jnp.clip(jnp.searchsorted(starts, sign * t, side=side) - 1, 0)
        start, h = self.t[index], self.h[index]
        slack = 4 * jnp.finfo(t.dtype).eps * jnp.maximum(jnp.abs(start), jnp.abs(h))
        known = (sign * (t - start) >= -slack) & (sign * (t - start - h) <= slack)
        if self.last is not None:
            known = known & (sign * (t - self.last) <= slack)
        # Infinity would make derivatives NaN that are multiplied by zero.
        inside = jnp.where(known, t, start)
        theta = step_fraction(inside, start, jnp.where(h == 0, 1.0, h), self.y)
        value = self.interpolate(theta, self.y[index], h, tuple(self.dense[index]))
        return missing_where(~known, jnp.where(h == 0, self.y[index], value))


class Occurrences(NamedTuple):
    """The occurrences of one event, in order: those in the rows where `mask` holds, zeros beyond.

    `ts`: the times, shape `(max_events,)`. `ys`: the states before `apply`. Both have derivatives.
    """

    ts: Array
    ys: PyTree
    mask: Array


class Events(eqx.Module):
    """The events that occurred in a solve, in order; unused rows are NaN, or -1 in `index`.

    - `ts`: the times, shape `(max_events,)`. `ys`: the states at these times, before `apply`, a
      pytree like `y0` with a leading axis of events.
    - `index`: the position of each event in `events=`, int32 `(max_events,)`. `entry`: the entry of
      its condition that crossed zero, where that is a vector, else 0.
    - `count`: the number of events, int32. `terminated`: True if the last one ended the solve.
    - `sizes`: for each of `events=` the number of entries of its condition, 1 of a scalar.
    """

    ts: Array
    ys: PyTree
    index: Array
    count: Array
    terminated: Array
    entry: Array
    sizes: tuple[int, ...] = eqx.field(static=True)

    @with_own_promotion
    def of(self, index: int, entry: int | None = None) -> "Occurrences":
        """The occurrences of one of `events=` alone, without NaN.

        `index`: its position there. `entry`: of a vector of conditions, one entry; None for all.

        **Raises:** `OptionError` for an event or an entry that does not exist.
        """
        number = check_count("index of sol.events.of", index, 0, len(self.sizes) - 1)
        own = self.index == number
        if entry is not None:
            most = self.sizes[number] - 1
            own = own & (self.entry == check_count("entry of sol.events.of", entry, 0, most))
        # Times from an origin are arrays of NumPy: JAX would not keep their digits.
        space: Any = np if isinstance(self.ts, np.ndarray) else jnp
        order = jnp.argsort(~own, axis=-1, stable=True)

        def in_order(x: Any, space: Any = jnp) -> Any:
            extra = x.ndim - order.ndim
            place = space.asarray(order).reshape(*order.shape, *[1] * extra)
            return space.take_along_axis(x, place, axis=order.ndim - 1)

        mask = in_order(own)

        def known(x: Any, space: Any = jnp) -> Any:
            rows = in_order(x, space)
            there = space.asarray(mask).reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
            return space.where(there, rows, space.zeros_like(rows))

        return Occurrences(known(self.ts, space), jax.tree.map(known, self.ys), mask)


class Solution(eqx.Module):
    """The solution that `solve` and `solve_batch` return.

    - `ts`: the times of `ys`, shape `(times,)`, in the precision in which they were given.
    - `ys`: the saved values, a pytree like `y0` (or like the output of the `save` function) with a
      leading axis of times. Rows that were not reached are NaN.
    - `y1`: the state at the last time, or where an event ended the solve, a pytree like `y0`; NaN
      if it was not reached.
    - `stats`: a `Stats`. `status`: int32, a `Status` by number. `message`: that as a sentence.
    - `sol(t)`: the state at any `t` of the solve, with `save="dense"`; `sol.derivative(t)`: the
      derivative of that by time.
    - `events`: an `Events` if the solve had any to detect, else None.
    - `origin`: of a solve whose times float32 cannot hold, the time from which it counted; else
      None. The times in a solution are then in float64 of NumPy where their values are known.
    """

    ts: Array
    ys: PyTree
    y1: PyTree
    stats: Stats
    status: Array
    dense: DenseOutput | None = None
    events: Events | None = None
    origin: Origin | None = None

    @property
    def success(self) -> Array:
        """True where the solve reached its last time or a terminal event, a boolean array."""
        return self.status == Status.SUCCESS

    @property
    def message(self) -> str:
        """The status as a sentence; of a batch, how many solves failed and why the first did."""
        if isinstance(self.status, Tracer):
            return "the status is known once the compiled program has run"
        status = np.asarray(self.status)
        failed = np.flatnonzero(status)
        if status.ndim == 0 or not failed.size:
            which = "" if status.ndim == 0 else f"all {status.size} trajectories: "
            return which + Status(int(status.flat[0] if status.size else 0)).message
        first = Status(int(status.flat[failed[0]])).message
        return f"{failed.size} of {status.size} failed, the first number {failed[0]}: {first}"

    def __call__(self, t: Any) -> PyTree:
        """Evaluate the state at `t`, a scalar or an array of times inside the solve.

        The axes of a batch of solutions come first.

        **Raises:** `OptionError` unless the solve was made with `save="dense"`; `TimesError` for a
        `t` that holds no real numbers.
        """
        return self._evaluate(DenseOutput.__call__, t)

    def derivative(self, t: Any) -> PyTree:
        """Evaluate the derivative of `sol(t)` by time; where two steps meet, that of the later one.

        It is the derivative of the interpolant, whose order is one less than that of `sol(t)`:
        `f(t, sol(t), args)` is more accurate.

        **Raises:** as `sol(t)`.
        """
        return self._evaluate(DenseOutput.derivative, t)

    @with_own_promotion
    def _evaluate(self, evaluate: Callable[..., PyTree], t: Any) -> PyTree:
        if self.dense is None:
            raise OptionError('sol(t) needs dense output: call solve(..., save="dense")')
        t, own = real_array("t", t, TimesError), False
        if self.origin is not None:
            own = self.origin.of_each
            t = self.origin.offsets_of_all(t)
        for _ in range(self.status.ndim):
            evaluate = eqx.filter_vmap(evaluate, in_axes=(eqx.if_array(0), 0 if own else None))
        return evaluate(self.dense, jnp.asarray(t))


def has_failed(status: Array) -> bool:
    """True if the status of any trajectory is a failure; False if it is unknown, under `jit`."""
    if isinstance(status, Tracer):
        status = lax.stop_gradient(status)
    return not isinstance(status, Tracer) and bool(np.asarray(status).any())


# Fewer steps are not worth a warning. Near the imaginary axis, where step times rate is measured
# with noise, half of the steps are seen to be bound.
_FEWEST_BOUND, _SHARE_BOUND = 300, 0.45


def warn_if_stiff(solution: Solution) -> None:
    """Warn if stability bound most steps of one explicit solve that succeeded; not under `jit`.

    **Warns:** `StiffnessWarning`.
    """
    bound = lax.stop_gradient(solution.stats.num_stability_bound)
    if bound is None or isinstance(bound, Tracer) or int(bound) < _FEWEST_BOUND:
        return
    accepted = int(lax.stop_gradient(solution.stats.num_accepted))
    if int(bound) > _SHARE_BOUND * accepted and not has_failed(solution.status):
        warn_user(
            f"stability, not accuracy, bound {int(bound)} of {accepted} steps: the problem is "
            'stiff, and solver="auto" or "rodas5p" may take far fewer steps',
            StiffnessWarning,
        )


def raise_on_failure(solution: Solution, advice: str = "") -> None:
    """Raise `SolveError` if the status is a failure; do nothing under `jit`.

    `advice`: a further likely cause, added to the message if the steps ran out or became too small.
    """
    if not has_failed(solution.status):
        return
    # The times of NumPy in float64 would lose digits.
    known = lambda x: lax.stop_gradient(x) if is_traced(x) else x  # noqa: E731
    status, stats = jax.tree.map(known, (solution.status, solution.stats))
    failed = np.flatnonzero(np.asarray(status))
    first = () if status.ndim == 0 else np.unravel_index(failed[0], status.shape)
    failure = Status(int(status[first]))
    which = (
        ""
        if status.ndim == 0
        else f"{failed.size} of {status.size} trajectories failed, the first number {failed[0]}: "
    )
    about_steps = failure in (Status.MAX_STEPS, Status.STEP_UNDERFLOW)
    further = f". {advice}" if about_steps and advice else ""
    raise SolveError(
        f"{which}{failure.name}: at t = {shown(float(stats.t_reached[first]))} after "
        f"{int(stats.num_steps[first])} steps {failure.message}{further}. (throw=False returns the "
        "solution as far as it got.)"
    )
