"""Diagonally implicit methods with an explicit first stage, and an implicit-explicit pair.

Sources: A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage,
BIT 44 (2004); M. E. Hosea, L. F. Shampine, Analysis and implementation of TR-BDF2, Appl. Numer.
Math. 20 (1996); C. A. Kennedy, M. H. Carpenter, Additive Runge-Kutta schemes for
convection-diffusion-reaction equations, Appl. Numer. Math. 44 (2003), method ARK4(3)6L[2]SA.
"""

import dataclasses
import math

from ..tableau import hermite_dense

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class EsdirkTableau:
    r"""A singly diagonally implicit pair with an explicit first stage, and its dense output.

    The step is $y_1 = y + h \sum_i b_i k_i$ with
    $k_i = f(t + c_i h,\; y + h \sum_{j \le i} a_{ij} k_j)$, where $a_{11} = 0$ and every other
    $a_{ii}$ is $\gamma$. Dense output is $y(t + \theta h) = y + h \sum_i \sum_j P_{ij}
    \theta^{j+1} k_i$. All methods here are stiffly accurate: `b` is the last row of `a`, so that
    the last stage is $y_1$ and its slope is the first stage of the next step.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the companion, or `None` without one.
    - `gamma`: the diagonal coefficient. `c`: the abscissae, one per stage.
    - `a`: row $i$ holds $i + 1$ coefficients, the diagonal one among them.
    - `b`: the weights of the step. `error`: $b - \hat b$, the weights of the error estimate.
    - `dense`: $P$, a row of polynomial coefficients per stage.
    - `filtered`: whether the estimate is to be multiplied by $(I - h \gamma J)^{-1}$, for a
      companion that grows with the stiffness.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    embedded_order: int | None
    gamma: float
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row | None
    dense: tuple[Row, ...]
    filtered: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(self.a)):
            raise ValueError("row i of `a` must hold i + 1 coefficients")
        rows = (self.a, self.c, self.b, self.error or self.b, self.dense)
        if len(set(map(len, rows))) != 1:
            raise ValueError("`c`, `a`, `b`, `error` and `dense` must speak of as many stages")
        if [row[-1] for row in self.a] != [0.0] + [self.gamma] * (len(self.a) - 1):
            raise ValueError("the diagonal of `a` must be zero, then gamma throughout")
        for abscissa, row in zip(self.c, self.a, strict=True):
            if abs(sum(row) - abscissa) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"a row of `a` sums to {sum(row)}, not to its c of {abscissa}")
        if self.a[-1] != self.b:
            raise ValueError("the last stage must be the end of the step")

    @property
    def stages(self) -> int:
        """Stages of the step, the explicit first one among them."""
        return len(self.b)

    @property
    def guesses(self) -> tuple[Row, ...]:
        """Row $i$ extrapolates the slope of stage $i + 1$ from those of the stages before it.

        By the parabola through the three that are nearest in time, or the latest at the same time.
        """
        return tuple(_extrapolation(self.c[:i], self.c[i]) for i in range(1, self.stages))


def _extrapolation(c: Row, at: float) -> Row:
    """The weights of values at `c` in the value at `at`."""
    latest = {node: i for i, node in enumerate(c)}
    nodes = [at] if at in latest else sorted(latest, key=lambda node: abs(node - at))[:3]
    weights = [0.0] * len(c)
    for node in nodes:
        others = [other for other in nodes if other != node]
        weights[latest[node]] = math.prod((at - other) / (node - other) for other in others)
    return tuple(weights)


@dataclasses.dataclass(frozen=True)
class ImexTableau:
    r"""A pair for $y' = f_I(t, y) + f_E(t, y)$ that treats the second part explicitly.

    $Y_i = y + h \sum_{j \le i} a_{ij} f_I(t + c_j h, Y_j) + h \sum_{j < i} \tilde a_{ij}
    f_E(t + c_j h, Y_j)$. Abscissae, weights, error estimate and dense output are those of
    `implicit`, applied to $k_i = f_I + f_E$ at stage $i$.

    **Fields:**

    - `implicit`: the implicit method.
    - `explicit`: $\tilde a$, row $i$ holds the $i$ coefficients of stage $i + 1$.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    implicit: EsdirkTableau
    explicit: tuple[Row, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.explicit] != list(range(1, self.implicit.stages)):
            raise ValueError("row i of `explicit` must hold i + 1 coefficients")
        for abscissa, row in zip(self.implicit.c[1:], self.explicit, strict=True):
            if abs(sum(row) - abscissa) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"an explicit row sums to {sum(row)}, not to its c of {abscissa}")


def _minus(b: Row, companion: Row) -> Row:
    return tuple(x - y for x, y in zip(b, companion, strict=True))


def _trbdf2() -> EsdirkTableau:
    r"""The trapezoidal rule up to $(2 - \sqrt 2) h$, then BDF2 to the end of the step.

    The companion grows with the stiffness (it is not A-stable), so Hosea and Shampine filter the
    estimate: they use $(M - h \gamma J)^{-1}$ times it, with the factors of the stages.
    """
    g = 1.0 - math.sqrt(0.5)
    w = math.sqrt(0.125)
    return EsdirkTableau(
        order=2,
        embedded_order=3,
        gamma=g,
        c=(0.0, 2.0 * g, 1.0),
        a=((0.0,), (g, g), (w, w, g)),
        b=(w, w, g),
        error=_minus((w, w, g), ((1.0 - w) / 3.0, w + 1.0 / 3.0, g / 3.0)),
        dense=hermite_dense((w, w, g)),
        filtered=True,
    )


