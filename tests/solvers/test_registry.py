"""The registry of solvers, and solvers from outside of the package."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.base import TableauSolver
from jaxode.solvers.explicit.runge_kutta import ExplicitRungeKutta
from jaxode.solvers.explicit.tableau import ButcherTableau, hermite_dense
from jaxode.solvers.implicit.rosenbrock import Rosenbrock
from jaxode.solvers.implicit.rosenbrock_tableau import RosenbrockTableau
from jaxode.solvers.registry import SOLVERS, solver_classes
from tests.support.differences import central

# J. R. Cash, A. H. Karp, ACM Trans. Math. Softw. 16 (1990). The last stage, the slope at the end of
# the step, serves dense output alone.
FIFTH = (37 / 378, 0.0, 250 / 621, 125 / 594, 0.0, 512 / 1771)
FOURTH = (2825 / 27648, 0.0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4)
CASH_KARP_TABLEAU = ButcherTableau(
    order=5,
    embedded_order=4,
    c=(0.0, 1 / 5, 3 / 10, 3 / 5, 1.0, 7 / 8, 1.0),
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (3 / 10, -9 / 10, 6 / 5),
        (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
        (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
        FIFTH,
    ),
    b=FIFTH,
    error=tuple(high - low for high, low in zip(FIFTH, FOURTH, strict=True)),
    dense=hermite_dense((*FIFTH, 0.0)),
)


class CashKarp(ExplicitRungeKutta):
    """The 5(4) pair of Cash and Karp. Dense output: cubic Hermite."""

    names: ClassVar[tuple[str, ...]] = ("cash_karp", "rkck")
    tableau: ClassVar[ButcherTableau] = CASH_KARP_TABLEAU


# J. G. Verwer, E. J. Spee, J. G. Blom, W. Hundsdorfer, SIAM J. Sci. Comput. 20 (1999), in the
# form without products with J: alpha_21 = 1, gamma_21 = -2 gamma, b = (1/2, 1/2), companion (1, 0).
GAMMA = 1.0 + math.sqrt(0.5)
ROS2_TABLEAU = RosenbrockTableau(
    order=2,
    embedded_order=1,
    gamma=GAMMA,
    c=(0.0, 1.0),
    d=(GAMMA, -GAMMA),
    a=((1 / GAMMA,),),
    C=((-2 / GAMMA,),),
    m=(1.5 / GAMMA, 0.5 / GAMMA),
    error=(0.5 / GAMMA, 0.5 / GAMMA),
    dense=((1.5 / GAMMA,), (0.5 / GAMMA,)),
)


class ROS2(Rosenbrock):
    """The L-stable 2(1) pair of Verwer et al. Dense output: linear."""

    names: ClassVar[tuple[str, ...]] = ("ros2",)
    tableau: ClassVar[RosenbrockTableau] = ROS2_TABLEAU


RATE, TS, Y0S = 1.3, jnp.array([0.0, 1.0]), jnp.array([[2.0, 0.0], [1.0, 0.5], [-0.3, 1.0]])


def modulated(t, y, rate):
    return rate * jnp.cos(t) * y


def modulated_end(y0, rate):
    return jnp.exp(rate * jnp.sin(1.0)) * y0


def stiff(t, y, rate):
    """The eigenvalues are -1 and -1000 times the rate."""
    return rate * jnp.array([[-500.5, 499.5], [499.5, -500.5]]) @ y


def stiff_end(y0, rate):
    return jnp.exp(-rate) * jnp.mean(y0, axis=-1, keepdims=True) * jnp.ones(2)


# The solver, its problem and solution at the end, tolerance, numbers of steps for the order.
CASES = {
    "cash_karp": (CashKarp, modulated, modulated_end, 1e-7, (8, 11, 16)),
    "ros2": (ROS2, stiff, stiff_end, 1e-3, (64, 91, 128)),
}


@pytest.fixture
def registered():
    """Both solvers are in the registry, until the test ends."""
    for solver, *_ in CASES.values():
        jo.register(solver)
    yield
    for solver, *_ in CASES.values():
        for name in solver.names:
            del SOLVERS[name]


def test_every_class_stands_first_under_its_own_name():
    own = {"RK4ThreeEighths": "rk438"}
    names = [name for solver in solver_classes() for name in solver.names]
    assert names == list(SOLVERS)
    assert len(set(names)) == len(names)
    for solver in solver_classes():
        expected = own.get(solver.__name__, solver.__name__.lower())
        assert solver.names[0].replace("_", "") == expected


def test_every_class_is_exported():
    for solver in solver_classes():
        assert getattr(jo, solver.__name__) is solver


class Nameless(CashKarp):
    names: ClassVar[tuple[str, ...]] = ()


class Taken(CashKarp):
    names: ClassVar[tuple[str, ...]] = ("cash_karp_2", "tsit5")


class WithArgument(CashKarp):
    names: ClassVar[tuple[str, ...]] = ("with_argument",)
    needed: float


class Abstract(TableauSolver):
    names: ClassVar[tuple[str, ...]] = ("abstract",)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (CashKarp(), "takes a class of solvers"),
        (dict, "takes a class of solvers"),
        (Nameless, "Nameless has no names"),
        (Taken, '"tsit5" is that of Tsit5'),
        (WithArgument, "needs arguments"),
        (Abstract, "is abstract"),
    ],
)
def test_register_refuses(solver, message):
    before = dict(SOLVERS)
    with pytest.raises(jo.OptionError, match=message):
        jo.register(solver)
    assert before == SOLVERS


def test_a_name_is_known_while_its_class_is_registered(registered):
    assert jo.register(CashKarp) is CashKarp  # twice is once
    assert SOLVERS["cash_karp"] is SOLVERS["rkck"] is CashKarp
    assert solver_classes()[-2:] == (CashKarp, ROS2)


def test_no_trace_is_left():
    assert not {"cash_karp", "rkck", "ros2"} & set(SOLVERS)
    with pytest.raises(jo.OptionError, match="cash_karp"):
        jo.solve(modulated, Y0S[0], TS, RATE, solver="cash_karp")


@pytest.mark.parametrize("name", CASES)
def test_outside_solvers_have_their_order(name):
    solver, field, exact, _, numbers = CASES[name]
    y0 = Y0S[0]

    @jax.jit
    def error(dt):
        sol = jo.solve(field, y0, TS, RATE, solver=solver(), controller=jo.Fixed(dt))
        return jnp.max(jnp.abs(sol.y1 - exact(y0, RATE)))

    errors = np.array([error(1.0 / number) for number in numbers])
    order = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert abs(order - solver().order) < 0.2


@pytest.mark.parametrize("name", CASES)
def test_outside_solvers_choose_their_steps_and_batch(name, registered):
    """By name and as an object, one by one and as a batch: the same solutions, near the exact."""
    solver, field, exact, rtol, _ = CASES[name]
    options = {"rtol": rtol, "atol": rtol, "max_steps": 300}

    @jax.jit
    def single(y0):
        return jo.solve(field, y0, TS, RATE, solver=solver(), **options).y1

    one_by_one = np.array([single(y0) for y0 in Y0S])
    batch = jo.solve_batch(field, Y0S, TS, RATE, solver=name, **options)
    np.testing.assert_allclose(one_by_one, exact(Y0S, RATE), atol=20 * rtol)
    np.testing.assert_allclose(batch.y1, one_by_one, rtol=1e-12)
    assert np.all(batch.stats.num_accepted < 300)


@pytest.mark.parametrize("name", CASES)
def test_outside_solvers_have_derivatives(name, registered):
    """Discrete against finite differences of the same steps, the adjoint against the solution's."""
    _, field, exact, rtol, numbers = CASES[name]

    def loss(inputs, **options):
        y0, rate = inputs
        sol = jo.solve(field, y0, TS, rate, solver=name, max_steps=300, **options)
        return jnp.sum(sol.y1 * jnp.array([1.0, -0.5]))

    inputs = Y0S[1], jnp.asarray(RATE)
    steps = {"controller": jo.Fixed(1.0 / numbers[0])}
    discrete = jax.jit(jax.grad(lambda inputs: loss(inputs, **steps)))(inputs)
    differences = central(lambda inputs: loss(inputs, **steps), inputs)
    adjoint = jax.jit(
        jax.grad(lambda inputs: loss(inputs, rtol=rtol, atol=rtol, sensitivity="adjoint"))
    )(inputs)
    truth = jax.grad(lambda inputs: jnp.sum(exact(*inputs) * jnp.array([1.0, -0.5])))(inputs)
    for found, expected, known, limit in zip(discrete, differences, truth, adjoint, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(limit, known, atol=100 * rtol)
