"""Steady states: where the flow comes to rest, differentiated as the root that it is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import ArrayLike, PyTree

from ..integrate.step import Field, IntegratorState, Method, attempt_step, initialise, under_way
from ..problem.errors import OptionError, SolveError
from ..problem.field import VectorField, check_field, close_field, pack_field
from ..problem.jit import jit_with_captures
from ..problem.state import Packing, arrays_of_args, check_state, is_traced
from ..problem.status import Status
from ..problem.tolerances import check_some_tolerance, check_tolerance
from ..solvers.implicit.newton import IncrementNorm
from ..solvers.implicit.rosenbrock23 import Rosenbrock23
from ..solvers.linear import Dense, Krylov, LinearSolver
from ..solvers.step_size import Tolerance, rms_norm
from .options import check_max_steps, check_split

# Accepted steps in a row, each longer than the one before, over which a flow at rest does not move;
# and how little that is, in units of the tolerance.
_AT_REST, _STILL = 10, 1e-3
_TURNS = 12  # of Newton's iteration at most: near the root it is over after three


class SteadyState(eqx.Module):
    """Where a flow comes to rest.

    - `y`: the state, a pytree like `y0`; NaN if it was not found.
    - `status`: int32, a `Status` by number.
    - `num_steps`: attempted steps along the flow. `num_iterations`: Newton's, after them.
    """

    y: PyTree
    status: Array
    num_steps: Array
    num_iterations: Array

    @property
    def success(self) -> Array:
        """Whether a steady state was found."""
        return self.status == Status.SUCCESS


def steady_state(
    f: VectorField,
    y0: PyTree,
    args: PyTree = None,
    *,
    t: ArrayLike = 0.0,
    rtol: ArrayLike = 1e-4,
    atol: PyTree = 1e-6,
    conserved: ArrayLike | None = None,
    linear_solver: LinearSolver | None = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> SteadyState:
    """Find the `y` with `f(t, y, args) = 0` that the flow `dy/dt = f` reaches from `y0`.

    Follows the flow with steps of `Rosenbrock23`, which grow as it comes to rest, and ends with
    Newton's iteration, to rounding: so of many steady states it is that of the basin that `y0`
    lies in. It is differentiated in any direction and as often as you like, by the implicit
    function theorem: one linear system, whatever the way there. `y0` has the gradient zero, but
    through the sums that are `conserved`. Works under `jit` and `vmap`.

    **Arguments:**

    - `f`, `y0`, `args`: as of `solve`; the state is real. `t`: the time that `f` is taken at.
    - `rtol`, `atol`: how closely the flow is followed, and how near its end Newton's iteration
      takes over: `atol + rtol * |y|`. A `y0` nearer than that to an unstable steady state is taken
      for being there.
    - `conserved`: the sums that the flow keeps, as weights of the components, shape `(m, n)`, or
      `(n,)` for one: the atoms of a reaction, for example. They make the Jacobian singular, and
      the steady state depends on what they are in `y0`. A state of another shape than `(n,)` is
      laid end to end, leaf by leaf.
    - `linear_solver`: `jo.Dense()` (the default), `jo.Banded(lower, upper)`, `jo.Sparse(pattern)`
      or `jo.Krylov()`, as of implicit solvers.
    - `max_steps`: the most steps along the flow.
    - `throw`: outside `jit` and `vmap`, raise on failure. Inside, nothing is raised: `y` and its
      derivatives are NaN, and `status` says why.

    **Returns:** a `SteadyState`.

    **Raises:** `StateError`, `FieldError`, `ToleranceError` and `OptionError` for bad input;
    `SolveError` where no steady state is found, or the Jacobian there is singular.

    Source: C. T. Kelley, D. E. Keyes, Convergence analysis of pseudo-transient continuation, SIAM
    J. Numer. Anal. 35 (1998).
    """
    f = check_field(f)
    y0 = check_state(y0)
    packing = Packing.of(y0)
    solver = Rosenbrock23(linear_solver=_find_linear_solver(linear_solver))
    solver.check(packing)
    check_split(f, solver)
    check_some_tolerance(rtol, atol)
    rtol = check_tolerance("rtol", rtol, packing, y0)
    atol = check_tolerance("atol", atol, packing, y0)
    tolerance = Tolerance(rtol, atol, rms_norm)
    controller = solver.default_controller()
    method = Method(solver, controller, tolerance, None, check_max_steps(max_steps))
    sums = _check_conserved(conserved, solver.linear_solver, packing)
    time = jnp.asarray(t, packing.time_dtype)
    found = jit_with_captures(_steady_state, f, y0, time, arrays_of_args(args), method, sums)
    if throw:
        _raise_on_failure(found)
    return found


def _find_linear_solver(linear_solver: Any) -> LinearSolver:
    """**Raises:** `OptionError` for anything that is no linear solver."""
    if linear_solver is None:
        return Dense()
    if not isinstance(linear_solver, LinearSolver):
        raise OptionError(
            "linear_solver must be an object such as jo.Dense(), jo.Banded(lower, upper), "
            f"jo.Sparse(pattern) or jo.Krylov(), got {linear_solver!r}"
        )
    return linear_solver


def _check_conserved(sums: Any, linear_solver: LinearSolver, packing: Packing) -> Array | None:
    """The weights as an array `(m, n)`. **Raises:** `OptionError` where they do not fit."""
    if sums is None:
        return None
    if not isinstance(linear_solver, Dense | Krylov):
        raise OptionError(
            f"conserved= fills the pattern of {type(linear_solver).__name__}: use jo.Dense() or "
            "jo.Krylov()"
        )
    array = jnp.atleast_2d(jnp.asarray(sums))
    if array.ndim != 2 or array.shape[1] != packing.size:
        raise OptionError(
            f"conserved has shape {np.shape(sums)} where sums of {packing.size} components need "
            f"(m, {packing.size}) or ({packing.size},)"
        )
    if not is_traced(sums) and not np.all(np.isfinite(np.asarray(sums, float))):
        raise OptionError(f"conserved must be finite, got {sums!r}")
    return array.astype(packing.dtype)


class _Way(NamedTuple):
    """The flow under way: how long it has been at rest, and how far Newton's iteration would go."""

    moving: IntegratorState
    rest: Array
    left: Array


