"""Where numbers change their signs inside a step: bracketed, and found to rounding.

All is for one trajectory, several numbers each: vectors have an entry for each of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# All numbers at one fraction of the step.
Values = Callable[[Array], Array]

# Points of a step at which signs are looked at: two crossings between them go unseen.
_LOOKS = 4
_MOST = 100
# A number that is this many roundings of what it is elsewhere in the step tells no sign.
ROUNDINGS = 64.0


class RootBrackets(NamedTuple):
    """The first crossing of each number after a point of a step.

    - `crossed`: whether there is one that counts, between the fractions `left` and `right`.
    - `at_left`, `at_right`: the number there, at the left with the sign that it has behind it.
    - `signs`: those at the end of the step, NaN if one on the way was. `size`: how large the number
      is in this step.
    """

    crossed: Array
    left: Array
    right: Array
    at_left: Array
    at_right: Array
    signs: Array
    size: Array


class Crossing(NamedTuple):
    """The first of all: where, as a fraction of the step; of which number; all signs behind it."""

    theta: Array
    which: Array
    signs: Array


def bracket_roots(
    values: Values, counted: list[int], signs: Array, start: Array, size: Array
) -> RootBrackets:
    """The crossings of zero in `(start, 1]`.

    `signs` are those just behind `start`, zero where unknown; `counted` says which crossings count:
    upwards 1, downwards -1, both 0. `size` is how large the numbers are known to be in this step.
    """
    points = [start + (1 - start) * ((i + 1) / _LOOKS) for i in range(_LOOKS)]
    looks = [values(point) for point in points]
    for look in looks:
        size = jnp.maximum(size, jnp.abs(look))
    wanted, known = jnp.asarray(counted, signs.dtype), ~jnp.isnan(signs)
    tiny = jnp.finfo(signs.dtype).tiny
    # At the start the number may be zero: told so, the search would find the start.
    now, before, at = signs, start, signs * jnp.maximum(jnp.abs(looks[0]), tiny)
    crossed, left, right = jnp.zeros_like(signs, bool), jnp.zeros_like(signs), jnp.ones_like(signs)
    at_left, at_right = at, at
    for point, look in zip(points, looks, strict=True):
        seen = _sign(look, size, now)
        changed = (seen * now <= 0) & (now != 0) & ((wanted == 0) | (wanted == -now))
        new = changed & ~crossed & (start < 1)
        left, right = jnp.where(new, before, left), jnp.where(new, point, right)
        at_left, at_right = jnp.where(new, at, at_left), jnp.where(new, look, at_right)
        crossed, known = crossed | new, known & ~jnp.isnan(look)
        now, before = jnp.where(seen == 0, jnp.where(changed, -now, now), seen), point
        at = now * jnp.maximum(jnp.abs(look), tiny)
    signs = jnp.where(known, now, jnp.nan)
    return RootBrackets(crossed, left, right, at_left, at_right, signs, size)


def _sign(value: Array, size: Array, before: Array) -> Array:
    """The sign of a number, that from `before` where it is no more than rounding."""
    noise = (value != 0) & (jnp.abs(value) <= ROUNDINGS * jnp.finfo(before.dtype).eps * size)
    return jnp.where(noise, before, jnp.sign(value).astype(before.dtype))


def first_crossing(
    values: Values, each: Values, cuts: list[bool], signs: Array, found: RootBrackets
) -> Crossing:
    """The first of the crossings that were `found`; of those at one place one that cuts comes last.

    `each` has the numbers at a place of their own. A number whose crossing is yet to come keeps
    the sign that it had before that: of the rest those from the start were `signs`.
    """
    sides = jnp.where(found.crossed, jnp.sign(found.at_left), signs)
    roots = jnp.where(found.crossed, find_roots(each, found), 2)
    first = jnp.min(roots)
    alike = roots <= first + 4 * jnp.finfo(roots.dtype).eps
    which = jnp.argmin(jnp.where(alike, jnp.asarray(cuts, jnp.int32), 2)).astype(jnp.int32)
    own = jnp.arange(len(cuts)) == which
    theta = jnp.sum(jnp.where(own, roots, 0))
    there = _sign(values(theta), found.size, sides)
    others = jnp.where(found.crossed | (there == 0), sides, there)
    return Crossing(theta, which, jnp.where(own, -sides, others))


def find_roots(each: Values, found: RootBrackets) -> Array:
    """Of each bracket a point where the number is zero to rounding, or else the first behind which
    it has left the sign that it has at the left.

    Source: T. R. Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a
    nonlinear function without using derivatives, Advances in Engineering Software 28 (1997).
    """
    left, right, low, high, _, size = found[1:]
    eps = jnp.finfo(left.dtype).eps
    zero = 4 * eps * size

    def going(state: tuple) -> Array:
        turn, *_, done = state
        return (turn < _MOST) & jnp.any(~done)

    def turn(state: tuple) -> tuple:
        n, a, b, _, fa, fb, _, t, done = state
        x = a + t * (b - a)
        fx = each(x)
        same = jnp.sign(fx) == jnp.sign(fa)
        c1, fc1 = jnp.where(same, a, b), jnp.where(same, fa, fb)
        b1, fb1 = jnp.where(same, b, a), jnp.where(same, fb, fa)
        a1, fa1 = x, fx
        limit = 2 * eps * jnp.maximum(jnp.abs(a1), eps) / jnp.abs(b1 - c1)
        over = (limit > 0.5) | (jnp.abs(fa1) <= zero) | (jnp.abs(b1 - a1) <= 2 * eps)
        new = (a1, b1, c1, fa1, fb1, fc1, _next(a1, b1, c1, fa1, fb1, fc1, limit))
        kept = [jnp.where(done, o, v) for o, v in zip(state[1:-1], new, strict=True)]
        return (n + 1, *kept, done | over)

    secant = jnp.clip(high / (high - low), 0.0, 1.0)
    start = (jnp.int32(0), right, left, left, high, low, low, secant, ~found.crossed)
    _, a, b, _, fa, fb, *_ = lax.while_loop(going, turn, start)
    past_a, past_b = jnp.sign(fa) != jnp.sign(low), jnp.sign(fb) != jnp.sign(low)
    least, most = jnp.minimum(a, b), jnp.maximum(a, b)
    past = jnp.where(past_a & past_b, least, jnp.where(past_a, a, jnp.where(past_b, b, most)))
    return jnp.where(jnp.abs(fa) <= zero, a, past)


def _next(a: Array, b: Array, c: Array, fa: Array, fb: Array, fc: Array, limit: Array) -> Array:
    """Where to look next between `a` and `b`: by inverse quadratic interpolation, or halfway."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    guess = fa / (fb - fa) * fc / (fb - fc)
    guess = guess + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return jnp.clip(jnp.where(smooth, guess, 0.5), limit, 1 - limit)
