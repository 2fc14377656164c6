"""Numerical differentiation formulas of orders 1 to 5, in backward differences.

`rows` are the differences of orders 1 and up at the spacing of the last step; the zeroth is the
state itself. Two more than the highest order are kept, to judge that order and the one above.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..control import PID, Controller, Tolerance
from ..errors import OptionError
from .corrector import TURNS, Equation, Kept, corrected, nothing_kept
from .implicit import Implicit, flattened
from .multistep import SAFETY, at_order, chosen
from .newton import Measure
from .solver import Evaluations, Field, Stepped

MOST = 5
NEARLY = 1e-3  # steps so much alike count as equal
# By order from 0 on; kappa is Klopfenstein's, as Shampine and Reichelt have it.
_KAPPA = np.array([0, 0, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA = np.cumsum([0, *(1 / np.arange(1, MOST + 1))])
_ALPHA = [*((1 - _KAPPA) * _GAMMA)]
# Errors of formulas of higher order add up over more steps: weighed so, a solve errs by few
# tolerances where it has a thousand steps.
_WEIGHT = [2, 2, 2, 3, 4, 5]
_ERROR = [*(_WEIGHT * (_KAPPA * _GAMMA + 1 / np.arange(1, MOST + 2)))]

Rows = tuple[Array, ...]


class Carry(NamedTuple):
    """The history: `differences` at spacing `h`, and how many steps have had it and the order.

    All floats, `order` too: a carry has cotangents.
    """

    differences: Rows
    h: Array
    order: Array
    equal: Array
    kept: Kept


class Past(NamedTuple):
    """The same as the step reads it: states as vectors, the spacing that of the coming step."""

    y: Array
    rows: Rows
    h: Array
    order: Array


class BDF(Implicit):
    """The NDF of orders 1 to 5 in backward differences, for stiff problems.

    Step and order vary; Jacobian and factorisation are kept for as long as they serve. With fixed
    steps the order rises to the highest and stays there. Dense output: the interpolating
    polynomial, of the order of the step.

    - `max_order`: the highest order, 1 to 5; at 2 and below the method is A-stable.

    **Raises:** `OptionError` for a `max_order` out of range.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).
    """

    one_step: ClassVar[bool] = False
    iterates: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    max_order: int = eqx.field(static=True, default=MOST)
    tolerance: Tolerance | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.max_order not in range(1, MOST + 1):
            raise OptionError(f"max_order of BDF must be 1 to {MOST}, got {self.max_order!r}")

    @property
    def order(self) -> int:
        return self.max_order

    @property
    def error_order(self) -> int:
        return 2  # of the first step; the others' errors are returned as if they had it

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(1, 0, 0)

    @property
    def num_dense(self) -> int:
        return self.max_order

    def within(self, tolerance: Tolerance | None) -> "BDF":
        return dataclasses.replace(self, tolerance=tolerance)

    def controller(self) -> Controller:
        return PID(factor_min=0.2, factor_max=10.0, dead_band=(0.9, 1.2))

    def init(self, field: Field, t: Array, y: Array) -> Carry:
        flat, start = flattened(field, y), y.reshape(-1, *t.shape)
        slope = flat(t, start) if self.mass is None else self._slope(flat, t, start)
        rows = slope.reshape(y.shape), *[jnp.zeros_like(y)] * (self.max_order + 1)
        one = jnp.ones_like(t)
        # As if after a step of size one: the first step makes its differences of that.
        return Carry(rows, one, one, jnp.zeros_like(t), nothing_kept(self, flat, t, start))

    def _slope(self, field: Field, t: Array, y: Array) -> Array:
        """y' where M y' = f; M may be singular, so by an implicit Euler step of next to no size."""
        at, mass = self.linearised(field, t, y), jnp.asarray(self.mass, y.dtype)
        arrays = jax.tree.leaves(eqx.filter(at.jacobian, eqx.is_array))
        ratio = jnp.sqrt(jnp.sum(mass**2) / sum(jnp.sum(x**2) for x in arrays))
        shift = 1 / (jnp.finfo(y.dtype).eps ** 0.25 * jnp.where(jnp.isfinite(ratio), ratio, 1))
        return self.system(at.jacobian, shift)(at.slope * shift + at.slope_t)

    def slope(self, carry: Carry) -> Array:
        slope = carry.differences[0]
        return self.mass_times(slope.reshape(-1)).reshape(slope.shape)

    def step(
        self, field: Field, t: Array, y: Array, h: Array, carry: Carry, inside: Array | bool | None
    ) -> Stepped:
        shape, order, ratio = y.shape, carry.order, h / carry.h
        start = y.reshape(-1, *t.shape)
        rows = tuple(row.reshape(start.shape) for row in carry.differences)
        rows = lax.optimization_barrier(_rescaled(rows, ratio, order))
        equation = self._equation(flattened(field, y), t, Past(start, rows, h, order), shape)
        d, how = corrected(self, equation, carry.kept)
        y1 = (equation.start + d).reshape(shape)
        rows = (row.reshape(shape) for row in _updated(rows, d, order))
        rows = lax.optimization_barrier(tuple(rows))
        equal = jnp.where(jnp.abs(ratio - 1) < NEARLY, carry.equal, 0) + 1
        judged = self._judged(rows, d.reshape(shape), order, equal, how.turns, (y, y1))
        return Stepped(
            y1=y1,
            error=judged.error,
            dense=None if inside is None else _powers(rows, order),
            carry=Carry(
                rows, h, judged.order, jnp.where(judged.order == order, equal, 0), how.kept
            ),
            trouble=how.trouble,
            factor=judged.factor,
            iterations=how.evaluations,
            made=(how.jacobians, how.factorisations),
        )

    def _equation(self, field: Field, t: Array, past: Past, shape: tuple[int, ...]) -> Equation:
        """The formula for the change d of the predicted state, the next difference of order k + 1.

        `f(t + h, predicted + d) - shift M (psi + d) = 0`.
        """
        y, rows, h, order = past
        alpha, t1 = at_order(_ALPHA, order, 0), t + h
        shift = (alpha / h).astype(y.dtype)
        known = _up_to(order, rows[: self.max_order])
        predicted = lax.optimization_barrier(functools.reduce(operator.add, known, y))
        weights = [(gamma / alpha).astype(y.dtype) for gamma in _GAMMA[1 : self.max_order + 1]]
        psi = lax.optimization_barrier(_dot(weights, known))

        def residual(d: Array) -> Array:
            return field(t1, predicted + d) - shift * self.mass_times(psi + d)

        measure = Measure(self.tolerance, predicted.reshape(shape), jnp.ones_like(shift))
        return Equation(field, t1, predicted, shift, residual, measure)

    def _judged(
        self,
        rows: Rows,
        d: Array,
        order: Array,
        equal: Array,
        turns: Array,
        states: tuple[Array, Array],
    ) -> "Judged":
        """What follows from the errors of this order and its neighbours, after `equal` steps."""
        due, tolerance = equal > order, self.tolerance

        def error(x: Array, power: int) -> Array:
            return at_order(_ERROR, order + power, 0).astype(x.dtype) * x

        if tolerance is None:
            higher = jnp.minimum(order + 1, self.max_order)
            return Judged(jnp.where(due, higher, order), jnp.ones_like(order), error(d, 0))

        def square(x: Array) -> Array:
            return tolerance.square(x, *states).astype(order.dtype)

        here = square(error(d, 0))
        below, above = (at_order(rows[i : i + self.max_order], order) for i in (0, 2))
        squares = square(error(below, -1)), here, square(error(above, 1))
        best = chosen(squares, order, self.max_order)
        safety = (2 * TURNS + 1) / (2 * TURNS + turns.astype(order.dtype))
        factor = jnp.where(due, SAFETY * safety * best.factor, 1)
        stretch = jnp.clip(here, 1e-20, 1e20) ** (1 / (order + 1) - 0.5)
        stretch = jnp.where(here > 1, stretch / safety**2, stretch)
        after = jnp.where(due, best.order, order)
        return Judged(after, factor, stretch.astype(d.dtype) * error(d, 0))

    def interpolate(self, theta: Array, y: Array, h: Array, dense: Rows) -> Array:
        theta = theta.astype(y.dtype)
        total = functools.reduce(lambda total, part: total * theta + part, reversed(dense))
        return y + theta * total


class Judged(NamedTuple):
    """The next order, the next step's size to this one's, and the error, made to go as h^2."""

    order: Array
    factor: Array
    error: Array


def _dot(weights: Sequence[Any], rows: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, map(operator.mul, weights, rows))


def _up_to(order: Array, rows: Rows) -> Rows:
    """The rows up to `order`, and zeros."""
    return tuple(jnp.where(j <= order, row, 0) for j, row in enumerate(rows, 1))


def _rescaled(rows: Rows, ratio: Array, order: Array) -> Rows:
    """The differences up to `order` at a spacing `ratio` times the old one, the others as before.

    With `nabla = 1 - E^-1`, E being a step of the old size, that of the new size has
    `1 - E^-ratio = 1 - (1 - nabla)^ratio`, a power series; so have its powers.
    """
    count = len(rows) - 2
    base = [ratio]
    for i in range(2, count + 1):
        base.append(base[-1] * ((i - 1 - ratio) / i))
    powers = [base]  # of power j, from the term of nabla^j on
    for _ in range(1, count):
        powers.append([_dot(powers[-1][: i + 1], base[i::-1]) for i in range(len(powers[-1]) - 1)])
    moved = []
    for j, series in enumerate(powers, 1):
        kept = [jnp.where(i <= order, x, float(i == j)) for i, x in enumerate(series, j)]
        kept = lax.optimization_barrier([x.astype(rows[0].dtype) for x in kept])
        moved.append(_dot(kept, rows[j - 1 : count]))
    return *moved, *rows[count:]


def _updated(rows: Rows, d: Array, order: Array) -> Rows:
    """The differences a step later, where that of order k + 1 is `d`; beyond k + 2 no matter."""
    total, found = d, []
    for j in range(len(rows), 0, -1):
        total = jnp.where(j <= order, total + rows[j - 1], total)
        found.append(total if j == 1 else jnp.where(j == order + 2, d - rows[j - 2], total))
    return tuple(reversed(found))


def _powers(rows: Rows, order: Array) -> Rows:
    """The polynomial of the step just made: coefficients of theta to the power one and up."""
    count = len(rows) - 2
    known, table = _up_to(order, rows[:count]), _dense_table(count).tolist()
    return tuple(_dot(table[i][i:], known[i:]) for i in range(count))


@functools.cache
def _dense_table(count: int) -> np.ndarray:
    """Coefficients of `prod (theta - 1 + i) / (1 + i)`, i from 0 to j - 1: powers by j."""
    table, product = np.zeros((count, count)), np.ones(1)
    for j in range(count):
        product = np.convolve(product, [j - 1, 1]) / (1 + j)
        table[: j + 1, j] = product[1:]
    return table