class _Iteration(NamedTuple):
    """Newton's iteration: the state, the size of the last increment, whether it is rounding."""

    y: Array
    size: Array
    rounded: Array
    count: Array


@dataclasses.dataclass(frozen=True, eq=False)
class _SteadyStateSearch:
    """The search for one steady state, its states vectors `(n,)`.

    `field(t, y)` is taken at `t`; the `totals` of the conserved sums are those of `y0`.
    """

    method: Method
    field: Field
    like: Array
    t: Array
    sums: Array | None
    totals: Array | None

    def slope(self, y: Array) -> Array:
        """The field alone, on a vector."""
        return self.field(self.t, y.reshape(self.like.shape)).reshape(-1)

    def residual(self, y: Array) -> Array:
        """Zero where the field is, and the conserved sums are what they were.

        The field has no part along the sums, so neither of the two can make up for the other.
        """
        slope = self.slope(y)
        if self.sums is None or self.totals is None:
            return slope
        # As sums of rows: XLA would keep a product out of the loop's native function.
        kept = jnp.sum(self.sums * y, axis=1) - self.totals
        return slope + jnp.sum(self.sums * kept[:, None], axis=0)

    def inverse(self, linear: Any, like: Array) -> Callable[[Array], Array]:
        """`b` to the `x` with `linear(x) = b`, factorised once; NaN or infinite if singular."""
        inner = self.method.solver.linear_solver  # pyright: ignore[reportAttributeAccessIssue]
        jacobian = inner.jacobian(lambda t, x: linear(x), self.t, jnp.zeros_like(like)).jacobian
        solve = inner.system(jacobian, jnp.zeros((), like.dtype), None)
        return lambda b: -solve(b)

    def increment(self, y: Array) -> Array:
        """Newton's, at `y`."""
        value, linear = jax.linearize(self.residual, y)
        return -self.inverse(linear, y)(value)

    def size(self, increment: Array, y: Array) -> tuple[Array, Array]:
        """The norm of an increment at `y` in units of the tolerance; whether it is rounding."""
        at = y.reshape(self.like.shape)
        measure = IncrementNorm(self.method.tolerance, at, jnp.ones((), y.dtype))
        return measure(increment, jnp.zeros_like(y))

    def flow(self, y: Array) -> _Way:
        """Along the flow until Newton's iteration has no more than the tolerance to go."""
        zero, one = jnp.zeros_like(self.t), jnp.ones_like(self.t)

        def field(t: Array, y: Array) -> Array:
            return self.field(self.t, y)

        start = initialise(self.method, field, y.reshape(self.like.shape), zero, zero + jnp.inf)
        # As far as time goes, for the smallest step is in proportion to the span.
        t1 = start.h * float(jnp.finfo(self.t.dtype).eps) ** -1.5

        def unfinished(way: _Way) -> Array:
            going = under_way(self.method, way.moving, one, t1)
            return going & ~(way.left <= 1) & (way.rest < _AT_REST)

        def again(way: _Way) -> _Way:
            after, step = attempt_step(self.method, field, way.moving, one, t1)
            change, y = (step.y1 - step.y).reshape(-1), after.y.reshape(-1)
            small = self.size(change, y)[0] <= _STILL
            rest = jnp.where(step.accept, jnp.where(small, way.rest + 1, 0), way.rest)
            size, rounded = self.size(self.increment(y), y)
            left = jnp.where(step.accept, jnp.where(rounded, 0, size), way.left)
            # Every step starts at time zero: the field does not change in time.
            return _Way(after._replace(t=zero, t_low=zero), rest, left)

        far = jnp.full((), jnp.inf, y.dtype)
        return lax.while_loop(unfinished, again, _Way(start, jnp.int32(0), far))

    def newton(self, y: Array) -> _Iteration:
        """Newton's iteration for as long as its increments shrink."""

        def unfinished(now: tuple[_Iteration, Array]) -> Array:
            return now[1] & (now[0].count < _TURNS)

        def again(now: tuple[_Iteration, Array]) -> tuple[_Iteration, Array]:
            state = now[0]
            change = self.increment(state.y)
            size, rounded = self.size(change, state.y)
            going = (size < 0.5 * state.size) & (size > 0)
            return _Iteration(state.y + change, size, rounded, state.count + 1), going

        start = _Iteration(y, jnp.full((), jnp.inf, y.dtype), jnp.asarray(False), jnp.int32(0))
        return lax.while_loop(unfinished, again, (start, jnp.asarray(True)))[0]

    def judged(self, y: Array) -> tuple[Array, Array]:
        """Whether the Jacobian at `y` is regular, and whether the field is zero there.

        A singular Jacobian loses of a vector what lies in its null space. Where the conserved sums
        are not what the field keeps, a residual of zero hides a field that is not.
        """
        _, linear = jax.linearize(self.residual, y)
        solve = self.inverse(linear, y)
        probe = jnp.cos(1.0 + jnp.arange(y.size, dtype=y.dtype) ** 2)
        lost = solve(linear(probe)) - probe
        regular = jnp.sum(lost**2) <= 0.25 * jnp.sum(probe**2)
        if self.sums is None:
            return regular, jnp.asarray(True)
        return regular, self.size(solve(self.slope(y)), y)[0] <= 1

    def found(self, y: Array) -> tuple[Array, tuple[Array, ...]]:
        """The steady state, its status and the counts of the search."""
        way = self.flow(y)
        last, near = way.moving, way.left <= 1
        end = self.newton(last.y.reshape(-1))
        regular, zero = self.judged(end.y)
        good = near & ((end.size <= 1) | end.rounded) & zero
        status = jnp.where(good, Status.SUCCESS, Status.NOT_CONVERGED)
        at_rest = near | (way.rest >= _AT_REST)
        status = jnp.where(at_rest & ~regular, Status.SINGULAR, status)
        status = jnp.where(at_rest, status, Status.MAX_STEPS)
        status = jnp.where(last.status == Status.SUCCESS, status, last.status)
        # Floating: some versions of JAX have no derivative of whole numbers here.
        return end.y, tuple(n.astype(y.dtype) for n in (status, last.num_steps, end.count))


