"""Reference values against those of another code, in decimals, which gives published digits."""

from decimal import Decimal, localcontext
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accuracy import ude
from benchmarks.problems import stiff
from benchmarks.problems.ensembles import lorenz_ensemble, van_der_pol_ensemble
from benchmarks.problems.lotka_volterra import PARAMETERS
from benchmarks.speed import lorenz as lorenz_benchmark
from benchmarks.speed import lotka_volterra as lotka_volterra_benchmark
from benchmarks.speed.ensemble_solves import exact_ends
from tests.support.decimals import solve
from tests.support.problems import BY_NAME
from tests.support.stiff_problems import BY_NAME as STIFF

pytestmark = pytest.mark.slow

HALF = Decimal("0.5")


def predator_prey(t, y):
    return [2 * y[0] * (1 - y[1]), y[1] * (y[0] - 1)]


def rigid_body(t, y):
    return [y[1] * y[2], -y[0] * y[2], Decimal("-0.51") * y[0] * y[1]]


def kepler(t, y):
    square = y[0] * y[0] + y[1] * y[1]
    cube = square * square.sqrt()
    return [y[2], y[3], -y[0] / cube, -y[1] / cube]


def bessel(t, y):
    s = t + 1
    return [y[1], -y[1] / s - (1 - HALF * HALF / (s * s)) * y[0]]


def van_der_pol(mu):
    return lambda t, y: [y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]]


def lotka_volterra(a, b, c, d):
    return lambda t, y: [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]]


def brusselator(t, y):
    reaction = y[0] * y[0] * y[1]
    return [1 + reaction - 4 * y[0], 3 * y[0] - reaction]


def lorenz(t, y):
    a, b, c = y
    return [10 * (b - a), a * (28 - c) - b, a * b - 8 * c / 3]


def pleiades(t, y):
    x, z, pull = y[:7], y[7:14], [[Decimal(0)] * 7, [Decimal(0)] * 7]
    for i in range(7):
        for j in range(7):
            if i != j:
                gap = x[j] - x[i], z[j] - z[i]
                square = gap[0] * gap[0] + gap[1] * gap[1]
                for axis in range(2):
                    pull[axis][i] += (j + 1) * gap[axis] / (square * square.sqrt())
    return y[14:] + pull[0] + pull[1]


def robertson(t, y):
    a, b, c = y
    slow, back, fast = Decimal("0.04") * a, 10_000 * b * c, 30_000_000 * b * b
    return [back - slow, slow - back - fast, fast]


# In the order of `lotka_volterra`: the loss of predators comes before their gain.
UDE = ude.ALPHA, ude.BETA, ude.DELTA, ude.GAMMA

FIELDS = {
    "predator_prey": predator_prey,
    "rigid_body": rigid_body,
    "kepler": kepler,
    "kepler_eccentric": kepler,
    "bessel": bessel,
    "van_der_pol": van_der_pol(1),
    "lotka_volterra": lotka_volterra(3 * HALF, 1, 3, 1),
    "brusselator": brusselator,
    "pleiades": pleiades,
    "lorenz": lorenz,
}


def floats(states):
    return np.array([[float(x) for x in y] for y in states])


@pytest.mark.parametrize("name", FIELDS)
def test_end_states_without_stiffness(name):
    """Published digits, which the generator has to give, and those that it alone gives."""
    problem = BY_NAME[name]
    found = floats(solve(FIELDS[name], problem.y0, (0, problem.t1)))[0]
    assert problem.error(found) < 1e-13


ROBER = [
    ("published", 1e11, STIFF["rober"].y1),
    ("to 40", 40.0, STIFF["rober_t40"].y1),
    ("of the benchmark", stiff.ROBER.t1, stiff.ROBER.y1),
]


@pytest.mark.parametrize(("t1", "y1"), [r[1:] for r in ROBER], ids=[r[0] for r in ROBER])
def test_end_states_of_the_robertson_problem(t1, y1):
    found = floats(solve(robertson, (1, 0, 0), (0, t1), stiff=True, digits=31))[0]
    np.testing.assert_allclose(found, y1, rtol=1e-12)


@pytest.mark.parametrize("problem", [stiff.HIRES, stiff.OREGO, stiff.VAN_DER_POL, stiff.POLLU])
def test_end_states_of_stiff_benchmarks_are_the_published_ones(problem):
    name = {"HIRES": "hires", "OREGO": "orego", "POLLU": "pollu"}.get(problem.name, "vdpolm")
    assert (problem.y0, problem.t1, problem.y1) == (STIFF[name].y0, STIFF[name].t1, STIFF[name].y1)


def test_states_of_the_lorenz_benchmark():
    exact = solve(lorenz, (1, 0, 0), range(6))
    found = lorenz_benchmark.exact_states(6)[1:]
    np.testing.assert_allclose(found, floats(exact), atol=1e-11)


def test_end_states_of_ensembles():
    ensemble = lorenz_ensemble(2, t1=5.0)
    exact = [solve(lorenz, y0, (0, 5))[0] for y0 in np.asarray(ensemble.y0).tolist()]
    np.testing.assert_allclose(exact_ends(ensemble), floats(exact), atol=1e-10)
    ensemble = van_der_pol_ensemble(3, 0.1, 10.0)
    rates = np.asarray(ensemble.args)[:, 0].tolist()
    exact = [solve(van_der_pol(Decimal(mu)), (2, 0), (0, 20))[0] for mu in rates]
    np.testing.assert_allclose(exact_ends(ensemble), floats(exact), rtol=1e-11)


def test_the_gradient_of_the_lotka_volterra_fit():
    """By differences in decimals, whose own errors are far below float64's rounding."""
    truth, times = [Decimal(p) for p in PARAMETERS], [Decimal(i) / 10 for i in range(101)]
    data = solve(lotka_volterra(*truth), (1, 1), times)

    def loss(p) -> Any:
        states = solve(lotka_volterra(*p), (1, 1), times, digits=40)
        gaps = [a - b for y, z in zip(states, data, strict=True) for a, b in zip(y, z, strict=True)]
        return sum(gap * gap for gap in gaps) / 202

    with localcontext() as context:
        context.prec = 40
        guess, step, gradient = [p * Decimal("1.02") for p in truth], Decimal("1e-9"), []
        for i in range(4):
            moved = [[p + s * (k == i) for k, p in enumerate(guess)] for s in (step, -step)]
            gradient.append(float((loss(moved[0]) - loss(moved[1])) / (2 * step)))
    np.testing.assert_allclose(lotka_volterra_benchmark.exact_gradient(), gradient, rtol=1e-11)


def test_the_states_of_the_universal_equation():
    """They end far below the errors of 1e-2 and more that the models make."""
    exact = solve(lotka_volterra(*map(Decimal, UDE)), ude.Y0, range(31))
    found = ude.exact_solution(jnp.arange(31.0))[1:]
    np.testing.assert_allclose(found, floats(exact), rtol=1e-6, atol=1e-8)
