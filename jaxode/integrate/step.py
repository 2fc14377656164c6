"""One trajectory under way: how it begins, attempts a step, and is judged at its end.

All of it is arithmetic without loops; the loops call it and know no more of solvers and controllers
than this. `attempt_step` serves one trajectory or lanes of many: then times, counts and decisions are
vectors, and the last axis of every state is its lanes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from ..problem.status import Status
from ..solvers.base import Solver, StepResult
from ..solvers.step_size import AttemptedStep, Controller, Tolerance, first_step
from .save import StepRecord
from .solution import Stats

Field = Callable[[Array, Array], Array]


class Method(eqx.Module):
    """How a problem is stepped: everything but the problem itself."""

    solver: Solver
    controller: Controller
    tolerance: Tolerance
    dt: Array | None
    max_steps: int = eqx.field(static=True)
    progress: Callable[..., None] | None = eqx.field(static=True, default=None)
    restarts: bool = eqx.field(static=True, default=False)  # events or jumps are on the way

    @property
    def stepper(self) -> Solver:
        """The solver, told of the tolerance if there is one: fixed steps take no notice of it."""
        return self.solver.with_tolerance(self.tolerance if self.controller.adaptive else None)

    @property
    def counts_more(self) -> bool:
        """Whether field evaluations differ from step to step."""
        return bool(
            self.restarts or self.solver.counts_evaluations or self.solver.evaluations.dense
        )


class IntegratorState(NamedTuple):
    """Where a trajectory is, and what its next step starts from.

    `extra_evaluations` counts the field evaluations that not every step makes, where there are any;
    `linear_algebra_counts` the Jacobians and the factorisations, where the solver keeps them. `event_state`: what it
    remembers of events and jumps, where there are any.
    """

    t: Array
    t_low: Array  # what rounding took from t
    y: Array
    solver_state: Any
    h: Array  # the next step's size, positive
    memory: Any
    num_steps: Array
    num_accepted: Array
    extra_evaluations: Any
    linear_algebra_counts: Any
    status: Array
    event_state: Any = ()


def initialise(method: Method, field: Field, y0: Array, t0: Array, t1: Array) -> IntegratorState:
    """The trajectory at its first time, its first step chosen."""
    carry = method.stepper.init(field, t0, y0)
    size = first_size(method, field, t0, t1, y0, method.solver.slope(carry))
    h, memory = method.controller.init(lax.stop_gradient(size))
    zero = jnp.zeros((), jnp.int32)
    num_more = zero if method.counts_more else ()
    num_made = (zero, zero) if method.solver.reuses_jacobian else ()
    low = jnp.zeros_like(t0)
    return IntegratorState(t0, low, y0, carry, h, memory, zero, zero, num_more, num_made, zero)


def under_way(method: Method, s: IntegratorState, direction: Array, t1: Array) -> Array:
    """Whether there is another step to attempt."""
    going = direction * (t1 - s.t) > 0
    return going & (s.status == Status.SUCCESS) & (s.num_steps < method.max_steps)


def attempt_step(
    method: Method,
    field: Field,
    s: IntegratorState,
    direction: Array,
    t1: Array,
    look: Callable[[Array], Array | bool | None] = lambda t_new: None,
    step: Callable[..., StepResult] | None = None,
) -> tuple[IntegratorState, StepRecord]:
    """Attempt a step towards `t1`: the trajectory after it, and the step.

    `look(t_new)` says whether dense output inside the step to `t_new` will be read: None for
    never, else a boolean. `step` stands in for the solver's.
    """
    size, longest, t_new, t_low = _aim(s, direction, t1)
    h = direction * size
    inside = look(t_new)

    stepper = method.stepper.for_forward_mode()
    stepped = (step or stepper.step)(field, s.t, s.y, h, s.solver_state, inside)
    looks = False if inside is None else inside
    more = stepped.extra_evaluations + looks * method.solver.evaluations.dense
    y1, trouble = stepped.y1, stepped.status
    # Step sizes are held fixed in every derivative of the loop: nothing passes through the error.
    square = _square(method, *lax.stop_gradient((stepped.error, s.y, y1)))
    if trouble is not None:
        square = jnp.where(trouble == Status.SUCCESS, square, jnp.inf)
    exponent = method.solver.error_exponent or 1
    attempt = AttemptedStep(size, s.num_accepted, square, exponent, stepped.step_factor)
    decision = method.controller.decide(attempt, s.memory)
    accept, proposed = decision.accept, decision.h
    if stepped.max_next_step is not None and method.controller.adaptive:
        proposed = jnp.minimum(proposed, stepped.max_next_step.astype(proposed.dtype))
    after = IntegratorState(
        t=jnp.where(accept, t_new, s.t),
        t_low=jnp.where(accept, t_low, s.t_low),
        y=jnp.where(accept, y1, s.y),
        solver_state=select(accept, stepped.solver_state, s.solver_state),
        h=lax.stop_gradient(proposed),
        memory=lax.stop_gradient(decision.controller_state),
        num_steps=s.num_steps + 1,
        num_accepted=s.num_accepted + accept,
        extra_evaluations=jax.tree.map(lambda count: count + more, s.extra_evaluations),
        linear_algebra_counts=jax.tree.map(
            jnp.add, s.linear_algebra_counts, stepped.linear_algebra_counts or ()
        ),
        status=_status(method, s.t, longest, size, proposed, accept, square, trouble),
        event_state=s.event_state,
    )
    parts = s.t, h, t_new, direction, s.y, y1, stepped.dense, s.solver_state, s.num_accepted, accept
    return after, StepRecord(*parts, stepped.residuals, s)


def step_end(s: IntegratorState, direction: Array, t1: Array) -> Array:
    """The time at which the next step ends, if it is accepted."""
    return _aim(s, direction, t1)[2]


def _aim(s: IntegratorState, direction: Array, t1: Array) -> tuple[Array, Array, Array, Array]:
    """The next step's size, the size that would be drawn out to `t1`, and the time after it."""
    remaining = direction * ((t1 - s.t) - s.t_low)
    longest = remaining - 8 * jnp.finfo(s.t.dtype).eps * (jnp.abs(s.t) + remaining)
    last = s.h >= longest
    size = jnp.where(last, remaining, s.h)
    t_new, t_low = _add(s.t, s.t_low, direction * size)
    return size, longest, jnp.where(last, t1, t_new), jnp.where(last, 0, t_low)


