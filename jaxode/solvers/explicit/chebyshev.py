r"""The stages of a Runge-Kutta-Chebyshev step of order 2, with a variable number of stages.

With $T_j$ the Chebyshev polynomials, $\varepsilon = 2/13$, $w_0 = 1 + \varepsilon / s^2$ and
$w_1 = T_s'(w_0) / T_s''(w_0)$, values and derivatives at $w_0$ give $b_j = T_j'' / (T_j')^2$ from
$j = 2$ on, $b_0 = b_1 = b_2$, and $c_1 = b_1 w_1$, $c_j = w_1 T_j'' / T_j'$. The differences of
the stages from the start of the step are $d_0 = 0$, $d_1 = c_1 h F_0$ and
$$d_j = \frac{2 b_j w_0}{b_{j-1}} d_{j-1} - \frac{b_j}{b_{j-2}} d_{j-2}
  + \frac{2 b_j w_1}{b_{j-1}} h \bigl(F_{j-1} - (1 - b_{j-1} T_{j-1}) F_0\bigr), \qquad
  F_j = f(t + c_j h,\; y + d_j).$$

Source: B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs,
J. Comput. Appl. Math. 88 (1998). The polynomials are sums of their differences by $j$, all
positive, so that single precision suffices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

MAX_STAGES = 512
_SEGMENT_STAGES = 16  # stages of a checkpointing segment in the backward pass
_DAMPING = 2 / 13
# h times the spectral radius is at most (s^2 - 1) / 1.54, within the stability interval.
_STABILITY = 1.54

Increment = Callable[[Callable[..., Array], "ChebyshevStep"], Array]
WithDifference = tuple[Array, Array]  # a value, and its difference from the previous stage's


class ChebyshevStep(NamedTuple):
    """A step: captured values of the field, start, size, slope at the start, number of stages.

    `h` and `stages` are floats of the state's precision, one of each or one for each lane.
    """

    consts: list[Array]
    t: Array
    h: Array
    y: Array
    slope: Array
    stages: Any


class _Stage(NamedTuple):
    """The recurrences at a stage: T, T', T'' and c; b and d of this stage and the previous one."""

    polynomials: tuple[WithDifference, WithDifference, WithDifference]
    c: Array
    b: tuple[Array, Array]
    d: tuple[Array, Array]


def stages_for(size: Array) -> Array:
    """The least number of stages that is stable for `size`, `|h|` times the spectral radius."""
    return jnp.maximum(1 + jnp.floor(jnp.sqrt(1 + _STABILITY * size)), 2)


def stability_limit(stages: Array | int) -> Any:
    """The largest stable `|h|` times the spectral radius, for this number of stages."""
    return (stages**2 - 1) / _STABILITY


def increment_without_vjp(field: Callable[..., Array], step: ChebyshevStep) -> Array:
    """The increment `y1 - y` of a step, without a rule for reverse mode.

    `field(t, y, *consts)` captures nothing that is differentiated. There are at most `MAX_STAGES`
    stages.
    """
    last, first = _last_stage(step), _recurrences(field, step)[0]

    def advance(state: tuple[Array, _Stage]) -> tuple[Array, _Stage]:
        return state[0] + 1, _next_stage(field, step, *state)

    return lax.while_loop(lambda state: state[0] <= last, advance, (jnp.int32(2), first))[1].d[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def increment(field: Callable[..., Array], step: ChebyshevStep) -> Array:
    """The increment `y1 - y` of a step, with a rule for reverse mode."""
    return increment_without_vjp(field, step)


def _forward(
    field: Callable[..., Array], step: ChebyshevStep
) -> tuple[Array, tuple[ChebyshevStep, _Stage]]:
    """The increment, and as checkpoints the stage before each segment."""
    last, first = _last_stage(step), _recurrences(field, step)[0]

    def advance(state: tuple[Array, _Stage, _Stage]) -> tuple[Array, _Stage, _Stage]:
        index, stage, checkpoints = state
        stage = _next_stage(field, step, index, stage)
        # Every stage overwrites its segment's row: the last one written precedes the next segment.
        return index + 1, stage, _set_row(checkpoints, stage, (index - 2) // _SEGMENT_STAGES + 1)

    rows = _empty_rows(first, MAX_STAGES // _SEGMENT_STAGES + 1)
    start = jnp.int32(2), first, _set_row(rows, first, jnp.int32(0))
    _, stage, checkpoints = lax.while_loop(lambda state: state[0] <= last, advance, start)
    return stage.d[0], (step, checkpoints)


def _backward(
    field: Callable[..., Array], residuals: tuple[ChebyshevStep, _Stage], cotangent: Array
) -> tuple[ChebyshevStep]:
    """The cotangents of `step`: from the last segment on, recompute stages, then go backwards."""
    step, checkpoints = residuals
    last, blank = _last_stage(step), _empty_rows(_row_at(checkpoints, 0), _SEGMENT_STAGES)
    diff = step._replace(stages=None)

    def segment_vjp(state: tuple[Array, Any]) -> tuple[Array, Any]:
        number, cotangents = state[0] - 1, state[1]
        begin = 2 + number * _SEGMENT_STAGES
        end = jnp.minimum(begin + _SEGMENT_STAGES - 1, last)

        def recompute(state: tuple[Array, _Stage, _Stage]) -> tuple[Array, _Stage, _Stage]:
            index, stage, rows = state
            rows = _set_row(rows, stage, index - begin)
            return index + 1, _next_stage(field, step, index, stage), rows

        start = begin, _row_at(checkpoints, number), blank
        _, stage, rows = lax.while_loop(lambda state: state[0] < end, recompute, start)
        rows = _set_row(rows, stage, end - begin)

        def stage_vjp(state: tuple[Array, Any]) -> tuple[Array, Any]:
            index, (ct_step, ct) = state
            stage = _row_at(rows, index - begin)

            def advance(diff: Any, d: tuple[Array, Array]) -> tuple[Array, Array]:
                whole = diff._replace(stages=step.stages)
                return _next_stage(field, whole, index, stage._replace(d=d)).d

            contribution, ct = jax.vjp(advance, diff, stage.d)[1](ct)
            return index - 1, (jax.tree.map(jnp.add, ct_step, contribution), ct)

        start = end, cotangents
        return number, lax.while_loop(lambda state: state[0] >= begin, stage_vjp, start)[1]

    zeros = jax.tree.map(jnp.zeros_like, diff)
    start = (last - 2) // _SEGMENT_STAGES + 1, (zeros, (cotangent, jnp.zeros_like(cotangent)))
    _, (ct_step, ct) = lax.while_loop(lambda state: state[0] > 0, segment_vjp, start)

    def first_stage(diff: Any) -> tuple[Array, Array]:
        return _recurrences(field, diff._replace(stages=step.stages))[0].d

    ct_step = jax.tree.map(jnp.add, ct_step, jax.vjp(first_stage, diff)[1](ct)[0])
    return (ct_step._replace(stages=jnp.zeros_like(step.stages)),)


increment.defvjp(_forward, _backward)


def _last_stage(step: ChebyshevStep) -> Array:
    return jnp.max(step.stages).astype(jnp.int32)


def _empty_rows(stage: _Stage, number: int) -> _Stage:
    return jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), stage)


def _row_at(rows: _Stage, index: Array | int) -> _Stage:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), rows)


