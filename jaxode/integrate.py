"""The one loop: step, judge, accept, record."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from .control import Controller, Tolerance, first_step
from .fuse import in_one_piece
from .record import Step
from .solution import Stats, Status
from .stepping.explicit import ExplicitRungeKutta

Field = Callable[[Array, Array], Array]


class Method(eqx.Module):
    """How a problem is stepped: everything but the problem itself."""

    solver: ExplicitRungeKutta
    controller: Controller
    tolerance: Tolerance
    dt: Array | None
    max_steps: int = eqx.field(static=True)
    progress: Callable[..., None] | None = eqx.field(static=True, default=None)


class Recorder(NamedTuple):
    """What the loop records: `write(state, step) -> state` after each attempted step.

    `inside(state, t1, direction)` says whether a time inside the coming step, to `t1`, will be
    read; without it no dense output is made.
    """

    write: Callable[[Any, Step], Any]
    inside: Callable[[Any, Array, Array], Array | bool] | None = None


class Outcome(NamedTuple):
    """How the loop ended."""

    y1: Array
    status: Array
    stats: Stats
    record: Any
    h: Array


class _State(NamedTuple):
    t: Array
    t_low: Array  # what rounding took from t
    y: Array
    carry: Any
    h: Array  # the next step's size, positive
    memory: Any
    num_steps: Array
    num_accepted: Array
    num_inside: Array
    status: Array
    record: Any


def integrate(
    method: Method,
    field: Field,
    y0: Array,
    t0: Array,
    t1: Array,
    recorder: Recorder,
    open_record: Callable[[Any], Any],
) -> Outcome:
    """Integrate `field` from `(t0, y0)` to `t1`, recording on the way.

    `open_record` makes the recorder's first state from the solver's first carry. The state at the
    end is NaN unless the status is `SUCCESS`.
    """
    solver = method.solver
    shapes = jax.eval_shape(lambda t, y: solver.init(field, t, y), t0, y0)
    carry = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    h, memory = method.controller.start(jnp.zeros_like(t0))
    zero = jnp.zeros((), jnp.int32)
    # Step size and carry are blanks of the right shape, for `whole` to fill in.
    blank = _State(
        t0, jnp.zeros_like(t0), y0, carry, h, memory, zero, zero, zero, zero, open_record(carry)
    )

    def whole(s: _State) -> _State:
        direction = jnp.sign(t1 - s.t)
        carry = solver.init(field, s.t, s.y)
        slope = carry if solver.evaluations[0] else None
        h, _ = method.controller.start(first_size(method, field, s.t, t1, s.y, slope))

        def unfinished(s: _State) -> Array:
            going = direction * (t1 - s.t) > 0
            return going & (s.status == Status.SUCCESS) & (s.num_steps < method.max_steps)

        def advance(s: _State) -> _State:
            return _advance(method, field, direction, t0, t1, recorder, s)

        end = lax.while_loop(unfinished, advance, s._replace(carry=carry, h=h))
        return _judged(end, direction * (t1 - end.t))

    end = in_one_piece(whole, blank)
    return Outcome(end.y, end.status, _stats(method, end), end.record, end.h)


def _advance(
    method: Method,
    field: Field,
    direction: Array,
    t0: Array,
    t1: Array,
    recorder: Recorder,
    s: _State,
) -> _State:
    remaining = direction * ((t1 - s.t) - s.t_low)
    slack = 8 * jnp.finfo(s.t.dtype).eps * (jnp.abs(s.t) + remaining)
    last = s.h >= remaining - slack
    size = jnp.where(last, remaining, s.h)
    h = direction * size
    t_new, t_low = _add(s.t, s.t_low, h)
    t_new, t_low = jnp.where(last, t1, t_new), jnp.where(last, 0, t_low)
    inside = None if recorder.inside is None else recorder.inside(s.record, t_new, direction)
    looks = inside if inside is not None and method.solver.evaluations[2] else False

    y1, error, dense, carry1 = method.solver.step(field, s.t, s.y, h, s.carry, inside)
    square = _square(method, error, s.y, y1)
    decision = method.controller.judge(
        size, square, method.solver.error_order or 1, s.memory, s.num_accepted
    )
    accept = decision.accept
    step = Step(s.t, h, t_new, direction, s.y, y1, dense, s.carry, s.num_accepted, accept)
    if method.progress is not None:
        method.progress(jnp.where(accept, t_new, s.t), t0, t1)
    return _State(
        t=jnp.where(accept, t_new, s.t),
        t_low=jnp.where(accept, t_low, s.t_low),
        y=jnp.where(accept, y1, s.y),
        carry=_where(accept, carry1, s.carry),
        h=decision.h,
        memory=decision.memory,
        num_steps=s.num_steps + 1,
        num_accepted=s.num_accepted + accept,
        num_inside=s.num_inside + looks,
        status=_status(method, s.t, remaining - slack, size, decision.h, accept, square),
        record=recorder.write(s.record, step),
    )


def _add(t: Array, low: Array, h: Array) -> tuple[Array, Array]:
    """Kahan's sum: `t + h` and what its rounding left over, so that long solves do not drift."""
    step = h + low
    total = t + step
    return total, step - (total - t)