def _add(t: Array, low: Array, h: Array) -> tuple[Array, Array]:
    """Kahan's sum: `t + h` and what its rounding left over, so that long solves do not drift."""
    step = h + low
    total = t + step
    return total, step - (total - t)


def _square(method: Method, error: Array | None, y: Array, y1: Array) -> Array:
    """The squared error in units of the tolerance; of a fixed step, zero if `y1` is finite."""
    if method.controller.adaptive and error is not None:
        return method.tolerance.scaled_norm_squared(error, y, y1)
    return jnp.where(jnp.all(jnp.isfinite(y1), method.tolerance.norm_axes(y1)), 0.0, jnp.inf)


def _status(
    method: Method,
    t: Array,
    longest: Array,
    size: Array,
    proposed: Array,
    accept: Array,
    square: Array,
    trouble: Array | None,
) -> Array:
    finite, eps = jnp.isfinite(square), jnp.finfo(t.dtype).eps
    failure = jnp.where(finite, Status.STEP_UNDERFLOW, Status.NOT_FINITE)
    if trouble is not None:
        failure = jnp.where(trouble == Status.SUCCESS, failure, trouble)
    if not method.controller.adaptive:
        return jnp.where(finite, Status.SUCCESS, failure).astype(jnp.int32)
    finest = 4 * eps * jnp.maximum(jnp.abs(t), eps * longest)
    # A step of `max_next_step` is drawn out to the last time, and so would only be tried again.
    again = (proposed <= finest) | (proposed >= longest) | method.controller.below_minimum(size)
    stuck = ~accept & again
    return jnp.where(stuck, failure, Status.SUCCESS).astype(jnp.int32)


def finalise(end: IntegratorState, remaining: Array) -> IntegratorState:
    """The trajectory after its loop: its final status, and NaN unless that is `SUCCESS`."""
    ended = end.status == Status.TERMINATED
    short = jnp.where(jnp.isnan(remaining), Status.BAD_TIMES, Status.MAX_STEPS).astype(jnp.int32)
    status = jnp.where((end.status == Status.SUCCESS) & ~(remaining <= 0), short, end.status)
    status = jnp.where(ended, jnp.int32(Status.SUCCESS), status)
    broken = (status == Status.SUCCESS) & ~jnp.all(jnp.isfinite(end.y))
    status = jnp.where(broken, jnp.int32(Status.NOT_FINITE), status)
    return end._replace(status=status, y=jnp.where(status == Status.SUCCESS, end.y, jnp.nan))


def stats_of(
    method: Method,
    num_steps: Array,
    num_accepted: Array,
    num_more: Any,
    num_made: Any,
    t_reached: Array,
) -> Stats:
    """The counts of trajectories that have ended."""
    first, each = first_evaluations(method), method.solver.evaluations.step
    jacobians, factorisations = num_made or (None, None)
    return Stats(
        num_steps=num_steps,
        num_accepted=num_accepted,
        num_rejected=num_steps - num_accepted,
        num_evaluations=first + each * num_steps + sum(jax.tree.leaves(num_more)),
        t_reached=t_reached,
        num_jacobians=jacobians,
        num_factorisations=factorisations,
    )


def first_evaluations(method: Method) -> int:
    """Field evaluations before a first step: the solver's, and those of its choice."""
    first = method.solver.evaluations.init
    if method.controller.adaptive and method.dt is None:
        return max(first, 1) + 1  # which shares the slope at the start
    return first


def first_size(
    method: Method, field: Field, t0: Array, t1: Array, y0: Array, slope: Array | None = None
) -> Array:
    """The size of the first step: what the user gave, else Hairer's choice."""
    if method.dt is not None:
        return jnp.abs(method.dt).astype(t0.dtype)
    if not method.controller.adaptive:
        return jnp.ones_like(t0)
    slope = field(t0, y0) if slope is None else slope
    order = method.solver.error_exponent or 1
    return first_step(field, t0, y0, slope, t1 - t0, order, method.tolerance)


def select(mask: Array, new: Any, old: Any) -> Any:
    """`new` where `mask` holds, else `old`, array by array."""
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)
