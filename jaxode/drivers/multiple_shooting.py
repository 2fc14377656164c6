r"""`multiple_shooting`: one initial value problem, solved in all its intervals at once.

The unknowns are the states $B_n$ at the times. With $\Phi_n$ the solve over interval $n$, Newton's
method for $B_{n+1} = \Phi_n(B_n)$ solves all intervals in lanes, with their Jacobians $D_n$, and
then the linear recurrence $B_{n+1} = \Phi_n(B_n^k) + D_n (B_n - B_n^k)$ by a parallel scan.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike, PyTree

from ..integrate.missing import missing_where
from ..problem.errors import OptionError, SolveError, StateError
from ..problem.field import VectorField, check_field, pack_field, trace_field
from ..problem.promotion import with_own_promotion
from ..problem.state import Packing, is_numeric, is_traced
from ..problem.status import Status
from ..problem.validation import check_count, check_flag
from ..sensitivity.base import Sensitivity
from ..solvers.base import Solver
from .eager import run_driver
from .prepare import Inputs, Options, Prepared, trajectory_inputs
from .solve import solve
from .solve_batch import solve_batch

# The relative tolerance of the solve that gives the first guess; and how far, in tolerances, the
# last correction of the states may reach, whose square the next would be.
_COARSE_RTOL, _LAST_CORRECTION = 1e-2, 1.0


class MultipleShooting(eqx.Module):
    """The result of `multiple_shooting`.

    - `ts`: the times, shape `(times,)`. `ys`: the states there, a pytree like `y0` with a leading
      axis of times; NaN if the iteration failed.
    - `num_iterations`: Newton iterations, each a solve of all intervals at once, int32.
    - `status`: int32, a `Status` by number.
    """

    ts: Array
    ys: PyTree
    num_iterations: Array
    status: Array

    @property
    def y1(self) -> PyTree:
        """The state at the last time, a pytree like `y0`."""
        return jax.tree.map(lambda y: y[-1], self.ys)

    @property
    def success(self) -> Array:
        """True if the iteration converged."""
        return self.status == Status.SUCCESS


@with_own_promotion
def multiple_shooting(
    f: VectorField,
    y0: PyTree,
    ts: ArrayLike | list[ArrayLike] | tuple[ArrayLike, ...],
    args: PyTree = None,
    *,
    guess: PyTree = None,
    max_iterations: int | None = None,
    solver: str | Solver = "tsit5",
    rtol: ArrayLike = 1e-4,
    atol: PyTree = 1e-6,
    dt: ArrayLike | None = None,
    sensitivity: str | Sensitivity = "discrete",
    max_steps: int = 4096,
    throw: bool = True,
) -> MultipleShooting:
    """Solve an initial value problem in parallel in time: all intervals of `ts` at once.

    It pays where the intervals are long, the lanes many and idle (a GPU), and the state small: its
    Jacobian over each interval is dense. First derivatives flow to `y0`, `args` and what `f` holds.

    **Arguments:** as for `solve`, except

    - `ts`: the times at which the solve is divided, shape `(n,)`; a state is returned for each.
    - `guess`: states at all times to begin with, a pytree like `ys`, of which the first are not
      used; by default those of a coarse solve.
    - `max_iterations`: the most iterations; by default the number of intervals, after which the
      iteration is exact.
    - `rtol`, `atol`: also those of the iteration, which ends when a correction is at most
      `atol + rtol * |y|`.

    **Returns:** a `MultipleShooting`.

    **Raises:** as `solve`; `StateError` for a guess that is not like the states; `SolveError`
    outside `jit` if the iteration does not converge, unless `throw=False`.

    Source: M. Kiehl, Parallel multiple shooting for the solution of initial value problems,
    Parallel Computing 20 (1994); the scan: Y. H. Lim et al., Parallelizing non-linear sequential
    models over the sequence length (2024), arXiv 2309.12252.
    """
    f, throw = check_field(f), check_flag("throw", throw)
    options = Options(solver, rtol, atol, dt, sensitivity=sensitivity, max_steps=max_steps)
    if getattr(solver, "jac", None) is not None:
        raise OptionError("multiple_shooting differentiates f itself: give a solver without jac=")
    inputs = trajectory_inputs(y0, ts, args, options, by_parts=True)
    guess = _check_guess(guess, inputs)
    most = inputs.ts.shape[0] - 1
    if max_iterations is not None:
        most = min(most, check_count("max_iterations", max_iterations))
    result = run_driver(_shoot, f, inputs, options, guess, most)
    if throw and not is_traced(result.status):
        _raise_on_failure(result)
    return result


def _shoot(f: VectorField, prepared: Prepared, guess: PyTree, most: int) -> MultipleShooting:
    packing, ts = prepared.packing, prepared.ts
    field = trace_field(f, prepared.y0, prepared.args, packing)
    tolerance = prepared.method.tolerance
    options = {
        "solver": prepared.method.solver, "controller": prepared.method.controller,
        "rtol": tolerance.rtol, "atol": tolerance.atol, "dt": prepared.method.dt,
        "max_steps": prepared.method.max_steps, "throw": False,
    }  # fmt: skip
    shooting = _Shooting((field, prepared.args), ts, packing, options)
    first = packing.pack(prepared.y0)
    constant = _constant(shooting)
    nodes = constant.coarse(_constant(first)) if guess is None else jax.vmap(packing.pack)(guess)
    nodes = _constant(nodes.reshape(ts.shape[0], -1).at[0].set(first.reshape(-1)))
    found = constant.iterate(nodes, most)
    # Its derivative is that of the root, by the implicit function theorem.
    ends, _ = shooting.solutions(found.nodes[:-1], prepared.sensitivity)
    rows = _recurrence(found.jacobians, found.nodes[:-1], ends, first.reshape(-1))
    ys = packing.unpack(rows.reshape(ts.shape[0], *packing.packed_shape))
    ys = jax.tree.map(lambda y: missing_where(found.status != Status.SUCCESS, y), ys)
    return MultipleShooting(ts, ys, found.count, found.status)


class _Iteration(NamedTuple):
    """The states at all times, their Jacobians over the intervals, the last correction's size."""

    nodes: Array
    jacobians: Array
    size: Array
    count: Array
    status: Array