def _square(method: Method, error: Array | None, y: Array, y1: Array) -> Array:
    """The squared error in units of the tolerance; of a fixed step, zero if `y1` is finite."""
    if method.controller.adaptive and error is not None:
        return method.tolerance.square(error, y, y1)
    return jnp.where(jnp.all(jnp.isfinite(y1)), 0.0, jnp.inf)


def _status(
    method: Method,
    t: Array,
    longest: Array,
    size: Array,
    proposed: Array,
    accept: Array,
    square: Array,
) -> Array:
    finite, eps = jnp.isfinite(square), jnp.finfo(t.dtype).eps
    if not method.controller.adaptive:
        return jnp.where(finite, Status.SUCCESS, Status.NOT_FINITE).astype(jnp.int32)
    finest = 4 * eps * jnp.maximum(jnp.abs(t), eps * longest)
    # A step of `longest` is drawn out to the last time, and so would only be tried again.
    again = (proposed <= finest) | (proposed >= longest) | method.controller.too_small(size)
    stuck = ~accept & again
    reason = jnp.where(finite, Status.STEP_UNDERFLOW, Status.NOT_FINITE)
    return jnp.where(stuck, reason, Status.SUCCESS).astype(jnp.int32)


def _judged(end: _State, remaining: Array) -> _State:
    """The state after the loop: its final status, and NaN unless that is `SUCCESS`."""
    short = jnp.where(jnp.isnan(remaining), Status.BAD_TIMES, Status.MAX_STEPS).astype(jnp.int32)
    status = jnp.where((end.status == Status.SUCCESS) & ~(remaining <= 0), short, end.status)
    broken = (status == Status.SUCCESS) & ~jnp.all(jnp.isfinite(end.y))
    status = jnp.where(broken, jnp.int32(Status.NOT_FINITE), status)
    return end._replace(status=status, y=jnp.where(status == Status.SUCCESS, end.y, jnp.nan))


def _stats(method: Method, end: _State) -> Stats:
    first, each, extra = method.solver.evaluations
    if method.controller.adaptive and method.dt is None:
        first = 2  # of the first step's choice, which shares the slope at the start
    return Stats(
        num_steps=end.num_steps,
        num_accepted=end.num_accepted,
        num_rejected=end.num_steps - end.num_accepted,
        num_evaluations=first + each * end.num_steps + extra * end.num_inside,
        t_reached=end.t,
    )


def first_size(
    method: Method, field: Field, t0: Array, t1: Array, y0: Array, slope: Array | None = None
) -> Array:
    """The size of the first step: what the user gave, else Hairer's choice."""
    if method.dt is not None:
        return jnp.abs(method.dt).astype(t0.dtype)
    if not method.controller.adaptive:
        return jnp.ones_like(t0)
    slope = field(t0, y0) if slope is None else slope
    order = method.solver.error_order or 1
    return first_step(field, t0, y0, slope, t1 - t0, order, method.tolerance)


def _where(accept: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)
