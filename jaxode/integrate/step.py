"""The integrator of one trajectory, without its loop: initialise, attempt a step, finalise.

The loops call these functions and know nothing else about solvers and controllers. `attempt_step`
serves one trajectory or several in lanes: then times, counts and decisions are vectors, and the
last axis of every state is that of the lanes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import ArrayLike

from ..problem.field import Field
from ..problem.status import Status
from ..solvers.base import Solver, StepResult
from ..solvers.first_step import first_step
from ..solvers.step_size import AttemptedStep, Controller, Decision, Tolerance
from . import neighbour as nearby
from .clock import choose_size
from .neighbour import Neighbour, Own
from .save import StepRecord

# The largest number that steps are counted to, for solves without a bound.
UNBOUNDED_STEPS = 2**31 - 1


class Method(eqx.Module):
    """A numerical method: solver, step-size controller, tolerances and the limit on steps.

    `controls_rest`: where the solution is differentiated (`for_derivatives`), a neighbour controls
    steps too.
    """

    solver: Solver
    controller: Controller
    tolerance: Tolerance
    dt: Array | None
    max_steps: int = eqx.field(static=True)
    progress: Callable[..., None] | None = eqx.field(static=True, default=None)
    restarts: bool = eqx.field(static=True, default=False)  # events or jumps may restart it
    controls_rest: bool = eqx.field(static=True, default=False)
    for_derivatives: bool = eqx.field(static=True, default=False)

    @property
    def stepper(self) -> Solver:
        """The solver, with the tolerance set if the steps are adaptive."""
        return self.solver.with_tolerance(self.tolerance if self.controller.adaptive else None)

    @property
    def has_neighbour(self) -> bool:
        """True if a neighbouring trajectory controls steps at rest."""
        return self.for_derivatives and self.controller.adaptive

    @property
    def detects_stability(self) -> bool:
        """True if a solve can count the steps that stability binds."""
        return self.solver.detects_stability and self.controller.adaptive

    @property
    def counts_extra_evaluations(self) -> bool:
        """True if the number of field evaluations differs from step to step."""
        return bool(
            self.restarts or self.solver.counts_evaluations or self.solver.evaluations.dense
        )


class IntegratorState(NamedTuple):
    """The state of the integrator between two steps.

    `extra_evaluations` counts the field evaluations that not every step makes;
    `linear_algebra_counts` the Jacobians and the factorisations, if the solver reuses them;
    `num_stability_bound` the accepted steps that stability binds.
    `event_state` is the state of event detection, `neighbour` the neighbouring trajectory. Each is
    `()` where it does not apply.
    """

    t: Array
    t_low: Array  # the rounding error of t (compensated summation)
    y: Array
    solver_state: Any
    h: Array  # the next step's size, positive
    controller_state: Any
    num_steps: Array
    num_accepted: Array
    extra_evaluations: Any
    linear_algebra_counts: Any
    status: Array
    num_stability_bound: Any = ()
    event_state: Any = ()
    neighbour: Any = ()

    @property
    def neighbour_due(self) -> Array:
        """True if the neighbour steps in the next iteration: a scalar, also of lanes."""
        if isinstance(self.neighbour, Neighbour):
            return jnp.any(self.neighbour.due)
        return jnp.asarray(False)


def initialise(method: Method, field: Field, y0: Array, t0: Array, t1: Array) -> IntegratorState:
    """Make the integrator state at `t0`: the solver initialised, the first step size chosen."""
    solver_state = method.stepper.init(field, t0, y0)
    size = first_size(method, field, t0, t1, y0, method.solver.slope(solver_state))
    h, controller_state = method.controller.init(lax.stop_gradient(size))
    zero = jnp.zeros((), jnp.int32)
    start = IntegratorState(
        t=t0,
        t_low=jnp.zeros_like(t0),
        y=y0,
        solver_state=solver_state,
        h=h,
        controller_state=controller_state,
        num_steps=zero,
        num_accepted=zero,
        extra_evaluations=zero if method.counts_extra_evaluations else (),
        linear_algebra_counts=(zero, zero) if method.solver.reuses_jacobian else (),
        status=_first_status(method, t0, t1),
    )
    return start_neighbour(method, field, start, t1)


def _first_status(method: Method, t0: Array, t1: Array) -> Array:
    """A failure where steps are bounded to a size of which no number allowed leads to `t1`.

    Only if it is so small that times near `t0` or `t1` do not resolve it.
    """
    longest = method.controller.longest_step()
    if longest is None:
        return jnp.zeros((), jnp.int32)
    longest, end = jnp.asarray(longest, t0.dtype), jnp.where(jnp.isinf(t1), 0, t1)
    resolved = 4 * jnp.finfo(t0.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(end))
    too_small = (longest <= resolved) & (longest * method.max_steps < jnp.abs(t1 - t0))
    return jnp.where(too_small, Status.STEP_UNDERFLOW, Status.SUCCESS).astype(jnp.int32)


def start_neighbour(method: Method, field: Field, s: IntegratorState, t1: Array) -> IntegratorState:
    """Start the neighbouring trajectory, if there is one: as a solve starts, and after a jump."""
    if not method.has_neighbour:
        return s
    slope = method.solver.slope(s.solver_state)
    slope = lax.stop_gradient(field(s.t, s.y) if slope is None else slope)
    tolerance = dataclasses.replace(method.tolerance, lanes=False)
    span = lax.stop_gradient(t1 - s.t)
    own = Own(*(getattr(s, name) for name in Own._fields))
    neighbour = nearby.initial_neighbour(tolerance, own, slope, span, method.solver)
    return s._replace(neighbour=neighbour)


def needs_step(method: Method, s: IntegratorState, direction: Array, t1: Array) -> Array:
    """True while another step has to be attempted."""
    before_end = direction * (t1 - s.t) > 0
    return before_end & (s.status == Status.SUCCESS) & (s.num_steps < method.max_steps)


def attempt_step(
    method: Method,
    field: Field,
    s: IntegratorState,
    direction: Array,
    t1: Array,
    needs_dense: Callable[[Array], Array | bool | None] = lambda t_new: None,
    step: Callable[..., StepResult] | None = None,
) -> tuple[IntegratorState, StepRecord]:
    """Attempt a step towards `t1`; returns the integrator state after it, and its record.

    `needs_dense(t_new)` tells if dense output inside the step to `t_new` will be evaluated: None
    for never, else a boolean. `step` replaces the solver's.
    """
    stop = next_stop(method, s.t, direction, t1)
    size, stretch_limit, t_new, t_low = choose_size(s.t, s.t_low, s.h, direction, stop)
    dense_read = needs_dense(t_new)
    h = direction * size
    stepper = _stepper(method, s).for_forward_mode()
    result = (step or stepper.step)(field, s.t, s.y, h, s.solver_state, dense_read)
    own_error2 = _error_squared(method, s, result)
    decision, error2 = _decide(method, s, size, result, own_error2)
    accept, y1 = decision.accept, result.y1
    replaces = accept
    if isinstance(s.neighbour, Neighbour):
        accept = accept & ~s.neighbour_due
        replaces = accept | s.neighbour.due
    proposed = _proposed_size(method, s, decision.h, result, accept & (size < s.h))
    after = IntegratorState(
        t=jnp.where(accept, t_new, s.t),
        t_low=jnp.where(accept, t_low, s.t_low),
        y=jnp.where(replaces, y1, s.y),
        solver_state=select(replaces, result.solver_state, s.solver_state),
        h=lax.stop_gradient(proposed),
        controller_state=lax.stop_gradient(decision.controller_state),
        num_steps=s.num_steps + 1,
        num_accepted=s.num_accepted + accept.astype(jnp.int32),
        **_counts_after(method, s, result, dense_read),
        status=_step_status(
            method, s.t, stretch_limit, size, proposed, accept, error2, result.status
        ),
        num_stability_bound=_count_bound(method, s, result, h, accept),
        event_state=s.event_state,
        neighbour=s.neighbour,
    )
    if isinstance(s.neighbour, Neighbour):
        steps_left = jnp.abs((t1 - s.t) / size)
        after = _note_iteration(method, s, after, result, accept, own_error2, steps_left)
    record = StepRecord(
        t=s.t,
        h=h,
        t1=t_new,
        direction=direction,
        y=s.y,
        y1=y1,
        dense=result.dense,
        solver_state=s.solver_state,
        index=s.num_accepted,
        accept=accept,
        residuals=result.residuals,
        before=s,
    )
    return after, record


def _proposed_size(
    method: Method, s: IntegratorState, h: Array, result: StepResult, cut: Array
) -> Array:
    """The next step's size, from that of the controller; `cut`: this step ends before its time."""
    if step_times(method) is not None and method.solver.one_step:
        # A step that is cut on a given time does not limit the next one.
        h = jnp.where(cut, jnp.maximum(h, s.h), h)
    if result.max_next_step is not None and method.controller.adaptive:
        h = jnp.minimum(h, result.max_next_step.astype(h.dtype))
    return h