class _Shooting(NamedTuple):
    """The solves over all intervals; states are packed vectors, `(intervals, n)`.

    `args`: the field on pytrees, and its arguments. `options`: those of `solve_batch`.
    """

    args: tuple[Callable[..., PyTree], PyTree]
    ts: Array
    packing: Packing
    options: dict[str, Any]

    def field(self, t: Array, y: Array, args: Any) -> Array:
        """The field on packed states."""
        field, args = args
        return pack_field(field, args, self.packing)(t, y)

    def coarse(self, y0: Array) -> Array:
        """The states at all times by one solve to a loose tolerance; `y0` where it failed."""
        rtol = jnp.maximum(self.options["rtol"], _COARSE_RTOL)
        options: Any = {**self.options, "rtol": rtol, "sensitivity": "forward"}
        ys = solve(self.field, y0, self.ts, self.args, **options).ys
        return jnp.where(jnp.isfinite(ys), ys, y0)

    def solutions(self, nodes: Array, sensitivity: Any) -> tuple[Array, Array]:
        """The states at the ends of the intervals, from those at their starts; the statuses."""
        y0 = nodes.reshape(-1, *self.packing.packed_shape)
        spans = jnp.stack([self.ts[:-1], self.ts[1:]], 1)
        options: Any = {**self.options, "sensitivity": sensitivity, "in_axes": (0, 0, None)}
        sols = solve_batch(self.field, y0, spans, self.args, **options)
        return sols.y1.reshape(nodes.shape), sols.status

    def linearise(self, nodes: Array) -> tuple[Array, Array, Array]:
        """The states at the ends, their statuses, and the Jacobians `(intervals, n, n)`."""

        def column(direction: Array) -> tuple[Array, Array, Array]:
            tangents = jnp.broadcast_to(direction, nodes.shape)
            solve = lambda x: self.solutions(x, "forward")  # noqa: E731
            ends, tangents, status = jax.jvp(solve, (nodes,), (tangents,), has_aux=True)
            return ends, status, tangents

        directions = jnp.eye(nodes.shape[1], dtype=nodes.dtype)
        # The solves are shared by all directions.
        return jax.vmap(column, out_axes=(None, None, -1))(directions)

    def iterate(self, nodes: Array, most: int) -> _Iteration:
        """Newton's method from a guess of all states; the first of them is the initial state."""

        def correct(state: _Iteration) -> _Iteration:
            ends, status, jacobians = self.linearise(state.nodes[:-1])
            new = _recurrence(jacobians, state.nodes[:-1], ends, state.nodes[0])
            scale = self._scale(jnp.maximum(jnp.abs(new), jnp.abs(state.nodes)))
            size = jnp.max(jnp.abs(new - state.nodes) / scale)
            failed = jnp.max(jnp.where(jnp.isfinite(size), 0, status)).astype(jnp.int32)
            failed = jnp.where(~jnp.isfinite(size) & (failed == 0), Status.NOT_FINITE, failed)
            return _Iteration(new, jacobians, size, state.count + 1, failed)

        def unfinished(state: _Iteration) -> Array:
            going = (state.size > _LAST_CORRECTION) & (state.status == Status.SUCCESS)
            return going & (state.count < most)

        n, zero = nodes.shape[1], jnp.zeros((), jnp.int32)
        jacobians = jnp.zeros((nodes.shape[0] - 1, n, n), nodes.dtype)
        size = jnp.full((), jnp.inf, nodes.dtype)
        end = lax.while_loop(unfinished, correct, _Iteration(nodes, jacobians, size, zero, zero))
        # After as many iterations as there are intervals, the states are exact.
        missed = (end.size > _LAST_CORRECTION) & (end.count < nodes.shape[0] - 1)
        missed = missed & (end.status == Status.SUCCESS)
        return end._replace(status=jnp.where(missed, Status.NOT_CONVERGED, end.status))

    def _scale(self, sizes: Array) -> Array:
        """The tolerance at states of these sizes, `(times, n)`."""
        rtol, atol = (
            jnp.broadcast_to(self.options[name], self.packing.packed_shape).reshape(-1)
            for name in ("rtol", "atol")
        )
        return atol + rtol * sizes