def _steady_state(
    f: VectorField, y0: PyTree, t: Array, args: PyTree, method: Method, sums: Array | None
) -> SteadyState:
    packing = Packing.of(y0)
    packed = pack_field(close_field(f, y0, args, packing), args, packing)
    like = packing.pack(y0)
    start = like.reshape(-1)
    totals = None if sums is None else jnp.sum(sums * start, axis=1)
    search = _SteadyStateSearch(lax.stop_gradient(method), packed, like, t, sums, totals)

    y, counts = lax.custom_root(
        lambda y: search.residual(y),  # a method has no lasting identity to JAX
        lax.stop_gradient(start),
        lambda _, y: search.found(y),
        lambda linear, b: search.inverse(linear, b)(b),
        has_aux=True,
    )
    status, steps, iterations = (lax.stop_gradient(n).astype(jnp.int32) for n in counts)
    # Times NaN, so that derivatives are NaN too.
    y = y * jnp.where(status == Status.SUCCESS, 1, jnp.nan).astype(y.dtype)
    return SteadyState(packing.unpack(y.reshape(like.shape)), status, steps, iterations)


_MESSAGES = {
    Status.MAX_STEPS: (
        "the flow from y0 does not come to rest within max_steps: it may oscillate or grow without "
        "bound; start nearer to the steady state, or raise max_steps"
    ),
    Status.SINGULAR: (
        "the Jacobian is singular where the flow comes to rest, so that no single state is at rest "
        "there: give the sums that the flow keeps as conserved="
    ),
    Status.NOT_CONVERGED: (
        "Newton's iteration does not converge where the flow comes to rest: check that the field "
        "is smooth there and keeps the sums in conserved=, or use float64"
    ),
}


def _raise_on_failure(found: SteadyState) -> None:
    """Raise `SolveError` if the status is known here, outside any `jit`, and is a failure."""
    status = lax.stop_gradient(found.status)
    if isinstance(status, Tracer) or np.all(np.asarray(status) == Status.SUCCESS):
        return
    name = Status(int(status))
    raise SolveError(
        f"{name.name}: after {int(found.num_steps)} steps along the flow, "
        f"{_MESSAGES.get(name, name.message)}. (throw=False returns NaN and the status.)"
    )
