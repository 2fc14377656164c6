"""Root finding for the conditions of events in one step: brackets, then roots to rounding.

Everything here is for one trajectory with several conditions: vectors have an entry for each.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# All conditions at one fraction `theta` of the step.
Values = Callable[[Array], Array]

# Points of a step at which signs are sampled: two crossings between neighbours are not detected.
_NUM_SAMPLES = 4
_MAX_ITERATIONS = 100
# A value below this many roundings of the condition's size in the step has no reliable sign.
ROUNDINGS = 64.0


class RootBrackets(NamedTuple):
    """A bracket of the first zero crossing of each condition after a point of a step.

    - `crossed`: True if there is one that counts, between the fractions `left` and `right`.
    - `at_left`, `at_right`: the values there; that at the left has the sign just after it.
    - `signs`: the signs at the end of the step, NaN if a sample was NaN.
    - `size`: the largest absolute value of each condition in this step.
    """

    crossed: Array
    left: Array
    right: Array
    at_left: Array
    at_right: Array
    signs: Array
    size: Array


class Crossing(NamedTuple):
    """The first crossing of all: its fraction of the step, its condition, the signs after it.

    `met`: the conditions that have crossed in this step so far.
    """

    theta: Array
    index: Array
    signs: Array
    met: Array


def bracket_roots(
    values: Values, counted: list[int], signs: Array, start: Array, size: Array, met: Array
) -> RootBrackets:
    """Bracket the first zero crossing of each condition in `(start, 1]`.

    `signs` are those just after `start`, zero where unknown. `counted` tells which crossings count:
    upwards 1, downwards -1, both 0. `size` is a known lower bound of the `size` in the result.
    Conditions that were `met` before `start` may stay zero for a while: rounding flattens them.
    """
    points = [start + (1 - start) * ((i + 1) / _NUM_SAMPLES) for i in range(_NUM_SAMPLES)]
    samples = [values(point) for point in points]
    for sample in samples:
        size = jnp.maximum(size, jnp.abs(sample))
    counted_sign, finite = jnp.asarray(counted, signs.dtype), ~jnp.isnan(signs)
    tiny = jnp.finfo(signs.dtype).tiny
    # A condition may be zero at the start; with that value the search would find the start itself.
    current, previous, value = signs, start, signs * jnp.maximum(jnp.abs(samples[0]), tiny)
    crossed, left, right = jnp.zeros_like(signs, bool), jnp.zeros_like(signs), jnp.ones_like(signs)
    at_left, at_right, away = value, value, ~met
    for point, sample in zip(points, samples, strict=True):
        sign = _sign(sample, size, current)
        changed = (sign * current <= 0) & (current != 0) & (away | (sign != 0))
        away = away | (jnp.abs(sample) > ROUNDINGS * jnp.finfo(size.dtype).eps * size)
        changed = changed & ((counted_sign == 0) | (counted_sign == -current))
        new = changed & ~crossed & (start < 1)
        left, right = jnp.where(new, previous, left), jnp.where(new, point, right)
        at_left, at_right = jnp.where(new, value, at_left), jnp.where(new, sample, at_right)
        crossed, finite = crossed | new, finite & ~jnp.isnan(sample)
        current = jnp.where(sign == 0, jnp.where(changed, -current, current), sign)
        previous = point
        value = current * jnp.maximum(jnp.abs(sample), tiny)
    signs = jnp.where(finite, current, jnp.nan)
    return RootBrackets(crossed, left, right, at_left, at_right, signs, size)


def _sign(value: Array, size: Array, before: Array) -> Array:
    """The sign of a condition; the sign `before` if the value is within rounding of zero."""
    noise = (value != 0) & (jnp.abs(value) <= ROUNDINGS * jnp.finfo(before.dtype).eps * size)
    return jnp.where(noise, before, jnp.sign(value).astype(before.dtype))


def first_crossing(
    values: Values,
    values_at_own_theta: Values,
    truncates_step: list[bool],
    signs: Array,
    brackets: RootBrackets,
    met: Array,
) -> Crossing:
    """Find the first bracketed crossing; of simultaneous ones, those that truncate come last.

    `values_at_own_theta` evaluates each condition at its own entry of a vector of fractions.
    `signs` are those at the start of the search. Conditions with later crossings keep their sign.
    `met`: as in `bracket_roots`.
    """
    signs_before = jnp.where(brackets.crossed, jnp.sign(brackets.at_left), signs)
    roots = jnp.where(brackets.crossed, find_roots(values_at_own_theta, brackets), 2)
    first = jnp.min(roots)
    simultaneous = roots <= first + 4 * jnp.finfo(roots.dtype).eps
    rank = jnp.where(simultaneous, jnp.asarray(truncates_step, jnp.int32), 2)
    index = jnp.argmin(rank).astype(jnp.int32)
    is_first = jnp.arange(len(truncates_step), dtype=jnp.int32) == index
    theta = jnp.sum(jnp.where(is_first, roots, 0))
    sign = _sign(values(theta), brackets.size, signs_before)
    others = jnp.where(brackets.crossed | (sign == 0), signs_before, sign)
    return Crossing(theta, index, jnp.where(is_first, -signs_before, others), met | is_first)


def find_roots(values_at_own_theta: Values, brackets: RootBrackets) -> Array:
    """Find a root in each bracket by Chandrupatla's method.

    Returns a point where the condition is zero to rounding, or else the first one after which its
    sign differs from that at the left.

    Source: T. R. Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a
    nonlinear function without using derivatives, Advances in Engineering Software 28 (1997).
    """
    left, right, low, high, _, size = brackets[1:]
    eps = jnp.finfo(left.dtype).eps
    zero = 4 * eps * size
    secant = jnp.clip(high / (high - low), 0.0, 1.0)

    def unfinished(state: tuple) -> Array:
        count, *_, done = state
        return (count < _MAX_ITERATIONS) & jnp.any(~done)

    def iterate(state: tuple) -> tuple:
        n, x, fx, a, b, fa, fb, done = state
        same = jnp.sign(fx) == jnp.sign(fa)
        c1, fc1 = jnp.where(same, a, b), jnp.where(same, fa, fb)
        b1, fb1 = jnp.where(same, b, a), jnp.where(same, fb, fa)
        limit = 2 * eps * jnp.maximum(jnp.abs(x), eps) / jnp.abs(b1 - c1)
        converged = (limit > 0.5) | (jnp.abs(fx) <= zero) | (jnp.abs(b1 - x) <= 2 * eps)
        t = jnp.where(n == 0, secant, _next(x, b1, c1, fx, fb1, fc1, limit))
        after = x + t * (b1 - x)
        # Evaluated for the next iteration alone: where a value is used twice, XLA may compute it
        # twice, rounded differently, and the two may have different signs.
        new = (after, values_at_own_theta(after), x, b1, fx, fb1)
        updated = [jnp.where(done, o, v) for o, v in zip(state[1:-1], new, strict=True)]
        return (n + 1, *updated, done | (converged & (n > 0)))

    start = (jnp.int32(0), right, high, left, left, low, low, ~brackets.crossed)
    *_, a, b, fa, fb, _ = lax.while_loop(unfinished, iterate, start)
    past_a, past_b = jnp.sign(fa) != jnp.sign(low), jnp.sign(fb) != jnp.sign(low)
    least, most = jnp.minimum(a, b), jnp.maximum(a, b)
    past = jnp.where(past_a & past_b, least, jnp.where(past_a, a, jnp.where(past_b, b, most)))
    return jnp.where(jnp.abs(fa) <= zero, a, past)


def _next(a: Array, b: Array, c: Array, fa: Array, fb: Array, fc: Array, limit: Array) -> Array:
    """The next fraction between `a` and `b`: by inverse quadratic interpolation, else bisection."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    guess = fa / (fb - fa) * fc / (fb - fc)
    guess = guess + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return jnp.clip(jnp.where(smooth, guess, 0.5), limit, 1 - limit)
