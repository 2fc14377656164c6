"""Derivatives where the state does not move, with steps controlled there, against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxode as jo
from tests.support.sweeps import few

ADAPTIVE = ["tsit5", "bdf", "adams", "rodas5p", "kvaerno5", "auto", "dopri5", "dopri8", "vern7"]


def spring(t, y, force):
    return jnp.stack([y[1], -25 * y[0] - 0.2 * y[1] + force])


def spring_truth(t1):
    matrix = np.array([[0, 1], [-25, -0.2]])
    return (np.linalg.solve(matrix, scipy.linalg.expm(matrix * t1) - np.eye(2)) @ [0, 1])[0]


def compartments(t, y, _):
    return jnp.stack([-1.5 * y[0], 1.5 * y[0] - 0.3 * y[1]])


def epidemic(t, y, _):
    infected = 4 * y[0] * y[1]
    return jnp.stack([-infected, infected - y[1], y[1]])


def forced(t, y, force):
    return -y + force * jnp.sin(20 * t)


def cart(t, y, force):
    angular = 9.81 * jnp.sin(y[2]) - force * jnp.cos(y[2])
    return jnp.stack([y[1], force, y[3], angular])


def forced_truth(t1):
    return (np.sin(20 * t1) - 20 * np.cos(20 * t1) + 20 * np.exp(-t1)) / 401


# Field, initial state and force by the parameter, last time, component, its derivative at zero.
CASES = {
    "spring": (spring, lambda p: (jnp.zeros(2), p), 10.0, 0, spring_truth(10.0)),
    "spring aside": (
        lambda t, y, force: spring(t, y - jnp.array([1.0, 0.0]), force),
        lambda p: (jnp.array([1.0, 0.0]), p), 10.0, 0, spring_truth(10.0),
    ),
    "dose": (
        compartments, lambda p: (jnp.stack([p, 0 * p]), None), 24.0, 1,
        1.5 / 1.2 * (np.exp(-0.3 * 24) - np.exp(-1.5 * 24)),
    ),
    "epidemic": (
        epidemic, lambda p: (jnp.stack([1 + 0 * p, p, 0 * p]), None), 6.0, 1, np.exp(18.0)
    ),
    "forced": (forced, lambda p: (jnp.zeros(1), p), 5.0, 0, forced_truth(5.0)),
    # The motion of some components hides what the others need, or the state rests beside zero.
    "cart": (
        cart, lambda p: (jnp.array([0.0, 1.0, 0.0, 0.0]), p), 2.0, 2,
        (1 - np.cosh(2 * np.sqrt(9.81))) / 9.81,
    ),
    "straight line": (
        lambda t, y, force: 1 + 0 * y + force * jnp.sin(30 * t),
        lambda p: (jnp.full(1, 0.5), p), 2.0, 0,
        (1 - np.cos(60.0)) / 30,
    ),
    "capacity": (
        lambda t, y, p: 5 * y * (1 + p - y), lambda p: (jnp.ones(1), p), 10.0, 0,
        1 - np.exp(-50.0),
    ),
    "fast and slow": (
        lambda t, y, p: jnp.stack([-200 * (y[0] - p), y[0] - y[1]]),
        lambda p: (jnp.zeros(2), p), 5.0, 1,
        1 - (200 * np.exp(-5.0) - np.exp(-1000.0)) / 199,
    ),
    "late pulse": (
        lambda t, y, force: -y + force * jnp.exp(-4 * (t - 20) ** 2),
        lambda p: (jnp.ones(1), p), 24.0, 0,
        np.sqrt(np.pi) / 2 * np.exp(-4 + 1 / 16),
    ),
    "growth": (lambda t, y, _: y, lambda p: (p[None] + 1e-12, None), 10.0, 0, np.exp(10.0)),
}  # fmt: skip


def derivative(case, solver, sensitivity, tolerance, max_steps=10_000):
    field, start, t1, component, _ = CASES[case]

    def last(p):
        y0, force = start(p)
        sol = jo.solve(
            field, y0, (0.0, t1), force, solver=solver, sensitivity=sensitivity, throw=False,
            rtol=tolerance, atol=tolerance, max_steps=max_steps,
        )  # fmt: skip
        return sol.y1[component]

    forward = isinstance(sensitivity, jo.Forward)
    return (jax.jacfwd if forward else jax.grad)(last)(0.0)


FAST = ("spring", "tsit5"), ("epidemic", "tsit5"), ("forced", "tsit5"), ("growth", "bdf")


MOST = 100  # tolerances, as docs/gradients.md says


# What multistep solvers do not see: rest of some components, and with BDF rest that comes later.
# The first step along a straight line is seen by none.
UNSEEN = {
    "bdf": {"cart", "straight line", "late pulse"},
    "adams": {"cart"},
    "dopri5": {"straight line"},
    "dopri8": {"straight line"},
}
# All cases with one solver of each family, and some with all of them.
FAMILIES, COMMON = {"tsit5", "bdf", "rodas5p", "dopri8"}, {"spring"}
PAIRS = [
    (c, s)
    for c in CASES
    for s in ADAPTIVE
    if c not in UNSEEN.get(s, ()) and (s in FAMILIES or c in COMMON)
]


@pytest.mark.parametrize(("case", "solver"), few(PAIRS, *FAST))
def test_the_gradient_is_right_to_a_hundred_tolerances(case, solver):
    truth = CASES[case][-1]
    at = jax.jit(functools.partial(derivative, case, solver, jo.Discrete(at_rest=True)))
    for tolerance in (1e-4, 1e-7):
        assert abs(at(tolerance) - truth) < MOST * tolerance * abs(truth)


@pytest.mark.parametrize("sensitivity", [
    jo.Forward(at_rest=True),
    pytest.param(jo.Discrete(8, at_rest=True), marks=pytest.mark.slow),
    pytest.param(jo.Discrete("stages", at_rest=True), marks=pytest.mark.slow),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("max_steps", [10_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_mode_with_that_option_is_right(sensitivity, max_steps):
    truth = CASES["forced"][-1]
    found = derivative("forced", "tsit5", sensitivity, 1e-6, max_steps)
    assert abs(found - truth) < 1e-4 * abs(truth)


def test_a_complex_state_may_have_a_real_error_estimate():
    def last(p):
        sol = jo.solve(
            lambda t, y, _: 1j * y, p + jnp.zeros(1, complex), (0.0, 1.0), rtol=1e-6, atol=1e-6,
            solver=jo.ReversibleRK(jo.Tsit5()), sensitivity=jo.Discrete(at_rest=True),
        )  # fmt: skip
        return sol.y1[0].real

    np.testing.assert_allclose(jax.grad(last)(0.0), np.cos(1.0), rtol=1e-4)


def test_without_it_the_gradient_is_that_of_steps_without_bound():
    # What the documentation warns of: the gradient is exact, but of a solution by huge steps.
    assert abs(derivative("spring", "tsit5", jo.Discrete(), 1e-7)) > 1e3


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_lanes_at_rest_beside_lanes_that_move(memory):
    forces = jnp.array([0.0, 1.0, 0.0, 2.0, 0.0])

    def mean(shift):
        sols = jo.solve_batch(
            spring, jnp.zeros(2), (0.0, 10.0), forces + shift, in_axes=(None, None, 0),
            sensitivity=jo.Discrete(memory, at_rest=True), rtol=1e-6, atol=1e-6, lanes=4,
        )  # fmt: skip
        return jnp.mean(sols.y1[:, 0])

    assert abs(jax.grad(mean)(0.0) - spring_truth(10.0)) < 1e-4 * spring_truth(10.0)


def test_a_solve_that_moves_takes_the_same_steps():
    def ends(sensitivity):
        def lorenz(t, y, rate):
            x, y, z = y
            return jnp.stack([rate * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

        def last(rate):
            sol = jo.solve(
                lorenz, jnp.array([1.0, 2.0, 3.0]), (0.0, 3.0), rate, sensitivity=sensitivity
            )
            return sol.y1[0], sol.stats.num_steps

        return jax.value_and_grad(last, has_aux=True)(10.0)

    jax.tree.map(np.testing.assert_array_equal, ends(jo.Discrete(at_rest=True)), ends("discrete"))
