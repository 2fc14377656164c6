"""Stiff problems in plain arithmetic, which JAX arrays and Python floats both evaluate."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

Derivatives = Callable[[Any, Sequence[Any], Sequence[Any]], tuple]


@dataclasses.dataclass(frozen=True)
class StiffProblem:
    """A stiff initial value problem with its end state.

    `derivatives(t, y, rates)` takes and returns tuples of components. `atol_per_rtol` is the ratio
    of the absolute to the relative tolerance, equal for all libraries; `y1` is the state at `t1`.
    """

    name: str
    derivatives: Derivatives
    rates: tuple[float, ...]
    y0: tuple[float, ...]
    t1: float
    y1: tuple[float, ...]
    atol_per_rtol: float

    def field(self, t: Array, y: Array, rates: Array) -> Array:
        """The vector field on JAX arrays."""
        return jnp.stack(self.derivatives(t, tuple(y), tuple(rates)))

    def python_field(self, t: float, y: np.ndarray) -> tuple:
        """The vector field on Python floats, several times as fast as on NumPy's."""
        return self.derivatives(t, y.tolist(), self.rates)

    def error(self, y: Any) -> float:
        """The largest relative error of a component of the end state."""
        return float(np.max(np.abs(np.asarray(y) / np.asarray(self.y1) - 1)))


def robertson(t, y, k):
    a, b, c = y
    slow, back, fast = k[0] * a, k[1] * b * c, k[2] * b * b
    return back - slow, slow - back - fast, fast


def oregonator(t, y, k):
    s, q, w = k
    a, b, c = y
    return s * (b - a * b + a - q * a * a), (c - b - a * b) / s, w * (a - c)


def van_der_pol(t, y, k):
    return y[1], k[0] * (1 - y[0] * y[0]) * y[1] - y[0]


def hires(t, y, k):
    a, b, c, d, e, f, g, h = y
    bound = k[0] * f * h
    return (
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * f + 0.43 * g,
        -bound + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        bound - 1.81 * g,
        -bound + 1.81 * g,
    )


def pollution(t, y, k):
    r1, r2, r3 = k[0] * y[0], k[1] * y[1] * y[3], k[2] * y[4] * y[1]
    r4, r5, r6 = k[3] * y[6], k[4] * y[6], k[5] * y[6] * y[5]
    r7, r8, r9 = k[6] * y[8], k[7] * y[8] * y[5], k[8] * y[10] * y[1]
    r10, r11, r12 = k[9] * y[10] * y[0], k[10] * y[12], k[11] * y[9] * y[1]
    r13, r14, r15 = k[12] * y[13], k[13] * y[0] * y[5], k[14] * y[2]
    r16, r17, r18 = k[15] * y[3], k[16] * y[3], k[17] * y[15]
    r19, r20, r21 = k[18] * y[15], k[19] * y[16] * y[5], k[20] * y[18]
    r22, r23, r24, r25 = k[21] * y[18], k[22] * y[0] * y[3], k[23] * y[18] * y[0], k[24] * y[19]
    return (
        r2 + r3 + r9 + r11 + r12 + r22 + r25 - r1 - r10 - r14 - r23 - r24,
        r1 + r21 - r2 - r3 - r9 - r12,
        r1 + r17 + r19 + r22 - r15,
        r15 - r2 - r16 - r17 - r23,
        2 * r4 + r6 + r7 + r13 + r20 - r3,
        r3 + 2 * r18 - r6 - r8 - r14 - r20,
        r13 - r4 - r5 - r6,
        r4 + r5 + r6 + r7,
        -r7 - r8,
        r7 + r9 - r12,
        r8 + r11 - r9 - r10,
        r9,
        r10 - r11,
        r12 - r13,
        r14,
        r16 - r18 - r19,
        -r20,
        r20,
        r23 + r25 - r21 - r22 - r24,
        r24 - r25,
    )


# End states: Mazzia, Magherini, Test Set for IVP Solvers, digits as in CRAN's deTestSet; that of
# ROBER at 1e5 by Rodas4, Rodas5P and SciPy's Radau, and by `tests/benchmarks/test_references.py`.
# fmt: off
ROBER = StiffProblem(
    "ROBER", robertson, (0.04, 1e4, 3e7), (1.0, 0.0, 0.0), 1e5,
    (0.0178659211421, 7.274751468436e-08, 0.982134006110382), 1e-5,
)
HIRES = StiffProblem(
    "HIRES", hires, (280.0,), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 321.8122,
    (0.0007371312573325668, 0.0001442485726316185, 5.888729740967575e-05, 0.001175651343283149,
     0.002386356198831331, 0.006238968252742796, 0.002849998395185769, 0.002850001604814231), 1e-4,
)
OREGO = StiffProblem(
    "OREGO", oregonator, (77.27, 8.375e-6, 0.161), (1.0, 2.0, 3.0), 360.0,
    (1.000814870318523, 1228.178521549917, 132.0554942846706), 1e-2,
)
VAN_DER_POL = StiffProblem(
    "Van der Pol, mu 1,000", van_der_pol, (1000.0,), (2.0, 0.0), 2000.0,
    (1.706167732170469, -0.0008928097010248125), 1e-4,
)
POLLU = StiffProblem(
    "POLLU", pollution,
    (0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88,
     1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1240.0, 2.1, 5.78, 0.0474, 1780.0, 3.12),
    (0.0, 0.2, 0.0, 0.04, 0.0, 0.0, 0.1, 0.3, 0.01, 0.0,
     0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.007, 0.0, 0.0, 0.0), 60.0,
    (0.05646255480022769, 0.1342484130422339, 4.139734331099427e-09, 0.005523140207484359,
     2.018977262302196e-07, 1.464541863493966e-07, 0.07784249118997964, 0.3245075353396018,
     0.007494013383880406, 1.622293157301561e-08, 1.135863833257075e-08, 0.002230505975721359,
     0.000208716288279863, 1.396921016840158e-05, 0.008964884856898295, 4.352846369330103e-18,
     0.006899219696263405, 0.0001007803037365946, 1.772146513969984e-06,
     5.682943292316392e-05), 1e-6,
)
# fmt: on
PROBLEMS = (ROBER, OREGO, VAN_DER_POL, HIRES, POLLU)
