"""Whether stability, and not accuracy, binds an explicit step, from the stages that it has anyway.

Differences of stages that smooth motion does not enter grow with what is fast in the field: the
ratio of the slopes' to the states' is its rate. Where a step times that rate is near the boundary
of the stability region, and the fast motion is small beside the state, stability binds the step.

Source: Hairer, Wanner, Solving Ordinary Differential Equations II (1996), IV.2.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..step_size import Tolerance
from .stage_sums import stage_sum
from .tableau import ButcherTableau

# Beyond the first share of where stability ends, on the real or on the imaginary axis, a step may
# be bound; beyond the second share of its interval on the negative real axis it is.
_SHARE, _SURE_SHARE = 0.8, 0.9
# Fast motion of this share of the state is followed, not damped: accuracy needs such steps.
_FOLLOWED = 0.25


class _Detector(NamedTuple):
    """What of a tableau the detection reads.

    `weights`: of the last stages, a difference that is zero for constant and for linear motion.
    `boundary`, `sure_boundary`: step times rate from which on a step may be bound, and is.
    `followed`: the difference of the slopes there, times the step, over the state, of fast motion
    that is followed.
    """

    weights: tuple[float, ...]
    boundary: float
    sure_boundary: float
    followed: float


def bound_by_stability(
    tableau: ButcherTableau,
    stages: tuple[list[Array], list[Array]],
    y: Array,
    h: Array,
    tolerance: Tolerance,
) -> Array:
    """True if stability binds the step from `y` over `h`, a scalar.

    `stages` are the slopes and the states of the stages.
    """
    detector = _detector(tableau)
    number = len(detector.weights)
    slopes, states = (stage_sum(detector.weights, xs[-number:]) for xs in stages)
    unit = 1 / (tolerance.atol + tolerance.rtol * jnp.abs(y))
    scaled = h.astype(unit.dtype) * slopes, states, detector.followed * y
    squares = tuple([(unit * jnp.abs(x)) ** 2 for x in scaled])
    zeros = tuple([jnp.zeros((), x.dtype) for x in squares])
    # The sums in one pass.
    fast, slow, whole = lax.reduce(
        squares, zeros, lambda a, b: tuple(map(jnp.add, a, b)), tuple(range(y.ndim))
    )
    sure = fast > detector.sure_boundary**2 * slow
    may_be = fast > detector.boundary**2 * slow
    return sure | (may_be & (fast < whole))


@functools.cache
def _detector(tableau: ButcherTableau) -> _Detector:
    count = tableau.stages
    a, c = np.zeros((count, count)), np.array(tableau.c[:count])
    for i, row in enumerate(tableau.a[: count - 1], 1):
        a[i, :i] = row
    weights = np.zeros(count)
    if count == 2 or c[-1] == c[-2]:
        weights[-2:] = -1, 1
    else:
        weights[-3:] = c[-1] - c[-2], c[-3] - c[-1], c[-2] - c[-3]
    b, unit = np.array(tableau.b), np.eye(count)

    def stage_values(z: complex) -> np.ndarray:
        return np.linalg.solve(unit - z * a, np.ones(count))

    lengths = np.linspace(0, 50, 5001)[1:]

    def end_of_stability(direction: complex) -> float:
        growth = [abs(1 + z * b @ stage_values(z)) for z in direction * lengths]
        return float(lengths[np.argmax(np.array(growth) > 1.001)])

    real, imaginary = end_of_stability(-1), end_of_stability(1j)
    boundary = _SHARE * min(real, imaginary)
    followed = _FOLLOWED * boundary * float(abs(weights @ stage_values(1j * boundary)))
    weights = weights[np.flatnonzero(weights)[0] :]
    return _Detector(tuple(weights.tolist()), boundary, _SURE_SHARE * real, followed)