def _stepper(method: Method, s: IntegratorState) -> Solver:
    """The solver, with the tolerance of the distance where a neighbour is due."""
    if not isinstance(s.neighbour, Neighbour):
        return method.stepper
    return method.solver.with_tolerance(nearby.turn_tolerance(s.neighbour, method.tolerance))


def _note_iteration(
    method: Method,
    s: IntegratorState,
    after: IntegratorState,
    result: StepResult,
    accept: Array,
    own_error2: Array,
    steps_left: Array,
) -> IntegratorState:
    """The integrator state with what the neighbour has to know of an iteration."""
    solver, tolerance, neighbour = method.solver, method.tolerance, s.neighbour
    if solver.varies:
        leads = nearby.leads(neighbour, own_error2)
        led = nearby.led_state(leads, neighbour, solver, result.solver_state)
        after = after._replace(solver_state=select(accept, led, after.solver_state))
    y, result = lax.stop_gradient((s.y, result))
    error = result.error
    assert error is not None  # steps are adaptive
    rest = nearby.watch(neighbour, tolerance, (y, result.y1, error), own_error2, steps_left, solver)
    if result.status is not None:
        error = jnp.where(result.status == Status.SUCCESS, error, jnp.nan)
    noted = nearby.note_iteration(
        neighbour, s.neighbour_due, accept, error, result.step_factor, rest
    )
    return after._replace(neighbour=noted)


