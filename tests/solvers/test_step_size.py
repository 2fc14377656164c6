"""Step-size control: what each knob of a controller does to the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.problems import arenstorf, brusselator
from tests.support.sweeps import few

Y0 = jnp.array([1.5, 3.0])
ORBIT = jnp.array([0.994, 0.0, 0.0, -2.0015851063790824])


def steps_of(field=brusselator, y0=Y0, t1=10.0, **options):
    """The solution, and the sizes of its accepted steps."""
    sol = jo.solve(field, y0, (0.0, t1), save="steps", **options)
    return sol, np.diff(sol.ts[: int(sol.stats.num_accepted) + 1])


@pytest.mark.parametrize("controller", [jo.I(), jo.PI(), jo.PID(0.3, 0.3, 0.01), jo.PID()])
@pytest.mark.parametrize("name", few(["bosh3", "tsit5", "dopri8"], "tsit5"))
def test_every_controller_reaches_the_same_answer(controller, name):
    options = {"solver": name, "rtol": 1e-8, "atol": 1e-8, "max_steps": 20_000}
    sol = jo.solve(brusselator, Y0, (0.0, 20.0), controller=controller, **options)
    np.testing.assert_allclose(sol.y1, [0.49863707126834783, 4.596780349452011], rtol=1e-6)


@pytest.mark.parametrize(
    ("controller", "coefficients"),
    [
        (jo.I(safety=0.5), (0.0, 1.0, 0.0)),
        (jo.PI(safety=0.5), (0.4, 0.3, 0.0)),
        (jo.PID(0.2, 0.4, 0.1, safety=0.5), (0.2, 0.4, 0.1)),
    ],
)
def test_steps_follow_the_formula_of_the_controller(controller, coefficients):
    """The error of Heun's rule with Euler's for y' = g(t) is half of h (g(t + h) - g(t))."""

    def g(t):
        return np.exp(2 * np.sin(5 * t)) + 45 * t

    sol, sizes = steps_of(
        lambda t, y, args: jnp.exp(2 * jnp.sin(5 * t)) + 45 * t + 0 * y, jnp.zeros(1), 6.0,
        controller=controller, solver="heun_euler", rtol=0.0, atol=0.3, dt=0.05,
    )  # fmt: skip
    assert sol.stats.num_rejected == 0 and len(sizes) > 40
    ts = np.cumsum(sizes) - sizes
    errors = sizes / 2 * (g(ts + sizes) - g(ts)) / 0.3
    now, before, earlier = errors[2:], errors[1:-1], errors[:-2]
    p, i, d = coefficients
    power = now ** -(p + i + d) * before ** (p + 2 * d) * earlier**-d
    # Within two percent: roots and powers are taken approximately. The last step is cut.
    np.testing.assert_allclose(sizes[3:-1] / sizes[2:-2], 0.5 * power[:-2] ** 0.5, rtol=0.02)
    assert np.max(now) > 2 * np.min(now[:-1])


def test_proportional_control_rejects_less_where_steps_change_fast():
    options = {"field": arenstorf, "y0": ORBIT, "t1": 17.0, "rtol": 1e-7, "atol": 1e-7}
    elementary = steps_of(controller=jo.I(), **options)[0].stats
    proportional = steps_of(controller=jo.PI(), **options)[0].stats
    assert proportional.num_rejected < elementary.num_rejected


def test_factors_bound_the_change_from_step_to_step():
    controller = jo.PID(factor_min=0.8, factor_max=1.25)
    _, sizes = steps_of(controller=controller, dt=1e-4)
    growth = sizes[1:-1] / sizes[:-2]
    assert np.max(growth) <= 1.25 * (1 + 1e-6)
    assert np.max(growth) > 1.24


def test_safety_makes_steps_smaller():
    careful = steps_of(controller=jo.PID(safety=0.5))[0].stats
    bold = steps_of(controller=jo.PID(safety=0.95))[0].stats
    assert careful.num_accepted > 1.2 * bold.num_accepted
    assert careful.num_rejected <= bold.num_rejected


def test_dtmax_is_never_passed_and_is_reached():
    _, sizes = steps_of(controller=jo.PID(dtmax=0.07), rtol=1e-2, atol=1e-2)
    assert np.max(sizes) <= 0.07 * (1 + 1e-12)
    assert np.median(sizes) == pytest.approx(0.07)


def test_dtmin_ends_a_solve_that_asks_for_less():
    options = {"rtol": 1e-10, "atol": 1e-10, "throw": False}
    sol, sizes = steps_of(controller=jo.PID(dtmin=0.01), **options)
    assert sol.status == jo.Status.STEP_UNDERFLOW
    assert np.all(sizes >= 0.01 * (1 - 1e-12))
    assert steps_of(controller=jo.PID(dtmin=1e-6), **options)[0].success