def _constant(tree: Any) -> Any:
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, tree)


def _recurrence(jacobians: Array, nodes: Array, ends: Array, first: Array) -> Array:
    """The states with `x[n+1] = ends[n] + jacobians[n] (x[n] - nodes[n])` from `first`, `(n+1,)`.

    The affine maps of the intervals are composed by a parallel scan.
    """
    offsets = ends - jnp.einsum("nij,nj->ni", jacobians, nodes)

    def compose(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
        (a, b), (c, d) = before, after
        return jnp.einsum("nij,njk->nik", c, a), jnp.einsum("nij,nj->ni", c, b) + d

    maps, shifts = lax.associative_scan(compose, (jacobians, offsets))
    rest = jnp.einsum("nij,j->ni", maps, first) + shifts
    return jnp.concatenate([first[None], rest])


def _check_guess(guess: PyTree, inputs: Inputs) -> PyTree:
    """Make a guess states at all times. **Raises:** `StateError` for one that is not like them."""
    if guess is None:
        return None
    y0, count = inputs.y0, inputs.ts.shape[0]
    expected = jax.tree.map(lambda y: (count, *y.shape), y0)
    arrays = all(hasattr(x, "dtype") and is_numeric(x.dtype) for x in jax.tree.leaves(guess))
    same = arrays and jax.tree.structure(guess) == jax.tree.structure(y0)
    if not same or jax.tree.map(jnp.shape, guess) != expected:
        raise StateError(f"guess must hold states at all times, of shapes {expected}")
    return jax.tree.map(lambda g, y: jnp.asarray(g, y.dtype), guess, y0)


def _raise_on_failure(result: MultipleShooting) -> None:
    status = Status(int(result.status))
    if status != Status.SUCCESS:
        raise SolveError(
            f"{status.name}: after {int(result.num_iterations)} iterations {status.message}. "
            "(A better guess=, more max_iterations or shorter intervals may help; throw=False "
            "returns the result.)"
        )
