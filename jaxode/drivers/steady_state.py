"""`steady_state`: find a root of the vector field, with implicit differentiation."""

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

from ..integrate.step import IntegratorState, Method, attempt_step, initialise, needs_step
from ..problem.errors import OptionError, SolveError
from ..problem.field import Field, VectorField, check_field, pack_field, trace_field
from ..problem.promotion import with_own_promotion
from ..problem.roots import root_of
from ..problem.staging import as_array
from ..problem.state import Packing, check_state, is_traced
from ..problem.status import Status
from ..problem.times import check_time
from ..problem.validation import check_flag, real_array
from ..solvers.implicit.newton import IncrementNorm
from ..solvers.implicit.rosenbrock23 import Rosenbrock23
from ..solvers.linear import Dense, Krylov, LinearSolver, check_linear_solver
from .complex_states import real_rows
from .eager import run_driver
from .prepare import Inputs, Options, Prepared, check_tolerances

# The state is at rest after this number of consecutive accepted steps in each of which it changes
# by at most this fraction of the tolerance.
_REST_STEPS, _REST_CHANGE = 10, 1e-3
_MAX_NEWTON = 12  # Newton iterations; near the root three suffice


class SteadyState(eqx.Module):
    """The result of `steady_state`.

    - `y`: the steady state, a pytree like `y0`; NaN if it was not found.
    - `status`: int32, a `Status` by number.
    - `num_steps`: attempted time steps, int32. `num_iterations`: Newton iterations, int32.
    """

    y: PyTree
    status: Array
    num_steps: Array
    num_iterations: Array

    @property
    def success(self) -> Array:
        """True if a steady state was found."""
        return self.status == Status.SUCCESS


@with_own_promotion
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
    max_steps: int | None = 4096,
    throw: bool = True,
) -> SteadyState:
    """Find the `y` with `f(t, y, args) = 0` that the solution of `dy/dt = f` from `y0` approaches.

    Pseudo-transient continuation: integrates with `Rosenbrock23`, whose steps grow as the solution
    comes to rest, then iterates Newton's method until rounding. Of several steady states it finds
    the one in whose basin of attraction `y0` lies. Derivatives of any order, forwards or backwards,
    are those of the implicit function theorem: one linear system, independent of the path. The
    gradient with respect to `y0` is zero, except through `conserved` sums. Works under `jit` and
    `vmap`.

    **Arguments:**

    - `f`, `y0`, `args`: as for `solve`; the state is real. `t`: the fixed time at which `f` is
      evaluated, a scalar.
    - `rtol`, `atol`: the tolerances of the steps; Newton's method starts once its increment is at
      most `atol + rtol * |y|`. A `y0` within that distance of an unstable steady state converges to
      it.
    - `conserved`: linear invariants of `f`, as weights of the components, shape `(m, n)`, or `(n,)`
      for one: the atoms of a reaction, for example. They make the Jacobian singular, and the steady
      state depends on their values at `y0`. The components of a state of another shape than `(n,)`
      are in the order of its leaves, each raveled.
    - `linear_solver`: `jo.Dense()` (the default), `jo.Banded(lower, upper)`, `jo.Sparse(pattern)`
      or `jo.Krylov()`, as for implicit solvers.
    - `max_steps`: the largest number of attempted time steps; None for no bound.
    - `throw`: outside `jit` and `vmap`, raise on failure. Inside, nothing is raised: `y` and its
      derivatives are NaN, and `status` gives the reason.

    **Returns:** a `SteadyState`.

    **Raises:** `StateError`, `FieldError`, `ToleranceError` and `OptionError` for invalid input;
    `SolveError` if no steady state is found, or if the Jacobian there is singular. **Warns:**
    `ToleranceWarning`.

    Source: C. T. Kelley, D. E. Keyes, Convergence analysis of pseudo-transient continuation, SIAM
    J. Numer. Anal. 35 (1998).
    """
    solver = Rosenbrock23(linear_solver=_find_linear_solver(linear_solver))
    options = Options(solver=solver, rtol=rtol, atol=atol, max_steps=max_steps)
    f, throw = check_field(f), check_flag("throw", throw)
    y0 = check_state(y0)
    packing = Packing.of(y0).by_parts()
    time = as_array(check_time("t", t), packing.time_dtype)
    inputs = Inputs(y0, time, args, *check_tolerances(options, y0, packing), packing)
    invariants = _check_conserved(conserved, solver.linear_solver, packing)
    result = run_driver(_steady_state, f, inputs, options, invariants)
    if throw:
        _raise_on_failure(result)
    return result


def _find_linear_solver(linear_solver: Any) -> LinearSolver:
    """Find the linear solver; `jo.Dense()` by default. **Raises:** `OptionError`."""
    return Dense() if linear_solver is None else check_linear_solver(linear_solver)