def _counts_after(
    method: Method, s: IntegratorState, result: StepResult, dense_read: Array | bool | None
) -> dict[str, Any]:
    """The counts of evaluations and of linear algebra after a step, as fields of the state."""
    dense_read = jnp.asarray(False if dense_read is None else dense_read)
    for_dense = dense_read.astype(jnp.int32) * method.solver.evaluations.dense
    extra = result.extra_evaluations + for_dense
    added = result.linear_algebra_counts or ()
    return {
        "extra_evaluations": jax.tree.map(lambda count: count + extra, s.extra_evaluations),
        "linear_algebra_counts": jax.tree.map(jnp.add, s.linear_algebra_counts, added),
    }


def _count_bound(
    method: Method, s: IntegratorState, result: StepResult, h: Array, accept: Array
) -> Any:
    """The number of accepted steps that stability binds, after a step; `()` if none are counted."""
    if isinstance(s.num_stability_bound, tuple) or result.stages is None:
        return s.num_stability_bound
    inputs = lax.stop_gradient((result.stages, s.y, h, method.tolerance))
    bound = method.solver.bound_by_stability(*inputs)
    return s.num_stability_bound + (accept & bound).astype(jnp.int32)


def _error_squared(method: Method, s: IntegratorState, result: StepResult) -> Array:
    """The squared scaled error of a step; infinity if the step failed."""
    # Every derivative of the loop holds step sizes fixed: none passes through the error estimate.
    error2 = _squared_error(method, *lax.stop_gradient((result.error, s.y, result.y1)))
    if result.status is None:
        return error2
    return jnp.where(result.status == Status.SUCCESS, error2, jnp.inf)


def _decide(
    method: Method, s: IntegratorState, size: Array, result: StepResult, error2: Array
) -> tuple[Decision, Array]:
    """Ask the controller for its decision on a step; also returns the squared scaled error.

    `error2` is that of the state alone; the distance to a neighbour has another.
    """
    exponent, factor = method.solver.error_exponent or 1, result.step_factor
    if isinstance(s.neighbour, Neighbour):
        assert result.error is not None  # steps are adaptive
        error = lax.stop_gradient(result.error)
        hidden = nearby.hidden_error_squared(s.neighbour, method.tolerance, error)
        if factor is not None:
            leads = nearby.leads(s.neighbour, error2)
            factor = nearby.led_factor(leads, s.neighbour, hidden, factor)
        error2 = jnp.maximum(error2, hidden)
    attempt = AttemptedStep(size, s.num_accepted, error2, exponent, factor)
    return method.controller.decide(attempt, s.controller_state), error2