def _kvaerno3() -> EsdirkTableau:
    r"""The pair 3(2): $\gamma$ is the middle root of $6 g^3 - 18 g^2 + 9 g - 1$."""
    g = 0.43586652150845900
    row = ((6.0 * g - 4.0 * g * g - 1.0) / (4.0 * g), (1.0 - 2.0 * g) / (4.0 * g), g)
    b = (
        (6.0 * g - 1.0) / (12.0 * g),
        1.0 / (12.0 * g * (1.0 - 2.0 * g)),
        (6.0 * g - 6.0 * g * g - 1.0) / (6.0 * g - 3.0),
        g,
    )
    return EsdirkTableau(
        order=3,
        embedded_order=2,
        gamma=g,
        c=(0.0, 2.0 * g, 1.0, 1.0),
        a=((0.0,), (g, g), row, b),
        b=b,
        error=_minus(b, (*row, 0.0)),
        dense=hermite_dense(b),
    )


def _trapezoid() -> EsdirkTableau:
    """The trapezoidal rule. It has no companion: a sound one takes values of earlier steps."""
    b = (0.5, 0.5)
    return EsdirkTableau(
        order=2,
        embedded_order=None,
        gamma=0.5,
        c=(0.0, 1.0),
        a=((0.0,), b),
        b=b,
        error=None,
        dense=((1.0, -0.5), (0.0, 0.5)),
    )


TRAPEZOID = _trapezoid()
TRBDF2 = _trbdf2()
KVAERNO3 = _kvaerno3()

_KVAERNO5_LOW = (
    0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26,
)
_KVAERNO5 = (
    0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403,
    0.06962479448202728, 0.26,
)
# An interpolant of order 4, not a published one: quartic, with a continuous slope and no weight on
# the second stage. It meets its conditions; the freedom they leave was put to the least residual of
# order 5.
_KVAERNO5_DENSE4 = (
    (1.0, -2.1386040292287545, 1.8235981055631205, -0.5483965645579632),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 0.41741895120628153, -1.0547142542740982, 0.5823262151024329),
    (0.0, -2.897581371186475, 5.6304176732401086, -2.774022569336844),
    (0.0, 3.613827049835065, -4.707921903709474, 1.724027902864573),
    (0.0, 0.5779590946289359, -0.8774190113297626, 0.369084711182854),
    (0.0, 0.42698030474494697, -0.8139606094898939, 0.6469803047449469),
)
KVAERNO5 = EsdirkTableau(
    order=5,
    embedded_order=4,
    gamma=0.26,
    c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
    a=(
        (0.0,),
        (0.26, 0.26),
        (0.13, 0.84033320996790809, 0.26),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
        (
            0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998,
            0.26,
        ),
        _KVAERNO5_LOW,
        _KVAERNO5,
    ),
    b=_KVAERNO5,
    error=_minus(_KVAERNO5, (*_KVAERNO5_LOW, 0.0)),
    dense=_KVAERNO5_DENSE4,
)

_KENCARP4 = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4)
KENCARP4 = ImexTableau(
    implicit=EsdirkTableau(
        order=4,
        embedded_order=3,
        gamma=1 / 4,
        c=(0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0),
        a=(
            (0.0,),
            (1 / 4, 1 / 4),
            (8611 / 62500, -1743 / 31250, 1 / 4),
            (5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 1 / 4),
            (
                15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768,
                2285395 / 8070912, 1 / 4,
            ),
            _KENCARP4,
        ),
        b=_KENCARP4,
        error=_minus(
            _KENCARP4,
            (
                4586570599 / 29645900160, 0.0, 178811875 / 945068544, 814220225 / 1159782912,
                -3700637 / 11593932, 61727 / 225920,
            ),
        ),
        # the published interpolant, of order 3 as a pair
        dense=(
            (6943876665148 / 7220017795957, -54480133 / 30881146, 6818779379841 / 7100303317025),
            (0.0, 0.0, 0.0),
            (7640104374378 / 9702883013639, -11436875 / 14766696, 2173542590792 / 12501825683035),
            (
                -20649996744609 / 7521556579894, 174696575 / 18121608,
                -31592104683404 / 5083833661969,
            ),
            (8854892464581 / 2390941311638, -12120380 / 966161, 61146701046299 / 7138195549469),
            (-11397109935349 / 6675773540249, 3843 / 706, -17219254887155 / 4939391667607),
        ),
    ),
    explicit=(
        (1 / 2,),
        (13861 / 62500, 6889 / 62500),
        (
            -116923316275 / 2393684061468, -2731218467317 / 15368042101831,
            9408046702089 / 11113171139209,
        ),
        (
            -451086348788 / 2902428689909, -2682348792572 / 7519795681897,
            12662868775082 / 11960479115383, 3355817975965 / 11060851509271,
        ),
        (
            647845179188 / 3216320057751, 73281519250 / 8382639484533,
            552539513391 / 3454668386233, 3354512671639 / 8306763924573, 4040 / 17871,
        ),
    ),
)
