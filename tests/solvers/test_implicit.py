"""Implicit solvers by Newton's iteration: stiffness, gradients of a step, failures, two parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.batches import assert_same, in_tile, one_by_one, outcome
from tests.support.differences import assert_close, central, weighted
from tests.support.registry import FAMILIES, IMPLICIT, SYMMETRIC
from tests.support.stiff_problems import BY_NAME, ROBERTSON_RATES, robertson
from tests.support.sweeps import few

NAMES = [name for name in IMPLICIT if SOLVERS[name].counts_evaluations]
L_STABLE = sorted(set(IMPLICIT) - SYMMETRIC)
ADAPTIVE = [name for name in NAMES if SOLVERS[name]().error_exponent is not None]
ACCURATE = sorted(set(ADAPTIVE) - {"implicit_euler"})
# The largest error at rtol=1e-6, in units of the tolerance.
ERRORS = {"trbdf2": 1000, "kvaerno3": 20, "kvaerno5": 2, "kencarp4": 5}
ERRORS |= {"kencarp3": 5, "kencarp5": 5, "kvaerno4": 5, "radau_iia3": 5, "sdirk2": 50}
ERRORS |= {"radau_iia5": 2, "bdf": 20}


@pytest.mark.parametrize("name", ACCURATE)
@pytest.mark.parametrize("problem", few(["rober", "hires", "vdpolm"], "rober"))
def test_reference_values_of_stiff_problems(name, problem):
    problem = BY_NAME[problem]
    sol = jo.solve(
        problem.field, jnp.array(problem.y0), (0.0, problem.t1), problem.args, solver=name,
        rtol=1e-6, atol=problem.atol(1e-6), max_steps=10_000,
    )  # fmt: skip
    assert problem.excess(sol.y1, 1e-6) < ERRORS[name]
    assert sol.stats.num_rejected < 0.2 * sol.stats.num_steps


def attracted_to_cosine(t, y, rate):
    """Its slow solution is cos(t) to 1/rate."""
    return rate * (y - jnp.cos(t))


RATES = (-1e6, -1e9, -1e12)
FEW = "kvaerno5", "radau_iia5", "bdf", "rosenbrock23"


@pytest.mark.parametrize("name", few(L_STABLE, *FEW))
def test_infinitely_stiff_components_are_gone_after_a_few_big_steps(name):
    """From far off the slow solution, at steps of half a million times 1/rate and more."""
    for rate in RATES:
        sol = jo.solve(
            attracted_to_cosine, jnp.array([2.0]), jnp.linspace(0.0, 5.0, 11), rate, solver=name,
            controller=jo.Fixed(0.5),
        )  # fmt: skip
        gap = np.abs(sol.ys[:, 0] - np.cos(sol.ts))
        if name == "rosenbrock23":  # not stiffly accurate: errs by the bend of the solution
            assert np.all(gap[1:] < 0.1 * 0.5**2)
        else:
            assert gap[1] < 1e-3
            assert np.all(gap[3:] < -2 / rate)


@pytest.mark.parametrize(
    "name", few([n for n in L_STABLE if n != "rosenbrock23"], "kvaerno5", "bdf")
)
def test_a_slow_solution_takes_few_steps_however_stiff_the_problem(name):
    adaptive: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
    if name == "implicit_euler":
        adaptive = {"controller": jo.Fixed(0.5)}
    for rate in RATES:
        sol = jo.solve(
            attracted_to_cosine, jnp.array([1.0]), (0.0, 10.0), rate, solver=name, **adaptive
        )
        assert abs(sol.y1[0] - np.cos(10.0)) < 1e-5
        assert sol.stats.num_steps < 150


def bent(t, y, args):
    """Stiff in part, and not linear in anything."""
    fast = args[1] * ((1 - y[0] ** 2) * y[1] - y[0])
    return jnp.stack([args[0] * y[1] + jnp.cos(t), fast, args[1] * (jnp.sin(t) * y[0] - y[2])])


OF_ONE_STEP = [name for name in NAMES if name != "bdf"]  # which has its own test


@pytest.mark.parametrize("name", few(OF_ONE_STEP, "kvaerno3", "gauss_legendre4"))
def test_a_step_has_the_exact_derivative(name):
    """Of its end, dense output and carry, by state, parameters, time and size."""
    solver: Any = SOLVERS[name]().with_tolerance(None)

    def loss(p):
        field = lambda t, y: bent(t, y, p["args"])  # noqa: E731
        carry = solver.init(field, p["t"], p["y"])
        made = solver.step(field, p["t"], p["y"], p["h"], carry, True)
        between = solver.interpolate(jnp.array(0.3), p["y"], p["h"], made.dense)
        return weighted((made.y1, between)) + 0.01 * weighted(made.solver_state)

    p = {"y": jnp.array([1.2, 0.3, 0.7]), "args": jnp.array([1.0, 8.0])}

    @jax.jit
    def both(p):
        return jax.grad(loss)(p), central(loss, p, 1e-4)

    for h in (0.1, -0.05):
        gradient, differences = both(p | {"t": jnp.array(0.2), "h": jnp.array(h)})
        assert_close(gradient, differences, 1e-7)


@pytest.mark.parametrize("name", few(sorted({*ACCURATE} & {*FAMILIES})))
def test_the_gradient_of_a_stiff_solve_agrees_with_differences(name):
    """Of a chemistry over 40 units of time, by its rates and its start."""
    size = jnp.array([1.0, 1e5, 1.0])

    def loss(p):
        rates = p["rates"] * jnp.array(ROBERTSON_RATES)
        sol = jo.solve(
            robertson, p["y"], (0.0, 40.0), rates, solver=name, rtol=tight, atol=tight * 1e-4,
            max_steps=20_000,
        )  # fmt: skip
        return weighted(size * sol.y1)

    tight = 1e-8 if SOLVERS[name]().order < 4 else 1e-10
    p = {"y": jnp.array([1.0, 0.0, 0.0]) + jnp.array([0.0, 1e-5, 0.1]), "rates": jnp.ones(3)}
    tolerance = 1e-4 if SOLVERS[name]().order < 4 else 1e-6
    got = jax.jit(jax.grad(loss))(p)
    assert_close(got["rates"], central(lambda r: loss(p | {"rates": r}), p["rates"]), tolerance)


# By number: what the field does, the first component at the start, the smallest step, the status.
TROUBLES = {
    "diverges": (0, 1e-3, 0.3, jo.Status.NOT_CONVERGED),
    "no Jacobian": (1, 0.0, 1e-200, jo.Status.BAD_JACOBIAN),
    "no field": (2, 1.0, 1e-200, jo.Status.NOT_FINITE),
}


def in_trouble(t, y, case):
    """Far from linear, then without a Jacobian at zero, then without a value after a while."""
    steep = -jnp.sign(y) * jnp.abs(y) ** 0.2 * 1e4
    return jax.lax.select_n(case, steep, jnp.cbrt(y), jnp.where(t > 0.5, jnp.nan, -y))


@pytest.mark.parametrize("name", few(NAMES, "kvaerno5", "gauss_legendre4", "bdf"))
def test_a_step_that_cannot_be_made_says_why(name):
    """By steps of one size where it diverges, and by adaptive ones in all cases."""

    def check(case, **options):
        number, start, _, status = TROUBLES[case]
        y0 = jnp.array([start, 1.0])
        sol = jo.solve(
            in_trouble, y0, (0.0, 2.0), jnp.int32(number), solver=name, throw=False, **options
        )
        assert jo.Status(int(sol.status)) == status
        assert np.all(np.isnan(sol.y1))

    check("diverges", controller=jo.Fixed(1.0))
    for case, (_, _, smallest, _) in TROUBLES.items():
        if name in ADAPTIVE:
            check(case, controller=jo.PID(dtmin=smallest), dt=0.5)
        elif case != "diverges":
            check(case, controller=jo.Fixed(0.2))


@pytest.mark.parametrize(("name", "product"), [("trapezoid", 2.0), ("kencarp4", 4.0)])
def test_a_singular_matrix_is_said_to_be_one(name, product):
    """At a product of step and eigenvalue that makes it so to the bit."""
    sol = jo.solve(
        lambda t, y, args: 2 * product * y, jnp.ones(2), (0.0, 2.0), solver=name,
        controller=jo.Fixed(0.5), throw=False,
    )  # fmt: skip
    assert sol.status == jo.Status.SINGULAR
    assert np.all(np.isnan(sol.y1))


@pytest.mark.parametrize("name", few(["kvaerno5", "radau_iia5"], "kvaerno5"))
def test_a_lane_in_trouble_leaves_the_others_alone(name):
    """One has no Jacobian, one no field after a while."""

    def f(t, y, k):
        return jnp.where(t > k, jnp.nan, -jnp.cbrt(y) * 3)

    y0, k = jnp.array([[9.0], [0.0], [8.0], [7.0]]), jnp.array([9.0, 9.0, 9.0, 0.05])
    options: dict[str, Any] = {"solver": name, "rtol": 1e-6}

    def batch(y0, k):
        axes = {"in_axes": (0, None, 0), "lanes": 3}
        return outcome(jo.solve_batch(f, y0, (0.0, 0.1), k, **axes, **options))

    def single(y0, k):
        return outcome(jo.solve(f, y0, (0.0, 0.1), k, throw=False, **options))

    expected = one_by_one(single, 0, y0, k)
    assert list(expected[2]) == [0, jo.Status.BAD_JACOBIAN, 0, jo.Status.NOT_FINITE]
    assert_same(in_tile(False, batch, y0, k)(y0, k), expected, 1e-6, counts=4)


@pytest.mark.parametrize("name", few(["trbdf2", "kvaerno5", "kencarp4"], "kencarp4"))
def test_newtons_iteration_stops_at_a_hundredth_of_the_tolerance(name):
    """The first step, beside one that iterates to rounding, as prescribed steps do."""
    options: dict[str, Any] = {"args": jnp.array([1.0, 50.0]), "solver": name}
    for rtol in (1e-3, 1e-6):
        run = jo.solve(
            bent, jnp.ones(3), (0.0, 0.06), **options, rtol=rtol, atol=rtol, dt=0.05,
            save="steps", max_steps=200,
        )  # fmt: skip
        h = float(run.ts[1])
        exact = jo.solve(bent, jnp.ones(3), (0.0, h), **options, controller=jo.Fixed(h)).y1
        error = np.max(np.abs(run.ys[1] - exact) / (rtol * (1 + np.abs(exact))))
        assert error < 0.02, (rtol, error)  # a hundredth from each of a few stages


def test_fewer_evaluations_where_the_tolerance_is_loose():
    counts = []
    for rtol in (1e-3, 1e-9):
        sol = jo.solve(bent, jnp.ones(3), (0.0, 2.0), jnp.array([1.0, 50.0]), solver="kvaerno5",
                       rtol=rtol, atol=rtol)  # fmt: skip
        counts.append(sol.stats.num_evaluations / sol.stats.num_steps)
    assert 7 <= counts[0] < 20
    assert 7 <= counts[1] < 20


def stiff_part(t, y, k):
    return k["rate"] * (jnp.cos(t) - y)


def other_part(t, y, k):
    return k["push"] * jnp.stack([y[1], -jnp.sin(y[0])])


ARGS = {"rate": jnp.array([50.0, 3.0]), "push": jnp.array(1.5)}
TIGHT: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-13}
SPLIT: dict[str, Any] = {"solver": "kencarp4", "rtol": 1e-9, "atol": 1e-9, "max_steps": 50_000}


def test_a_field_in_two_parts_is_their_sum():
    y0, ts = jnp.array([1.0, 0.3]), jnp.linspace(0.0, 3.0, 101)
    split = jo.solve((stiff_part, other_part), y0, ts, ARGS, **SPLIT)
    whole = jo.solve(
        lambda t, y, k: stiff_part(t, y, k) + other_part(t, y, k), y0, ts, ARGS, solver="kvaerno5",
        rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    np.testing.assert_allclose(split.ys, whole.ys, atol=1e-7)


def test_the_order_of_a_solve_in_two_parts():
    y0, errors = jnp.array([1.0, 0.3]), []
    args = ARGS | {"rate": jnp.array([3.0, 1.0])}
    inside = jnp.linspace(0.0, 2.0, 101)
    exact = jo.solve((stiff_part, other_part), y0, inside, args,
                     **(SPLIT | TIGHT))  # fmt: skip
    steps = (48, 64, 96)
    for number in steps:
        sol = jo.solve((stiff_part, other_part), y0, inside, args, solver="kencarp4",
                       controller=jo.Fixed(2.0 / number))  # fmt: skip
        errors.append((np.max(np.abs(sol.y1 - exact.y1)), np.max(np.abs(sol.ys - exact.ys))))
    for column in zip(*errors, strict=True):
        slope = -np.polyfit(np.log(steps), np.log(column), 1)[0]
        assert abs(slope - 4) < 0.3


def test_gradients_flow_to_both_parts():
    ts = jnp.array([0.0, 0.4, 1.1])

    def loss(p):
        def other(t, y, args):
            return p["shift"] + other_part(t, y, args)

        sol = jo.solve((stiff_part, other), p["y"], ts, p["args"], solver="kencarp4",
                       controller=jo.Fixed(0.17))  # fmt: skip
        return weighted(sol.ys)

    p = {"y": jnp.array([1.0, 0.3]), "args": ARGS, "shift": jnp.array([0.3, -0.4])}
    assert_close(jax.jit(jax.grad(loss))(p), central(loss, p), 1e-8)


STARTS = jax.random.normal(jax.random.key(0), (5, 2))
STIFFNESSES = jnp.array([0.5, 3.0, 10.0, 100.0, 1.0])
PARTS = stiff_part, other_part


@functools.cache
def single_solves_in_two_parts():
    """Gradients and outcomes."""

    def single(y0, rate, weights):
        def loss(rate):
            args = {"rate": rate, "push": 1.5}
            sol = jo.solve(PARTS, y0, (0.0, 1.0), args, throw=False, **SPLIT)
            return jnp.sum(weights * (sol.y1**2 + 0.3 * sol.y1)), outcome(sol)

        return jax.grad(loss, has_aux=True)(rate)

    weights = jnp.sin(1.0 + jnp.arange(10)).reshape(5, 2)
    return one_by_one(single, 0, STARTS, STIFFNESSES, weights)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_a_batch_in_two_parts_equals_its_single_solves(wide):
    def batch(y0, rates):
        def loss(rates):
            axes = {"in_axes": (0, None, {"rate": 0, "push": None}), "lanes": 3}
            args = {"rate": rates, "push": 1.5}
            sols = jo.solve_batch(PARTS, y0, (0.0, 1.0), args, **axes, **SPLIT)
            return weighted(sols.y1), outcome(sols)

        return jax.grad(loss, has_aux=True)(rates)

    expected = single_solves_in_two_parts()
    got = in_tile(wide, batch, STARTS, STIFFNESSES)(STARTS, STIFFNESSES)
    assert_same(got[1], expected[1], SPLIT["rtol"], counts=4)
    np.testing.assert_allclose(got[0], expected[0], rtol=10 * SPLIT["rtol"])


def test_a_field_in_two_parts_is_refused_by_name():
    y0 = jnp.array([1.0, 0.3])
    for solve in (jo.solve, jo.solve_batch):
        with pytest.raises(jo.OptionError, match=r"two parts .* or 'kencarp4' or"):
            solve((stiff_part, other_part), y0[None], (0.0, 1.0), ARGS)
    with pytest.raises(jo.FieldError, match=r"pair .* got 3 parts"):
        jo.solve((stiff_part, other_part, other_part), y0, (0.0, 1.0), ARGS)  # type: ignore
    with pytest.raises(jo.FieldError, match="must be callable"):
        jo.solve((stiff_part, 3.0), y0, (0.0, 1.0), ARGS, solver="kencarp4")  # type: ignore


def test_a_mass_matrix_is_refused_by_those_with_an_explicit_stage():
    with pytest.raises(jo.OptionError, match="Kvaerno5 has an explicit first stage"):
        dataclasses.replace(jo.Kvaerno5(), mass=jnp.eye(2))