def _check_conserved(conserved: Any, linear_solver: LinearSolver, packing: Packing) -> Array | None:
    """Make the weights of invariants an array `(m, n)`. **Raises:** `OptionError`."""
    if conserved is None:
        return None
    if not isinstance(linear_solver, Dense | Krylov):
        raise OptionError(
            f"conserved= fills the pattern of {type(linear_solver).__name__}: use jo.Dense() or "
            "jo.Krylov()"
        )
    space = jnp if is_traced(conserved) else np
    array = space.atleast_2d(real_array("conserved", conserved))
    count = packing.num_components
    if array.ndim != 2 or array.shape[1] != count:
        raise OptionError(
            f"conserved has shape {np.shape(conserved)} where sums of {count} components "
            f"need (m, {count}) or ({count},)"
        )
    if not is_traced(conserved) and not np.all(np.isfinite(np.asarray(conserved))):
        raise OptionError(f"conserved must be finite, got {conserved!r}")
    rows = real_rows(array, packing) if packing.in_parts else array
    return jnp.asarray(rows, packing.dtype)


class _TransientState(NamedTuple):
    """The state of the time integration towards rest.

    `steps_at_rest` counts consecutive accepted steps without change; `newton_size` is the size of
    Newton's increment, in units of the tolerance.
    """

    integrator: IntegratorState
    steps_at_rest: Array
    newton_size: Array


class _NewtonState(NamedTuple):
    """The state of Newton's method: iterate, size of the last increment, True if it is rounding."""

    y: Array
    size: Array
    rounding: Array
    count: Array


