"""BDF: its formulas order by order, what it keeps from step to step, gradients, linear solvers."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.multistep.bdf import BDFState
from tests.support.batches import assert_same, in_tile, one_by_one, outcome
from tests.support.differences import assert_close, central, central_by_calls, weighted
from tests.support.stiff_problems import BY_NAME, ROBERTSON_RATES, robertson
from tests.support.sweeps import few

RATES = jnp.array(ROBERTSON_RATES)
START = jnp.array([1.0, 0.0, 0.0])
AT_40 = np.array([0.7158270688, 9.185534765e-06, 0.2841637457])
MASS = jnp.diag(jnp.array([1.0, 1.0, 0.0]))
TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-14, "max_steps": 20_000}


def robertson_dae(t, y, rates):
    """The same with the conserved sum in the place of its last equation."""
    return robertson(t, y, rates).at[2].set(jnp.sum(y) - 1)


def bent(t, y, args):
    """Stiff in part, and not linear in anything."""
    fast = args[1] * ((1 - y[0] ** 2) * y[1] - y[0])
    return jnp.stack([args[0] * y[1] + jnp.cos(t), fast, args[1] * (jnp.sin(t) * y[0] - y[2])])


def curve(t):
    return jnp.stack([jnp.sin(t), jnp.exp(-0.5 * t)], axis=-1)


def follow(t, y, args):
    """Its solution is `curve`."""
    away = y - curve(t)
    return jax.jvp(curve, (t,), (jnp.ones_like(t),))[1] - 3 * away - away[::-1] ** 2


@jax.jit
def after_a_step(order, h):
    """The largest error of one step of `order` from an exact history, at its end and inside it."""
    solver: Any = jo.BDF()
    points = curve(1.0 - h * jnp.arange(8))
    rows = [jnp.diff(points[::-1], n, axis=0)[-1] for n in range(1, 8)]
    carry = solver.init(lambda t, y: y, jnp.array(1.0), points[0])
    carry = carry._replace(differences=jnp.stack(rows), h=h, order=order)
    field = lambda t, y: follow(t, y, None)  # noqa: E731
    made = solver.step(field, jnp.array(1.0), points[0], h, carry, True)
    half = solver.interpolate(jnp.array(0.5), points[0], h, made.dense)
    gaps = half - curve(1 + h / 2), made.y1 - curve(1.0 + h)
    return jnp.stack([jnp.max(jnp.abs(gap)) for gap in gaps])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_each_formula_has_its_order(order):
    """The error of one step, and inside it, falls with the power `order + 1` of the step."""
    sizes = np.array([0.08, 0.06, 0.04])
    errors = np.array([after_a_step(float(order), h) for h in sizes])
    for column in errors.T:
        assert abs(np.polyfit(np.log(sizes), np.log(column), 1)[0] - (order + 1)) < 0.25


# Klopfenstein's constants, as in table 1 of Shampine and Reichelt, but for order 1.
KAPPA = {1: 0.0, 2: -1 / 9, 3: -0.0823, 4: -0.0415, 5: 0.0}
# By how much the estimates of the higher orders are weighed more.
WEIGHT = {1: 2, 2: 2, 3: 3, 4: 4, 5: 5}


@pytest.mark.parametrize("order", KAPPA)
def test_the_error_of_a_step_has_the_constant_of_its_formula(order):
    """For `t^(k + 1)`, whose difference of order `k + 1` is constant: the error and its estimate.

    `sum_m (1/m) D^m y - kappa gamma (y - predicted) = h y'`, m = 1, ..., k, defines the step.
    """
    h, power = 0.1, order + 1
    points = (1.0 - h * np.arange(9)) ** power
    rows = jnp.array([np.diff(points[::-1], n)[-1] for n in range(1, 8)])[:, None]

    def field(t, y):
        return power * t**order + 0 * y

    start, t = jnp.array(points[:1]), jnp.array(1.0)
    carry = jo.BDF().init(field, t, start)
    carry = carry._replace(differences=rows, h=jnp.array(h), order=jnp.array(float(order)))
    made: Any = jo.BDF().step(field, t, start, jnp.array(h), carry, None)
    gamma, last = np.sum(1 / np.arange(1, power)), math.factorial(power) * h**power
    constant = 1 / power + KAPPA[order] * gamma
    error = constant * last / ((1 - KAPPA[order]) * gamma)
    np.testing.assert_allclose(made.y1, (1 + h) ** power + error, rtol=1e-12)
    estimate = WEIGHT[order] * constant * (last + error)
    np.testing.assert_allclose(made.error, estimate, rtol=1e-6)


@pytest.mark.parametrize("most", few([1, 2, 3, 4, 5], 2, 3, 5))
def test_the_highest_order_is_kept(most):
    sol = jo.solve(follow, curve(0.0), (0.0, 4.0), solver=jo.BDF(max_order=most), rtol=1e-5)
    np.testing.assert_allclose(sol.y1, curve(4.0), atol=1e-3)


def test_steps_fall_with_the_order():
    def number(most):
        solver = jo.BDF(max_order=most)
        return jo.solve(follow, curve(0.0), (0.0, 9.0), solver=solver, rtol=1e-7).stats.num_steps

    numbers = [number(most) for most in (2, 3, 5)]
    assert numbers[0] > 2 * numbers[1] > 2.5 * numbers[2]


def test_a_highest_order_that_there_is_not_is_refused():
    with pytest.raises(jo.OptionError, match="max_order of BDF must be 1 to 5, got 6"):
        jo.BDF(max_order=6)


def test_jacobians_and_factors_serve_many_steps():
    problem = BY_NAME["rober"]
    sol = jo.solve(
        problem.field, jnp.array(problem.y0), (0.0, problem.t1), problem.args, solver="bdf",
        rtol=1e-6, atol=problem.atol(1e-6),
    )  # fmt: skip
    stats: Any = sol.stats
    assert stats.num_jacobians * 12 < stats.num_steps
    assert stats.num_factorisations * 4 < stats.num_steps
    assert stats.num_evaluations < 2.5 * stats.num_steps


def test_uneven_steps_have_the_exact_gradient():
    """Forwards and backwards, by everything that there is; the order rises to five on the way."""
    steps = jnp.array([0.0, 0.1, 0.17, 0.29, 0.4, 0.47, 0.6, 0.71, 0.77, 0.9, 1.0, 1.05, 1.2])
    inside = jnp.array([0.0, 0.33, 0.75, 1.2])

    @jax.jit
    @jax.value_and_grad
    def run(p, sign):
        sol = jo.solve(bent, p["y"], sign * (0.2 + inside), p["args"], solver="bdf",
                       controller=jo.Grid(sign * (0.2 + steps)))  # fmt: skip
        return weighted((sol.ys, sol.y1))

    p = {"y": jnp.array([1.2, 0.3, 0.7]), "args": jnp.array([1.0, 2.0])}
    for sign in (1.0, -1.0):
        gradient = run(p, sign)[1]
        assert_close(gradient, central_by_calls(lambda p, sign=sign: run(p, sign)[0], p), 1e-8)


def test_a_step_has_the_exact_derivative():
    """Of its end, dense output and history, by state, history, parameters, time and size.

    What it keeps of Jacobians changes how a root is found, not the root.
    """
    solver: Any = jo.BDF()
    start = solver.init(lambda t, y: bent(t, y, jnp.ones(2)), jnp.array(0.2), jnp.ones(3))

    def loss(p):
        field = lambda t, y: bent(t, y, p["args"])  # noqa: E731
        carry = start._replace(differences=p["rows"], h=p["before"], order=jnp.array(3.0))
        made = solver.step(field, p["t"], p["y"], p["h"], carry, True)
        between = solver.interpolate(jnp.array(0.3), p["y"], p["h"], made.dense)
        return weighted((made.y1, between, made.solver_state.differences, made.solver_state.h))

    rows = 0.3 ** jnp.arange(1, 8)[:, None] * jnp.array([1.0, -0.7, 0.4])
    p = {"y": jnp.array([1.2, 0.3, 0.7]), "args": jnp.array([1.0, 8.0]), "rows": rows[:3]}

    @jax.jit
    @jax.value_and_grad
    def run(p):
        return loss(p | {"rows": jnp.concatenate([p["rows"], rows[3:]])})

    for h in (0.1, -0.05):
        p |= {"t": jnp.array(0.2), "h": jnp.array(h), "before": jnp.array(1.3 * h)}
        assert_close(run(p)[1], central_by_calls(lambda p: run(p)[0], p, 2e-4), 1e-7)


POINT = {"y": jnp.array([1.2, 0.3, 0.7]), "args": jnp.array([1.0, 5.0])}


def loss_of_bent(p, **options):
    ts = jnp.array([0.0, 0.5, 1.0])
    return weighted(jo.solve(bent, p["y"], ts, p["args"], max_steps=20_000, **options).ys)


@functools.cache
def slopes_of_bent():
    return central(lambda p: loss_of_bent(p, solver="rodas5p", rtol=1e-11, atol=1e-11), POINT)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "rtol"), [("discrete", 1e-10), ("adjoint", 1e-9)])
def test_adaptive_gradients_agree_with_differences(mode, rtol):
    given = {"solver": "bdf", "rtol": rtol, "atol": rtol, "sensitivity": mode}
    got = jax.jit(jax.grad(lambda p: loss_of_bent(p, **given)))(POINT)
    assert_close(got, slopes_of_bent(), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-3, 1e-4])
def test_single_precision(rtol):
    y0, rates = START.astype(jnp.float32), RATES.astype(jnp.float32)
    for solver, field in ((jo.BDF(), robertson), (jo.BDF(mass=MASS), robertson_dae)):
        sol = jo.solve(field, y0, (0.0, 40.0), rates, solver=solver, rtol=rtol, atol=1e-7)
        assert sol.y1.dtype == jnp.float32
        np.testing.assert_allclose(sol.y1, AT_40, rtol=5 * rtol)


def test_algebraic_equations():
    off = START.at[2].set(0.3)
    for start in (START, off):
        dae = jo.solve(robertson_dae, start, (0.0, 40.0), RATES, solver=jo.BDF(mass=MASS), **TIGHT)
        np.testing.assert_allclose(dae.y1, AT_40, rtol=1e-7)
    assert dae.stats.num_rejected < 0.1 * dae.stats.num_steps


def test_a_regular_mass_matrix_is_that_of_its_inverse_times_the_field():
    mass = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.3, 0.0, 1.5]])

    def field(t, y, k):
        return mass @ robertson(t, y, k)

    sol = jo.solve(field, START, (0.0, 40.0), RATES, solver=jo.BDF(mass=mass), **TIGHT)
    np.testing.assert_allclose(sol.y1, AT_40, rtol=1e-7)


@pytest.mark.slow
def test_the_gradient_of_an_algebraic_problem_in_a_batch():
    """Exact, lane by lane and shared, with the mass matrix."""
    size = jnp.array([1.0, 1e5, 1.0])
    spread = jnp.array([0.5, 1.0, 2.0])

    def loss(rates, **options):
        axes = {"in_axes": (None, None, 0), "lanes": 2}
        sols = jo.solve_batch(
            robertson_dae, START, (0.0, 40.0), spread[:, None] * rates, **axes,
            **(TIGHT | options),
        )  # fmt: skip
        return weighted(size * sols.y1)

    got = jax.jit(jax.grad(lambda r: loss(r, solver=jo.BDF(mass=MASS))))(RATES)
    fine = {"rtol": 1e-11, "atol": 1e-16, "solver": jo.Rodas5P(mass=MASS)}
    expected = central(lambda scale: loss(scale * RATES, **fine), jnp.ones(3))
    np.testing.assert_allclose(got * RATES, expected, rtol=1e-5)


def heat(t, y, args):
    """Diffusion of a substance that feeds on itself."""
    w = jnp.pad(y, 1)
    return 400 * (w[:-2] - 2 * w[1:-1] + w[2:]) + args * y**2


def heat_jacobian(t, y, args):
    n = y.shape[0]
    return 400 * (jnp.eye(n, k=1) - 2 * jnp.eye(n) + jnp.eye(n, k=-1)) + jnp.diag(2 * args * y)


LINEAR_SOLVERS: dict[str, dict[str, Any]] = {
    "jac": {"jac": heat_jacobian},
    "banded": {"linear_solver": jo.Banded(1, 1)},
    "sparse": {"linear_solver": jo.Sparse(np.abs(np.subtract.outer(range(19), range(19))) <= 1)},
    "krylov": {"linear_solver": jo.Krylov(rtol=1e-10)},
    "banded jac": {"linear_solver": jo.Banded(1, 1), "jac": heat_jacobian},
    "banded mass": {"linear_solver": jo.Banded(1, 1), "mass": jnp.eye(19)},
}


HEAT: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}
HEAT_START = jnp.sin(jnp.pi * jnp.arange(1, 20) / 20)


def end_of_heat(solver):
    """A sum of squares of the end, and the number of Jacobians."""
    sol = jo.solve(heat, HEAT_START, (0.0, 0.5), 3.0, solver=solver, **HEAT)
    stats: Any = sol.stats
    return weighted(sol.y1), stats.num_jacobians


def batch_of_heat(solver):
    """A sum of squares of the ends of a batch, and its derivative."""

    @jax.jit
    @jax.value_and_grad
    def run(args):
        rates = args * jnp.array([1.0, 2.0])
        axes = {"in_axes": (None, None, 0)}
        sols = jo.solve_batch(heat, HEAT_START, (0.0, 0.5), rates, solver=solver, **axes, **HEAT)
        return weighted(sols.y1)

    return run(3.0)


@functools.cache
def heat_by_default():
    return end_of_heat(jo.BDF())[0]


@functools.cache
def batch_of_heat_by_default():
    return batch_of_heat(jo.BDF())


@pytest.mark.parametrize("name", few(LINEAR_SOLVERS, "banded jac"))
def test_linear_solvers_agree(name):
    value, count = end_of_heat(jo.BDF(**LINEAR_SOLVERS[name]))
    np.testing.assert_allclose(value, heat_by_default(), rtol=1e-5)
    assert count < 10 or name == "krylov"  # which keeps none


@pytest.mark.slow
@pytest.mark.parametrize("name", ["banded jac", "sparse", "krylov"])
def test_linear_solvers_agree_in_gradients_of_a_batch(name):
    found = batch_of_heat(jo.BDF(**LINEAR_SOLVERS[name]))
    np.testing.assert_allclose(found, batch_of_heat_by_default(), rtol=1e-5)


def swing(t, y, k):
    return jnp.stack([y[1], k * (1 - y[0] ** 2) * y[1] - y[0]])


STIFFNESSES = jnp.array([1.0, 50.0, 5.0, 200.0, 0.1])
SWING: dict[str, Any] = {"solver": "bdf", "rtol": 1e-5, "atol": 1e-7}


@functools.cache
def single_swings():
    def single(k):
        y0 = jnp.array([2.0, 0.0])
        return outcome(jo.solve(swing, y0, (0.0, 5.0), k, throw=False, **SWING))

    return one_by_one(single, 0, STIFFNESSES)


@pytest.mark.parametrize("wide", few([False, True], True))
def test_lanes_keep_jacobians_of_their_own(wide):
    """Counts and values of a batch are those of single solves."""

    def batch(k):
        axes = {"in_axes": (None, None, 0), "lanes": 2}
        y0 = jnp.array([2.0, 0.0])
        return outcome(jo.solve_batch(swing, y0, (0.0, 5.0), k, **axes, **SWING))

    got = in_tile(wide, batch, STIFFNESSES)(STIFFNESSES)
    assert_same(got, single_swings(), 1e-5, counts=4)


def test_a_carry_is_made_of_floats():
    """Its cotangents are added up, step by step."""
    carry = jo.BDF().init(lambda t, y: -y, jnp.array(0.0), jnp.ones(2))
    assert isinstance(carry, BDFState)
    for leaf in jax.tree.leaves(carry):
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