def step_end(method: Method, s: IntegratorState, direction: Array, t1: Array) -> Array:
    """The time at which the next step ends, if it is accepted."""
    stop = next_stop(method, s.t, direction, t1)
    return choose_size(s.t, s.t_low, s.h, direction, stop)[2]


def step_times(method: Method) -> ArrayLike | None:
    """The times on which steps have to end, besides the last one; None without any."""
    return getattr(method.controller, "step_ts", None)


def next_stop(method: Method, t: Array, direction: Array, t1: Array) -> Array:
    """The time that a step from `t` may not pass: the next of the `step_times`, else `t1`."""
    if step_times(method) is None:
        return t1
    times = jnp.asarray(step_times(method), t.dtype).reshape(-1, *[1] * t.ndim)
    ahead = jnp.where(direction * (times - t) > 0, direction * times, jnp.inf)
    first = jnp.min(ahead, axis=0, initial=jnp.inf)
    return jnp.where(first < direction * t1, direction * first, t1)


def _squared_error(method: Method, error: Array | None, y: Array, y1: Array) -> Array:
    """The squared norm of the scaled error; of a fixed step, 0 if `y1` is finite, else infinity."""
    if method.controller.adaptive and error is not None:
        return method.tolerance.scaled_norm_squared(error, y, y1)
    return jnp.where(jnp.all(jnp.isfinite(y1), method.tolerance.norm_axes(y1)), 0.0, jnp.inf)


def _step_status(
    method: Method,
    t: Array,
    stretch_limit: Array,
    size: Array,
    proposed: Array,
    accept: Array,
    error2: Array,
    solver_status: Array | None,
) -> Array:
    """The status after a step: a failure if no smaller step can follow a rejected one."""
    finite, eps = jnp.isfinite(error2), jnp.finfo(t.dtype).eps
    failure = jnp.where(finite, Status.STEP_UNDERFLOW, Status.NOT_FINITE)
    if solver_status is not None:
        failure = jnp.where(solver_status == Status.SUCCESS, failure, solver_status)
    if not method.controller.adaptive:
        return jnp.where(finite, Status.SUCCESS, failure).astype(jnp.int32)
    span = jnp.where(jnp.isinf(stretch_limit), 0, stretch_limit)
    smallest = 4 * eps * jnp.maximum(jnp.abs(t), eps * span)
    # A step from `stretch_limit` on would be stretched to the same end, and fail again.
    hopeless = (
        (proposed <= smallest) | (proposed >= stretch_limit) | method.controller.below_minimum(size)
    )
    return jnp.where(~accept & hopeless, failure, Status.SUCCESS).astype(jnp.int32)


def finalise(end: IntegratorState, remaining: Array) -> IntegratorState:
    """Set the final status after the loop, and the state to NaN unless that is `SUCCESS`."""
    terminated = end.status == Status.TERMINATED
    incomplete = jnp.where(jnp.isnan(remaining), Status.BAD_TIMES, Status.MAX_STEPS).astype(
        jnp.int32
    )
    status = jnp.where((end.status == Status.SUCCESS) & ~(remaining <= 0), incomplete, end.status)
    status = jnp.where(terminated, jnp.int32(Status.SUCCESS), status)
    overflowed = (status == Status.SUCCESS) & ~jnp.all(jnp.isfinite(end.y))
    status = jnp.where(overflowed, jnp.int32(Status.NOT_FINITE), status)
    return end._replace(status=status, y=jnp.where(status == Status.SUCCESS, end.y, jnp.nan))


def first_size(
    method: Method, field: Field, t0: Array, t1: Array, y0: Array, slope: Array | None = None
) -> Array:
    """The size of the first step: the user's `dt`, else Hairer's choice (`first_step`)."""
    if method.dt is not None:
        return jnp.abs(method.dt).astype(t0.dtype)
    if not method.controller.adaptive:
        return jnp.ones_like(t0)
    slope = field(t0, y0) if slope is None else slope
    order = method.solver.error_exponent or 1
    return first_step(field, t0, y0, slope, t1 - t0, order, method.tolerance)


def select(mask: Array, new: Any, old: Any) -> Any:
    """Select `new` where `mask` holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)