def _set_row(rows: _Stage, stage: _Stage, index: Array) -> _Stage:
    return jax.tree.map(lambda b, x: lax.dynamic_update_index_in_dim(b, x, index, 0), rows, stage)


def _next_stage(
    field: Callable[..., Array], step: ChebyshevStep, index: Array, stage: _Stage
) -> _Stage:
    """The stage `index` from the previous one; lanes with fewer stages keep their last."""
    next_stage = _recurrences(field, step)[1](stage)
    if not step.t.ndim:
        return next_stage
    active = index <= step.stages
    return jax.tree.map(lambda x, y: jnp.where(active, x, y), next_stage, stage)


def _recurrences(
    field: Callable[..., Array], step: ChebyshevStep
) -> tuple[_Stage, Callable[[_Stage], _Stage]]:
    """The first stage, and the function that maps a stage to the next one."""
    consts, t, h, y, slope, stages = step
    delta, w1 = _parameters(stages)

    def advance_polynomial(p: WithDifference, inhomogeneity: Array | float) -> WithDifference:
        difference = p[1] + 2 * delta * p[0] + inhomogeneity
        return p[0] + difference, difference

    def advance(stage: _Stage) -> _Stage:
        (T, dT, ddT), (b1, b2), (d1, d2) = stage.polynomials, stage.b, stage.d
        stage_t = t + stage.c.astype(t.dtype) * h.astype(t.dtype)
        # Without barriers, XLA computes a state or a slope again wherever it is used.
        stage_y = lax.optimization_barrier(y + d1)
        stage_slope = lax.optimization_barrier(field(stage_t, stage_y, *consts))
        a = 1 - b1 * T[0]
        T, dT, ddT = (
            advance_polynomial(T, 0.0),
            advance_polynomial(dT, 2 * T[0]),
            advance_polynomial(ddT, 4 * dT[0]),
        )
        b = ddT[0] / dT[0] ** 2
        twice = 2 * b / b1
        d = (
            (twice * (1 + delta)) * d1
            - (b / b2) * d2
            + (twice * w1 * h) * (stage_slope - a * slope)
        )
        return _Stage((T, dT, ddT), w1 * ddT[0] / dT[0], (b, b1), (d, d1))

    zero, one = jnp.zeros_like(stages), jnp.ones_like(stages)
    b = 1 / (4 * (1 + delta) ** 2)
    d = (b * w1 * h) * slope
    polynomials = (1 + delta, delta), (one, one), (zero, zero)
    return _Stage(polynomials, b * w1, (b, b), (d, jnp.zeros_like(d))), advance


def _parameters(stages: Array) -> tuple[Array, Array]:
    r"""$w_0 - 1$ and $w_1$, the second by $T_s(\cosh x) = \cosh s x$."""
    delta = _DAMPING / stages**2
    r = jnp.sqrt(delta * (2 + delta))
    x = stages * jnp.log1p(delta + r)
    sinh, cosh = jnp.sinh(x), jnp.cosh(x)
    return delta, r**2 * sinh / (stages * r * cosh - (1 + delta) * sinh)
