r"""Tableaus of symplectic compositions of drifts and kicks, for $H(q, p) = T(p) + V(q)$.

Sources: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration (2006), I.1 and VI.3 (the
methods of order 1 and 2); H. Yoshida, Construction of higher order symplectic integrators, Phys.
Lett. A 150 (1990); R. I. McLachlan, On the numerical integration of ordinary differential equations
by symmetric composition methods, SIAM J. Sci. Comput. 16 (1995).
"""

import dataclasses
import itertools

Row = tuple[float, ...]

DRIFT, KICK = 0, 1


@dataclasses.dataclass(frozen=True)
class SymplecticTableau:
    r"""An explicit symplectic method: drifts and kicks alternate, a drift first.

    For $i = 1, \dots$ the drift $q \gets q + a_i h\, \dot q(t, p)$, then the kick
    $p \gets p + b_i h\, \dot p(t, q)$. A coefficient of zero costs no evaluation.

    **Fields:**

    - `order`: order of the step, for any T and V.
    - `drift`: $a$. `kick`: $b$, as many.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    drift: Row
    kick: Row

    def __post_init__(self) -> None:
        if len(self.drift) != len(self.kick):
            raise ValueError("`drift` and `kick` must have the same length")
        if max(abs(sum(self.drift) - 1.0), abs(sum(self.kick) - 1.0)) > 1e-14:
            raise ValueError("`drift` and `kick` must each sum to one")

    @property
    def flows(self) -> tuple[tuple[int, float, float], ...]:
        """The flows as `(DRIFT or KICK, length, time)`.

        The time of a flow is the sum of the lengths of the other kind before it: so the method
        keeps its order where T and V depend on time.
        """
        flows, times = [], [0.0, 0.0]
        for lengths in zip(self.drift, self.kick, strict=True):
            for kind, length in zip((DRIFT, KICK), lengths, strict=True):
                if length:
                    flows.append((kind, length, times[1 - kind]))
                    times[kind] += length
        return tuple(flows)

    @property
    def first_same_as_last(self) -> bool:
        """True if the slope of the last flow is that of the next step's first."""
        return self.flows[0][0] == self.flows[-1][0]


def strang_composition(weights: Row) -> tuple[Row, Row]:
    """The drifts and kicks of leapfrog steps (half drift, kick, half drift) of these lengths."""
    padded = (0.0, *weights, 0.0)
    drift = tuple(0.5 * (x + y) for x, y in itertools.pairwise(padded))
    return drift, (*weights, 0.0)
