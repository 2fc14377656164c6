"""Dense output as polynomials: interpolation from the slopes at both ends of a step.

A polynomial is stored as its coefficients of theta, theta^2, ..., where theta is the fraction of
the step; its value at theta = 0 is the state at the start of the step, which is stored elsewhere.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

Coefficients = tuple[Array, ...]


def evaluate(theta: Array, y: Array, coefficients: Coefficients) -> Array:
    """The polynomial with the value `y` at zero and these coefficients, at `theta`, by Horner."""
    theta = theta.astype(jnp.finfo(y.dtype).dtype)
    return y + theta * functools.reduce(lambda total, c: total * theta + c, reversed(coefficients))


def parabola(start: Array, end: Array) -> Coefficients:
    """The parabola with the slopes `start` and `end`, each times h: order 2."""
    return start, (end - start) / 2


def cubic(y: Array, y1: Array, start: Array, end: Array) -> Coefficients:
    """The cubic Hermite interpolant of `y` and `y1` with the slopes `start` and `end`: order 3.

    The slopes are multiplied by h.
    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), (II.6.7).
    """
    increment = y1 - y
    return start, 3 * increment - 2 * start - end, start + end - 2 * increment


def quintic(slope: Callable[[float, Array], Array], y: Array, cubic: Coefficients) -> Coefficients:
    """The cubic Hermite interpolant corrected by three slopes inside the step: order 5.

    `slope(theta, state)` is the field inside the step, times h. The state of the cubic at theta =
    1/4 has order 3, so its slope there has order 4, and the quartic with this slope has order 4.
    Slopes at the quartic's states at theta = 1/4 and 3/4 then determine the quintic.
    Source: W. H. Enright, K. R. Jackson, S. P. Norsett, P. G. Thomsen, Interpolants for Runge-Kutta
    formulas, ACM Trans. Math. Softw. 12 (1986).
    """

    def defect(theta: float, coefficients: Coefficients) -> Array:
        """The field at the state of the polynomial less the slope of the cubic."""
        target = slope(theta, evaluate(jnp.asarray(theta, y.dtype), y, coefficients))
        return target - sum(k * theta ** (k - 1) * c for k, c in enumerate(cubic, start=1))

    # The term theta^2 (1 - theta)^2 (a + b theta) changes neither values nor slopes at the ends.
    a = 16 / 3 * defect(0.25, cubic)
    quartic = _with_inner_term(cubic, a, jnp.zeros_like(a))
    left, right = defect(0.25, quartic), defect(0.75, quartic)
    return _with_inner_term(cubic, 24 * left + 56 / 3 * right, -128 / 3 * (left + right))


def _with_inner_term(cubic: Coefficients, a: Array, b: Array) -> Coefficients:
    """The coefficients of the cubic plus theta^2 (1 - theta)^2 (a + b theta)."""
    first, second, third = cubic
    return first, second + a, third - 2 * a + b, a - 2 * b, b