@dataclasses.dataclass(frozen=True, eq=False)
class _SteadyStateSearch:
    """The search for one steady state; its states are vectors `(n,)`.

    `field(t, y)` takes arrays like `y0`. `invariants` `(m, n)` are the weights of the conserved
    sums, `totals` their values at `y0`.
    """

    method: Method
    field: Field
    y0: Array
    t: Array
    invariants: Array | None
    totals: Array | None

    def slope(self, y: Array) -> Array:
        """Evaluate the field on a vector."""
        return self.field(self.t, y.reshape(self.y0.shape)).reshape(-1)

    def residual(self, y: Array) -> Array:
        """The residual: zero where the field is zero and the invariants have the values of `y0`.

        The field is orthogonal to the invariants' weights, so the two terms cannot cancel.
        """
        slope = self.slope(y)
        if self.invariants is None or self.totals is None:
            return slope
        # Sums over rows instead of products, which XLA would not fuse into the loop's function.
        deviation = jnp.sum(self.invariants * y, axis=1) - self.totals
        return slope + jnp.sum(self.invariants * deviation[:, None], axis=0)

    def inverse(self, linear: Any, like: Array) -> Callable[[Array], Array]:
        """Factorise `linear` and return the function that solves `linear(x) = b` for `x`.

        The solution is NaN or infinite if `linear` is singular.
        """
        inner = self.method.solver.linear_solver  # pyright: ignore[reportAttributeAccessIssue]
        jacobian = inner.jacobian(lambda t, x: linear(x), self.t, jnp.zeros_like(like)).jacobian
        solve = inner.system(jacobian, jnp.zeros((), like.dtype), None)
        return lambda b: -solve(b)

    def increment(self, y: Array) -> Array:
        """Newton's increment at `y`."""
        residual, linear = jax.linearize(self.residual, y)
        return -self.inverse(linear, y)(residual)

    def size(self, increment: Array, y: Array) -> tuple[Array, Array]:
        """The norm of an increment at `y` in units of the tolerance; True if it is rounding."""
        packed = y.reshape(self.y0.shape)
        measure = IncrementNorm(self.method.tolerance, packed, jnp.ones((), y.dtype))
        return measure(increment, jnp.zeros_like(y))

    def integrate_to_rest(self, y: Array) -> _TransientState:
        """Integrate from `y` until Newton's increment is within the tolerance, or the end."""
        zero, one = jnp.zeros_like(self.t), jnp.ones_like(self.t)

        def field(t: Array, y: Array) -> Array:
            return self.field(self.t, y)

        start = initialise(self.method, field, y.reshape(self.y0.shape), zero, zero + jnp.inf)
        # The span is as long as its smallest step, which is proportional to it, allows.
        t1 = start.h * float(jnp.finfo(self.t.dtype).eps) ** -1.5

        def unfinished(state: _TransientState) -> Array:
            more_steps = needs_step(self.method, state.integrator, one, t1)
            return more_steps & ~(state.newton_size <= 1) & (state.steps_at_rest < _REST_STEPS)

        def advance(state: _TransientState) -> _TransientState:
            after, step = attempt_step(self.method, field, state.integrator, one, t1)
            change, y = (step.y1 - step.y).reshape(-1), after.y.reshape(-1)
            at_rest = self.size(change, y)[0] <= _REST_CHANGE
            steps_at_rest = jnp.where(at_rest, state.steps_at_rest + 1, 0)
            # Before a wall that no step passes, accepted steps become small too.
            steps_at_rest = jnp.where(step.accept, steps_at_rest, 0)
            size, rounding = self.size(self.increment(y), y)
            newton_size = jnp.where(step.accept, jnp.where(rounding, 0, size), state.newton_size)
            # Every step starts at time zero: the field does not change in time.
            return _TransientState(after._replace(t=zero, t_low=zero), steps_at_rest, newton_size)

        far = jnp.full((), jnp.inf, y.dtype)
        return lax.while_loop(unfinished, advance, _TransientState(start, jnp.int32(0), far))

    def newton(self, y: Array) -> _NewtonState:
        """Iterate Newton's method while its increments at least halve."""

        def unfinished(carry: tuple[_NewtonState, Array]) -> Array:
            return carry[1] & (carry[0].count < _MAX_NEWTON)

        def iterate(carry: tuple[_NewtonState, Array]) -> tuple[_NewtonState, Array]:
            state = carry[0]
            change = self.increment(state.y)
            size, rounding = self.size(change, state.y)
            shrinking = (size < 0.5 * state.size) & (size > 0)
            return _NewtonState(state.y + change, size, rounding, state.count + 1), shrinking

        start = _NewtonState(y, jnp.full((), jnp.inf, y.dtype), jnp.asarray(False), jnp.int32(0))
        return lax.while_loop(unfinished, iterate, (start, jnp.asarray(True)))[0]

    def check_root(self, y: Array) -> tuple[Array, Array]:
        """Check that the Jacobian at `y` is regular, and that the field is zero there.

        Solving with a singular Jacobian loses a vector's component in its null space. If the given
        invariants are not conserved, the residual can be zero where the field is not.
        """
        _, linear = jax.linearize(self.residual, y)
        solve = self.inverse(linear, y)
        probe = jnp.cos(1.0 + jnp.arange(y.size, dtype=y.dtype) ** 2)
        error = solve(linear(probe)) - probe
        regular = jnp.sum(error**2) <= 0.25 * jnp.sum(probe**2)
        if self.invariants is None:
            return regular, jnp.asarray(True)
        return regular, self.size(solve(self.slope(y)), y)[0] <= 1

    def find(self, y: Array) -> tuple[Array, tuple[Array, ...]]:
        """Find the steady state from `y`; also returns its status and the counts of the search."""
        transient = self.integrate_to_rest(y)
        last, near = transient.integrator, transient.newton_size <= 1
        end = self.newton(last.y.reshape(-1))
        regular, field_is_zero = self.check_root(end.y)
        converged = near & ((end.size <= 1) | end.rounding) & field_is_zero
        status = jnp.where(converged, Status.SUCCESS, Status.NOT_CONVERGED)
        at_rest = near | (transient.steps_at_rest >= _REST_STEPS)
        status = jnp.where(at_rest & ~regular, Status.SINGULAR, status)
        status = jnp.where(at_rest, status, Status.MAX_STEPS)
        status = jnp.where(last.status == Status.SUCCESS, status, last.status)
        return end.y, (status, last.num_steps, end.count)


def _steady_state(f: VectorField, prepared: Prepared, invariants: Array | None) -> SteadyState:
    packing, y0, args = prepared.packing, prepared.y0, prepared.args
    packed = pack_field(trace_field(f, y0, args, packing), args, packing)
    packed_y0 = packing.pack(y0)
    start = packed_y0.reshape(-1)
    totals = None if invariants is None else jnp.sum(invariants * start, axis=1)
    method = lax.stop_gradient(prepared.method)
    search = _SteadyStateSearch(method, packed, packed_y0, prepared.ts, invariants, totals)

    y, (status, steps, iterations) = root_of(
        search.residual,
        start,
        lambda: search.find(start),
        lambda linear, b: search.inverse(linear, b)(b),
    )
    # Multiplication by NaN makes the derivatives NaN too.
    y = y * jnp.where(status == Status.SUCCESS, 1, jnp.nan).astype(y.dtype)
    return SteadyState(packing.unpack(y.reshape(packed_y0.shape)), status, steps, iterations)


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


def _raise_on_failure(result: SteadyState) -> None:
    """Raise `SolveError` if the status is a failure; do nothing under `jit`."""
    status = lax.stop_gradient(result.status)
    if isinstance(status, Tracer) or np.all(np.asarray(status) == Status.SUCCESS):
        return
    name = Status(int(status))
    raise SolveError(
        f"{name.name}: after {int(result.num_steps)} steps along the flow, "
        f"{_MESSAGES.get(name, name.message)}. (throw=False returns NaN and the status.)"
    )
