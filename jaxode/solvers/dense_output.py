"""Dense output from the slopes at both ends of a step, for solvers that know no more of its inside.

A polynomial is kept as the coefficients of theta, theta^2, ...; its value at zero is the step's
start.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

Coefficients = tuple[Array, ...]


def parabola(start: Array, end: Array) -> Coefficients:
    """The parabola with the slopes `start` and `end`, each times h: order 2."""
    return start, (end - start) / 2


def cubic(y: Array, y1: Array, start: Array, end: Array) -> Coefficients:
    """The cubic through `y` and `y1` with the slopes `start` and `end`, each times h: order 3.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), (II.6.7).
    """
    rise = y1 - y
    return start, 3 * rise - 2 * start - end, start + end - 2 * rise


def quintic(slope: Callable[[float, Array], Array], y: Array, given: Coefficients) -> Coefficients:
    """The cubic `given`, corrected by three slopes inside the step: order 5.

    `slope(theta, state)` is the field inside the step, times h. At a quarter the cubic's state is
    known to order 3, and its slope to order 4: so the quartic that has this slope there, to 4. The
    two slopes at its states at both quarters make it a quintic.
    Source: W. H. Enright, K. R. Jackson, S. P. Norsett, P. G. Thomsen, Interpolants for Runge-Kutta
    formulas, ACM Trans. Math. Softw. 12 (1986).
    """

    def gap(theta: float, coefficients: Coefficients) -> Array:
        """By how much the cubic's slope at `theta` is to be mended."""
        at = slope(theta, value(jnp.asarray(theta, y.dtype), y, coefficients))
        return at - sum(k * theta ** (k - 1) * c for k, c in enumerate(given, start=1))

    # To the cubic comes theta^2 (1 - theta)^2 (a + b theta), which moves neither end.
    a = 16 / 3 * gap(0.25, given)
    quartic = _with_bump(given, a, jnp.zeros_like(a))
    left, right = gap(0.25, quartic), gap(0.75, quartic)
    return _with_bump(given, 24 * left + 56 / 3 * right, -128 / 3 * (left + right))


def _with_bump(cubic: Coefficients, a: Array, b: Array) -> Coefficients:
    first, second, third = cubic
    return first, second + a, third - 2 * a + b, a - 2 * b, b


def value(theta: Array, y: Array, coefficients: Coefficients) -> Array:
    """The polynomial at `theta`, by Horner's rule."""
    theta = theta.astype(jnp.finfo(y.dtype).dtype)
    return y + theta * functools.reduce(lambda total, c: total * theta + c, reversed(coefficients))
