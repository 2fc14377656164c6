"""The result of `solve_ivp`: that of SciPy, made from a `Solution`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import ArrayLike

from ..integrate.solution import Events, Solution
from ..problem.status import Status
from ..solvers.base import Solver
from ..solvers.switching import Switching


class OdeSolution(eqx.Module):
    """Dense output with the axes of SciPy's: `sol(t)` has the shape `(n,)` or `(n, times)`."""

    solution: Solution

    def __call__(self, t: ArrayLike) -> Array:
        """Evaluate the state at `t`, a scalar or a vector of times in the solve; NaN outside."""
        return jnp.moveaxis(self.solution(t), -1, 0)


class OdeResult(eqx.Module):
    """The result of `solve_ivp`, by attribute or item: `result.t` is `result["t"]`.

    - `t`: the times, shape `(times,)`. `y`: the states, shape `(n, times)`.
    - `sol`: an `OdeSolution` with `dense_output=True`, else None.
    - `t_events`, `y_events`: for each event the times, shape `(occurrences,)`, and the states,
      shape `(occurrences, n)`; None without events.
    - `nfev`, `njev`, `nlu`: the numbers of evaluations of `fun`, which include those of a `jac`, of
      Jacobians and of factorisations; -1 where those are not counted, as with "LSODA".
    - `status`: 0 if the end was reached, 1 if an event ended the solve, -1 if it failed.
      `message`: what that means. `success`: true unless it failed.
    """

    t: Array
    y: Array
    sol: Any
    t_events: Any
    y_events: Any
    nfev: Any
    njev: Any
    nlu: Any
    status: Any
    reason: Array  # a `Status`

    @property
    def success(self) -> Any:
        """True unless the solve failed."""
        return self.status >= 0

    @property
    def message(self) -> str:
        """What the status means, for humans."""
        if isinstance(self.status, Tracer):
            return "the status is not known while the solve is traced"
        if self.status == 1:
            return "A termination event occurred."
        if self.status == 0:
            return "The solver successfully reached the end of the integration interval."
        reason = Status(int(self.reason))
        return f"{reason.name}: {reason.message}"

    def keys(self) -> list[str]:
        """The names of the items."""
        fields = [name for name in self.__dataclass_fields__ if name != "reason"]
        return [*fields, "message", "success"]

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


def result_of(solution: Solution, solver: Solver, of_steps: bool) -> OdeResult:
    """The result of a solve whose saved states are those of all steps, or of given times.

    Where values are known, arrays are cut to what was reached.
    """
    known = not isinstance(lax.stop_gradient(solution.status), Tracer)
    t, y, count = _steps(solution) if of_steps else _times(solution)
    log, status = solution.events, jnp.where(solution.status == Status.SUCCESS, 0, -1)
    if log is not None:
        status = jnp.where(log.terminated & (status == 0), 1, status)
    events = [] if log is None else [_of_event(log, place) for place in range(len(log.sizes))]
    if known:
        t, y, status = t[: _int(count)], y[: _int(count)], _int(status)
        events = [(times[: _int(n)], states[: _int(n)], n) for times, states, n in events]
    nfev, njev, nlu = _counts(solution, solver, known)
    return OdeResult(
        t=t,
        y=y.T,
        sol=None if solution.dense is None else OdeSolution(solution),
        t_events=None if log is None else [times for times, _, _ in events],
        y_events=None if log is None else [states for _, states, _ in events],
        nfev=nfev,
        njev=njev,
        nlu=nlu,
        status=status,
        reason=solution.status,
    )


def _int(x: Any) -> int:
    return int(lax.stop_gradient(x))


def _steps(solution: Solution) -> tuple[Any, Array, Array]:
    """The times and states at the ends of all steps, the start included, and their number."""
    accepted, record = solution.stats.num_accepted, solution.dense
    if record is None:
        return solution.ts, solution.ys, accepted + 1
    starts = record.t if solution.origin is None else solution.origin.times(record.t)
    reached, rows = solution.stats.t_reached, jnp.arange(record.t.shape[0] + 1)
    # A solve that failed has no last state of its own: that of its last step is interpolated.
    end = jnp.where(solution.status == Status.SUCCESS, solution.y1, solution(reached))
    y = jnp.where((rows < accepted)[:, None], _appended(record.y, record.y[-1]), end)
    y = jnp.where((rows <= accepted)[:, None], y, jnp.nan)
    space = np if isinstance(starts, np.ndarray) else jnp
    last = space.where(rows == accepted, reached, np.nan)
    return space.where(rows < accepted, _appended(starts, reached), last), y, accepted + 1


def _times(solution: Solution) -> tuple[Any, Array, Array]:
    """The given times, the states there, and the number of those that were reached."""
    ys = lax.stop_gradient(solution.ys)
    missed = jnp.all(jnp.isnan(ys), axis=1) & (ys.shape[1] > 0)
    return solution.ts, solution.ys, jnp.sum(~missed)


def _of_event(log: Events, place: int) -> tuple[Any, Array, Array]:
    """The times and states of one event, first in arrays filled with NaN, and their number."""
    times, states, mask = log.of(place)
    space = np if isinstance(times, np.ndarray) else jnp
    states = jnp.where(mask[:, None], states, jnp.nan)
    return space.where(space.asarray(mask), times, np.nan), states, jnp.sum(mask)


def _appended(rows: Any, last: Any) -> Any:
    """The rows, and one more."""
    space = np if isinstance(rows, np.ndarray) else jnp
    return space.concatenate([rows, space.asarray(last, rows.dtype)[None]])


def _counts(solution: Solution, solver: Solver, known: bool) -> tuple[Any, Any, Any]:
    """The numbers of evaluations, of Jacobians and of factorisations."""
    stats = solution.stats
    counts: tuple[Any, Any, Any] = stats.num_evaluations, 0, 0
    if stats.num_jacobians is not None:
        counts = stats.num_evaluations, stats.num_jacobians, stats.num_factorisations
    elif isinstance(solver, Switching):
        counts = stats.num_evaluations, -1, -1
    elif solver.implicit:
        counts = stats.num_evaluations, stats.num_steps, stats.num_steps
    return tuple(_int(x) for x in counts) if known else counts  # pyright: ignore[reportReturnType]
