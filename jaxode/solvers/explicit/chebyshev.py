r"""The stages of a Runge-Kutta-Chebyshev step of order 2, as many as the step asks for.

With $T_j$ the Chebyshev polynomials, $\varepsilon = 2/13$, $w_0 = 1 + \varepsilon / s^2$ and
$w_1 = T_s'(w_0) / T_s''(w_0)$, values and derivatives at $w_0$ give $b_j = T_j'' / (T_j')^2$ from
$j = 2$ on, $b_0 = b_1 = b_2$, and $c_1 = b_1 w_1$, $c_j = w_1 T_j'' / T_j'$. The stages less the
start of the step are $d_0 = 0$, $d_1 = c_1 h F_0$ and
$$d_j = \frac{2 b_j w_0}{b_{j-1}} d_{j-1} - \frac{b_j}{b_{j-2}} d_{j-2}
  + \frac{2 b_j w_1}{b_{j-1}} h \bigl(F_{j-1} - (1 - b_{j-1} T_{j-1}) F_0\bigr), \qquad
  F_j = f(t + c_j h,\; y + d_j).$$

Source: B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs,
J. Comput. Appl. Math. 88 (1998). The polynomials are summed up from their rises, all positive, so
that single precision does.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

MAX_STAGES = 512  # stages
_SEGMENT = 16  # stages whose states a gradient holds at once, besides one of each segment
_DAMPING = 2 / 13
# h times the spectral radius is at most (s^2 - 1) / 1.54: of the stable interval, 0.653 (s^2 - 1).
_SHARE = 1.54

Increment = Callable[[Callable[..., Array], "ChebyshevStep"], Array]
Rising = tuple[Array, Array]  # a value, and what it rose by since the stage before


class ChebyshevStep(NamedTuple):
    """A step: what the field closes over, where it starts and how long it is, slope, stages.

    `h` and `stages` are floats of the state's precision, one of each or one for each lane.
    """

    consts: list[Array]
    t: Array
    h: Array
    y: Array
    slope: Array
    stages: Any


class _Stage(NamedTuple):
    """Where the recurrences are: T and its derivatives, and c; b and d of this stage and before."""

    polynomials: tuple[Rising, Rising, Rising]
    c: Array
    b: tuple[Array, Array]
    d: tuple[Array, Array]


def stages_for(size: Array) -> Array:
    """The fewest stages that are stable for `size`, which is `|h|` times the spectral radius."""
    return jnp.maximum(1 + jnp.floor(jnp.sqrt(1 + _SHARE * size)), 2)


def stability_limit(stages: Array | int) -> Any:
    """The largest `|h|` times the spectral radius for so many stages."""
    return (stages**2 - 1) / _SHARE


def increment_without_vjp(field: Callable[..., Array], step: ChebyshevStep) -> Array:
    """What a step adds to the state it starts from.

    `field(t, y, *consts)` closes over nothing that is differentiated. Stages are at most `MAX_STAGES`.
    """
    last, first = _last(step), _recurrence(field, step)[0]

    def one(state: tuple[Array, _Stage]) -> tuple[Array, _Stage]:
        return state[0] + 1, _following(field, step, *state)

    return lax.while_loop(lambda state: state[0] <= last, one, (jnp.int32(2), first))[1].d[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def increment(field: Callable[..., Array], step: ChebyshevStep) -> Array:
    """The same, with a rule for its derivative backwards."""
    return increment_without_vjp(field, step)


def _forward(
    field: Callable[..., Array], step: ChebyshevStep
) -> tuple[Array, tuple[ChebyshevStep, _Stage]]:
    """The same, and the stage before each segment."""
    last, first = _last(step), _recurrence(field, step)[0]

    def one(state: tuple[Array, _Stage, _Stage]) -> tuple[Array, _Stage, _Stage]:
        index, stage, kept = state
        stage = _following(field, step, index, stage)
        # The last that a segment writes is the one before the next.
        return index + 1, stage, _put(kept, stage, (index - 2) // _SEGMENT + 1)

    kept = _put(_rows(first, MAX_STAGES // _SEGMENT + 1), first, jnp.int32(0))
    start = jnp.int32(2), first, kept
    _, stage, kept = lax.while_loop(lambda state: state[0] <= last, one, start)
    return stage.d[0], (step, kept)


def _backward(
    field: Callable[..., Array], residuals: tuple[ChebyshevStep, _Stage], cotangent: Array
) -> tuple[ChebyshevStep]:
    """Segment by segment from the last: its stages once more, and then back through them."""
    step, kept = residuals
    last, blank = _last(step), _rows(_row(kept, 0), _SEGMENT)
    moving = step._replace(stages=None)

    def segment(state: tuple[Array, Any]) -> tuple[Array, Any]:
        number, cotangents = state[0] - 1, state[1]
        begin = 2 + number * _SEGMENT
        end = jnp.minimum(begin + _SEGMENT - 1, last)

        def again(state: tuple[Array, _Stage, _Stage]) -> tuple[Array, _Stage, _Stage]:
            index, stage, rows = state
            rows = _put(rows, stage, index - begin)
            return index + 1, _following(field, step, index, stage), rows

        start = begin, _row(kept, number), blank
        _, stage, rows = lax.while_loop(lambda state: state[0] < end, again, start)
        rows = _put(rows, stage, end - begin)

        def back(state: tuple[Array, Any]) -> tuple[Array, Any]:
            index, (total, ct) = state
            stage = _row(rows, index - begin)

            def one(moving: Any, d: tuple[Array, Array]) -> tuple[Array, Array]:
                here = moving._replace(stages=step.stages)
                return _following(field, here, index, stage._replace(d=d)).d

            more, ct = jax.vjp(one, moving, stage.d)[1](ct)
            return index - 1, (jax.tree.map(jnp.add, total, more), ct)

        return number, lax.while_loop(lambda state: state[0] >= begin, back, (end, cotangents))[1]

    zeros = jax.tree.map(jnp.zeros_like, moving)
    start = (last - 2) // _SEGMENT + 1, (zeros, (cotangent, jnp.zeros_like(cotangent)))
    _, (total, ct) = lax.while_loop(lambda state: state[0] > 0, segment, start)

    def first(moving: Any) -> tuple[Array, Array]:
        return _recurrence(field, moving._replace(stages=step.stages))[0].d

    total = jax.tree.map(jnp.add, total, jax.vjp(first, moving)[1](ct)[0])
    return (total._replace(stages=jnp.zeros_like(step.stages)),)


increment.defvjp(_forward, _backward)


def _last(step: ChebyshevStep) -> Array:
    return jnp.max(step.stages).astype(jnp.int32)


def _rows(stage: _Stage, number: int) -> _Stage:
    return jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), stage)


def _row(rows: _Stage, index: Array | int) -> _Stage:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), rows)


def _put(rows: _Stage, stage: _Stage, index: Array) -> _Stage:
    return jax.tree.map(lambda b, x: lax.dynamic_update_index_in_dim(b, x, index, 0), rows, stage)


def _following(
    field: Callable[..., Array], step: ChebyshevStep, index: Array, stage: _Stage
) -> _Stage:
    """The stage `index` from the one before; lanes that have fewer stages stay as they are."""
    following = _recurrence(field, step)[1](stage)
    if not step.t.ndim:
        return following
    here = index <= step.stages
    return jax.tree.map(lambda x, y: jnp.where(here, x, y), following, stage)


def _recurrence(
    field: Callable[..., Array], step: ChebyshevStep
) -> tuple[_Stage, Callable[[_Stage], _Stage]]:
    """The first stage, and how one follows from another."""
    consts, t, h, y, slope, stages = step
    delta, w1 = _nodes(stages)

    def risen(of: Rising, push: Array | float) -> Rising:
        rise = of[1] + 2 * delta * of[0] + push
        return of[0] + rise, rise

    def advance(stage: _Stage) -> _Stage:
        (T, dT, ddT), (b1, b2), (d1, d2) = stage.polynomials, stage.b, stage.d
        at = t + stage.c.astype(t.dtype) * h.astype(t.dtype)
        # Each state and each slope once: else XLA computes it again wherever it enters.
        rate = lax.optimization_barrier(field(at, lax.optimization_barrier(y + d1), *consts))
        a = 1 - b1 * T[0]
        T, dT, ddT = risen(T, 0.0), risen(dT, 2 * T[0]), risen(ddT, 4 * dT[0])
        b = ddT[0] / dT[0] ** 2
        twice = 2 * b / b1
        d = (twice * (1 + delta)) * d1 - (b / b2) * d2 + (twice * w1 * h) * (rate - a * slope)
        return _Stage((T, dT, ddT), w1 * ddT[0] / dT[0], (b, b1), (d, d1))

    zero, one = jnp.zeros_like(stages), jnp.ones_like(stages)
    b = 1 / (4 * (1 + delta) ** 2)
    d = (b * w1 * h) * slope
    polynomials = (1 + delta, delta), (one, one), (zero, zero)
    return _Stage(polynomials, b * w1, (b, b), (d, jnp.zeros_like(d))), advance


def _nodes(stages: Array) -> tuple[Array, Array]:
    r"""$w_0 - 1$ and $w_1$, the second by $T_s(\cosh x) = \cosh s x$."""
    delta = _DAMPING / stages**2
    r = jnp.sqrt(delta * (2 + delta))
    x = stages * jnp.log1p(delta + r)
    sinh, cosh = jnp.sinh(x), jnp.cosh(x)
    return delta, r**2 * sinh / (stages * r * cosh - (1 + delta) * sinh)
