"""Rosenbrock methods in the transformed form of Hairer and Wanner, which needs no product with J.

Sources: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997);
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (1996), sections IV.7 and VI.4, and
the authors' code rodas.f; G. Steinebach, Construction of Rosenbrock-Wanner method Rodas5P and
numerical benchmarks within the Julia Differential Equations package, BIT 63:27 (2023).
"""

import dataclasses
import itertools
import math

Row = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RosenbrockTableau:
    r"""A linearly implicit pair for $M y' = f(t, y)$, with its dense output.

    With $J = f_y(t, y)$ and $f_t$ taken at the start of the step, stage $i$ solves
    $$\Bigl(\frac{M}{h \gamma} - J\Bigr) U_i = f\Bigl(t + c_i h,\; y + \sum_{j<i} a_{ij} U_j\Bigr)
      + \frac{M}{h} \sum_{j<i} C_{ij} U_j + h d_i f_t,$$
    the step is $y_1 = y + \sum_i m_i U_i$, its error estimate is $\sum_i e_i U_i$, and dense output
    is $y(t + \theta h) = y + \sum_i \sum_j P_{ij} \theta^{j+1} U_i$. `M` may be singular: the last
    two methods keep their order on differential-algebraic equations of index 1.

    With $\Gamma$ the lower triangular matrix of the classical form (its diagonal is $\gamma$) and
    $k_i$ the classical stages, $U = h \Gamma k$, $\Gamma^{-1} = I / \gamma - C$,
    $\alpha = a \Gamma$, $b = \Gamma^T m$, $c_i = \sum_j \alpha_{ij}$, $d_i = \sum_j \Gamma_{ij}$.

    **Fields:**

    - `order`: order of the step. `embedded_order`: order of the companion $y_1 - \sum_i e_i U_i$.
    - `gamma`: the diagonal coefficient. `c`, `d`: one figure per stage.
    - `a`, `C`: row $i$ holds the $i$ coefficients of stage $i + 1$ (the first stage has none).
    - `m`: the weights of the step. `error`: $e$, the weights of the error estimate.
    - `dense`: $P$, a row of polynomial coefficients per stage.

    **Raises:** `ValueError` when the rows do not fit together.
    """

    order: int
    embedded_order: int
    gamma: float
    c: Row
    d: Row
    a: tuple[Row, ...]
    C: tuple[Row, ...]
    m: Row
    error: Row
    dense: tuple[Row, ...]

    def __post_init__(self) -> None:
        for rows in (self.a, self.C):
            if len(rows) != self.stages - 1 or any(len(r) != i + 1 for i, r in enumerate(rows)):
                raise ValueError("row i of `a` and of `C` must hold i + 1 coefficients")
        if not len(self.c) == len(self.d) == len(self.error) == len(self.dense) == self.stages:
            raise ValueError("`c`, `d`, `m`, `error` and `dense` must speak of as many stages")
        for weight, row in zip(self.m, self.dense, strict=True):
            if abs(sum(row) - weight) > 1e-12 * max(1.0, sum(map(abs, row))):
                raise ValueError(f"a row of `dense` ends at {sum(row)}, not at its m of {weight}")

    @property
    def stages(self) -> int:
        """Stages of the step."""
        return len(self.m)

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is evaluated at $y_1 - U_s$: then $U_s$ is the error estimate."""
        return self.m == (*self.a[-1], 1.0)


def _dense(m: Row, *corrections: Row) -> tuple[Row, ...]:
    r"""Rows of $\theta m + \theta (1 - \theta) (q_1 + \theta q_2 + \dots)$ in powers of theta."""
    padded = [(0.0,) * len(m), *corrections, (0.0,) * len(m)]
    columns = [
        tuple(high - low for high, low in zip(after, before, strict=True))
        for before, after in itertools.pairwise(padded)
    ]
    columns[0] = tuple(weight + first for weight, first in zip(m, columns[0], strict=True))
    return tuple(zip(*columns, strict=True))


def _rosenbrock23() -> RosenbrockTableau:
    r"""The pair 2(3) of Shampine and Reichelt, brought from its k-form to the form above.

    With $g = 1 / (2 + \sqrt 2)$ and $e = 6 + \sqrt 2$ its classical coefficients are
    $\alpha_{21} = 1/2$, $\alpha_{32} = 1$, $\gamma_{21} = -g$, $\gamma_{31} = (e - 2) g$,
    $\gamma_{32} = -e g$, $b = (0, 1, 0)$, $\hat b = (1, 4, 1) / 6$. Then $h k_1 = U_1 / g$,
    $h k_2 = (U_1 + U_2) / g$ and $h k_3 = (2 U_1 + e U_2 + U_3) / g$. The third stage evaluates f
    at $(t + h, y_1)$, so the first evaluation of the next step is already known.
    """
    r, e = 2.0 + math.sqrt(2.0), 6.0 + math.sqrt(2.0)
    return RosenbrockTableau(
        order=2,
        embedded_order=3,
        gamma=1.0 / r,
        c=(0.0, 0.5, 1.0),
        d=(1.0 / r, 0.0, -1.0 / r),
        a=((0.5 * r,), (r, r)),
        C=((-r,), (-2.0 * r, -e * r)),
        m=(r, r, 0.0),
        error=(-r / 6.0, (2.0 - e) * r / 6.0, -r / 6.0),
        # 1 - 2 g = sqrt 2 - 1 = 1 / (1 + sqrt 2), and 2 g r = 2
        dense=((r, 0.0), (-2.0 * (r - 1.0), r * (r - 1.0)), (0.0, 0.0)),
    )


ROSENBROCK23 = _rosenbrock23()

_RODAS4 = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895)
RODAS4 = RosenbrockTableau(
    order=4,
    embedded_order=3,
    gamma=0.25,
    c=(0.0, 0.386, 0.21, 0.63, 1.0, 1.0),
    d=(0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0),
    a=(
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        _RODAS4,
        (*_RODAS4, 1.0),
    ),
    C=(
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616),
        (
            8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136,
            -6.058818238834054,
        ),
    ),
    m=(*_RODAS4, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=_dense(
        (*_RODAS4, 1.0, 1.0),
        (
            10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823,
            1.025137723295662, 0.0,
        ),
        (
            -0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386,
            -6.594389125716872, 0.0,
        ),
    ),
)

_RODAS5P = (
    -7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256,
    0.030198172008377946,
)
RODAS5P = RosenbrockTableau(
    order=5,
    embedded_order=4,
    gamma=0.21193756319429014,
    c=(
        0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0,
        1.0, 1.0,
    ),
    d=(
        0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734,
        2.325825639765069, 0.0, 0.0, 0.0,
    ),
    a=(
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        _RODAS5P,
        (*_RODAS5P, 1.0),
        (*_RODAS5P, 1.0, 1.0),
    ),
    C=(
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (
            24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125,
            -0.6610691825249471,
        ),
        (
            30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783,
            -19.097331116725623, -28.087943162872662,
        ),
        (
            37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047,
            -40.06618937091002, -54.66780262877968, -9.48861652309627,
        ),
    ),
    m=(*_RODAS5P, 1.0, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=_dense(
        (*_RODAS5P, 1.0, 1.0, 1.0),
        (
            25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204,
            0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493,
        ),
        (
            -9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796,
            20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372,
        ),
        (
            11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643,
            -52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722,
        ),
    ),
)