def test_first_step_is_what_dt_says():
    _, sizes = steps_of(dt=1e-3)
    assert sizes[0] == pytest.approx(1e-3)


def test_first_step_longer_than_the_span_is_cut():
    sol, sizes = steps_of(t1=0.01, dt=50.0)
    assert sol.success
    assert np.sum(sizes) == pytest.approx(0.01)


def test_chosen_first_step_costs_few_steps_at_any_scale_of_time():
    def field(t, y, scale):
        return brusselator(t, y, None) / scale

    def solved(scale):
        return jo.solve(field, Y0, (0.0, 10.0 * scale), scale)

    same = solved(1.0)
    for scale in (1e-6, 1e6):
        sol = solved(scale)
        assert abs(int(sol.stats.num_steps) - int(same.stats.num_steps)) <= 10
        np.testing.assert_allclose(sol.y1, same.y1, rtol=1e-3)


def test_norms_by_name_and_by_function_agree():
    def largest(x):
        return jnp.max(jnp.abs(x))

    named = steps_of(controller=jo.PID(norm="max"))[1]
    given = steps_of(controller=jo.PID(norm=largest))[1]
    np.testing.assert_allclose(named, given, rtol=1e-12)
    assert len(steps_of(controller=jo.PID(norm="rms"))[1]) < len(named)


def test_norm_that_sees_one_component():
    """A norm blind to the fast component takes the steps of the slow one."""

    def field(t, y, args):
        return jnp.stack([-y[0], jnp.cos(40.0 * t)])

    blind = jo.PID(norm=lambda x: jnp.abs(x[0]))
    few = steps_of(field=field, controller=blind)[0].stats.num_steps
    assert few < 0.3 * steps_of(field=field)[0].stats.num_steps


def test_absolute_tolerance_of_each_component():
    y0 = {"slow": jnp.array([1.0]), "fast": (jnp.array([0.0, 0.0]),)}

    def field(t, y, args):
        return {"slow": -y["slow"], "fast": (jnp.cos(40.0 * t) * jnp.ones(2),)}

    def count(atol):
        return int(jo.solve(field, y0, (0.0, 5.0), rtol=0.0, atol=atol).stats.num_steps)

    tight = count({"slow": 1e-6, "fast": (jnp.array([1e-6, 1e-6]),)})
    loose = count({"slow": 1e-6, "fast": (jnp.array([1e3, 1e3]),)})
    assert tight == count(1e-6)
    assert loose < 0.3 * tight


def test_relative_tolerance_of_each_component():
    def field(t, y, args):
        return jnp.stack([-y[0], y[1] * jnp.cos(40.0 * t)])

    def count(rtol):
        return steps_of(field=field, rtol=rtol, atol=1e-9)[0].stats.num_steps

    assert count(jnp.array([1e-6, 1e3])) < 0.5 * count(1e-6)


def test_tighter_tolerances_take_more_steps():
    counts = [steps_of(rtol=10.0**-k, atol=10.0**-k)[0].stats.num_steps for k in (3, 5, 7, 9)]
    assert counts == sorted(counts)
    assert counts[-1] > 3 * counts[0]


def test_steps_do_not_depend_on_the_times_that_are_saved():
    few = jo.solve(brusselator, Y0, (0.0, 10.0)).stats
    many = jo.solve(brusselator, Y0, jnp.linspace(0.0, 10.0, 501)).stats
    assert few.num_steps == many.num_steps


def test_controllers_are_pytrees_whose_step_is_traced():
    traces = []

    @jax.jit
    def run(controller):
        traces.append(controller)
        return jo.solve(brusselator, Y0, (0.0, 1.0), controller=controller)

    for size in (0.1, 0.05):
        assert run(jo.Fixed(size)).stats.num_steps == round(1 / size)
    assert len(traces) == 1


@pytest.mark.parametrize("solver", few(["rosenbrock23", "kvaerno5", "bdf"], "kvaerno5"))
def test_a_bound_of_the_step_keeps_the_gains_of_the_solver(solver):
    options = {"solver": solver, "rtol": 1e-5, "atol": 1e-7}
    own = jo.solve(brusselator, Y0, (0.0, 20.0), **options).stats
    bounded = jo.solve(brusselator, Y0, (0.0, 20.0), controller=jo.PID(dtmax=1e3), **options).stats
    assert bounded.num_steps == own.num_steps
    assert bounded.num_rejected == own.num_rejected
    elementary = jo.PID(0.0, 1.0, 0.0, dtmax=1e3)
    given = jo.solve(brusselator, Y0, (0.0, 20.0), controller=elementary, **options).stats
    assert given.num_steps != own.num_steps or solver == "bdf"
