"""The continuous adjoint by each of its methods, against the discrete gradient and exact flows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.batches import in_tile
from tests.support.differences import assert_close, gradient_and_differences, weighted
from tests.support.pendulum import pendulum, read_out
from tests.support.registry import ADAPTIVE, FAMILIES, NAMES, linear, step_of
from tests.support.sweeps import few

METHODS = ["quadrature", "backsolve", "interpolate"]
TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12, "max_steps": 512}
OWN_TS = jnp.array([[0.0, 0.4, 0.4, 1.0], [1.2, 0.9, 0.5, 0.2], [0.3] * 4, [0.0, 0.5, 1.0, 3.0]])


def point(many):
    k = jnp.linspace(1.0, 3.0, 4) if many else jnp.array(2.0)
    start = jnp.array([0.7, -0.3])
    return {
        "y0": start + 0.2 * jnp.arange(8.0).reshape(4, 2) if many else start,
        "args": {"k": k, "speed": jnp.array([1.1, 0.9]), "unused": jnp.ones(3)},
        "pull": jnp.array(0.3),
        "ts": OWN_TS if many else OWN_TS[0],
    }


def loss(p, sensitivity, many, save: Any = "ts"):
    """Of states and the end, by a closure, own and shared arguments, times and starts."""

    def f(t, y, args):
        return pendulum(t, y, args) - p["pull"] * y

    options: dict[str, Any] = {"save": save, "sensitivity": sensitivity, **TIGHT}
    if many:
        axes = (0, 0, {"k": 0, "speed": None, "unused": None})
        sol = jo.solve_batch(f, p["y0"], p["ts"], p["args"], in_axes=axes, lanes=3, **options)
    else:
        sol = jo.solve(f, p["y0"], p["ts"], p["args"], **options)
    return weighted((sol.ys, 2 * sol.y1))


@functools.cache
def discrete(many, save: Any = "ts"):
    return jax.jit(jax.grad(lambda p: loss(p, "discrete", many, save)))(point(many))


def assert_discrete(gradient, many, save: Any = "ts"):
    expected = discrete(many, save)
    for result in (gradient, expected):
        np.testing.assert_array_equal(result["args"]["unused"], 0)
    assert_close(compared(gradient), compared(expected), 1e-6)


def compared(gradient):
    """Without what is zero, and the times that are all one, which cannot move by themselves."""
    args = {name: x for name, x in gradient["args"].items() if name != "unused"}
    ts = gradient["ts"] if gradient["ts"].ndim == 1 else jnp.delete(gradient["ts"], 2, 0)
    return gradient | {"args": args, "ts": ts}


SENSITIVITIES = {
    **{name: jo.Continuous(name) for name in METHODS},
    "plain": jo.Continuous("backsolve", seminorm=False),
    "another solver": jo.Continuous(solver="dopri8", rtol=1e-9, atol=1e-11),
}


# The three methods of single solves are fast in test_modes_agree.
@pytest.mark.parametrize(
    "sensitivity",
    [
        pytest.param(sensitivity, marks=() if sensitivity == "plain" else pytest.mark.slow)
        for sensitivity in SENSITIVITIES
    ],
)
def test_agrees_with_the_discrete_gradient_at_tight_tolerances(sensitivity):
    gradient = jax.jit(jax.grad(lambda p: loss(p, SENSITIVITIES[sensitivity], False)))(point(False))
    assert_discrete(gradient, False)


@pytest.mark.slow
def test_parameters_that_do_not_matter_do_not_loosen_the_plain_norm():
    """Each array has a norm of its own: a thousand zeros beside it change no step."""

    def gradient(size):
        def value(p):
            def field(t, y, p):
                return -p["k"] * jnp.sin(3 * y) + jnp.sum(p["idle"]) * 0

            options = {"rtol": 1e-4, "atol": 1e-8, "sensitivity": SENSITIVITIES["plain"]}
            return jnp.sum(jo.solve(field, jnp.array([0.4, 1.0]), (0.0, 2.0), p, **options).y1 ** 2)

        return jax.jit(jax.grad(value))({"k": jnp.array(1.3), "idle": jnp.zeros(size)})["k"]

    np.testing.assert_allclose(gradient(1000), gradient(1), rtol=1e-13)


@pytest.mark.slow
def test_a_saved_function_with_an_interpolated_forward_solution():
    sensitivity = jo.Continuous("interpolate", solver=jo.Vern7())
    gradient = jax.jit(jax.grad(lambda p: loss(p, sensitivity, False, read_out)))(point(False))
    assert_discrete(gradient, False, read_out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wide"),
    [
        pytest.param("quadrature", True, marks=pytest.mark.slow),
        pytest.param("backsolve", False, marks=pytest.mark.slow),
        ("interpolate", False),
    ],
)
def test_batches_of_odd_times_agree_with_the_discrete_gradient(name, wide):
    """Their own times, in both directions, and one that has no time to cross."""
    p = point(True)
    run = in_tile(wide, jax.grad(lambda p: loss(p, jo.Continuous(name), True)), p)
    assert_discrete(run(p), True)


# Of low order, or with an error estimate that is.
ROUGH = {"euler": 0.06, "semi_implicit_euler": 0.06, "implicit_euler": 0.02}
# One solver of each family: explicit, implicit, multistep, splitting, and switching.
FAST = ("bosh3", "kvaerno3", "semi_implicit_euler", "auto")


@pytest.mark.parametrize("name", few(dict.fromkeys([*FAMILIES, *FAST]), *FAST))
def test_every_solver_by_one_of_the_methods(name):
    """Against the flow of a linear field."""
    field, flow = linear(name)
    method = METHODS[NAMES.index(name) % 3]
    ts, y0, rate = jnp.array([0.0, 0.3, 1.0]), jnp.array([0.7, -0.4]), jnp.array(1.3)

    def value(y0, rate):
        sol = jo.solve(
            field, y0, ts, rate, solver=name, sensitivity=jo.Continuous(method),
            rtol=1e-5, atol=1e-8, **step_of(name, 0.02),
        )  # fmt: skip
        return weighted(sol.ys)

    exact = jax.grad(lambda y0, rate: weighted(flow(ts, y0, rate)), (0, 1))(y0, rate)
    order = SOLVERS[name]().order
    tolerance = ROUGH.get(name, 2e-3 if name in ADAPTIVE or order < 4 else 1e-5)
    assert_close(jax.jit(jax.grad(value, (0, 1)))(y0, rate), exact, tolerance)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "backsolve" else pytest.mark.slow) for n in METHODS]
)
def test_complex_states(name):
    def value(p):
        sol = jo.solve(
            lambda t, y, k: k * y + 0.1 * y**2 * jnp.cos(t),
            (p["y"][0] + 1j * p["y"][1])[None],
            (0.0, 0.4, 1.0),
            p["k"][0] + 1j * p["k"][1],
            sensitivity=jo.Continuous(name),
            **TIGHT,
        )
        return weighted(sol.ys)

    p = {"y": jnp.array([0.5, 0.2]), "k": jnp.array([-0.2, 1.5])}
    assert_close(*gradient_and_differences(value, p), 1e-6)


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("stormer_verlet", {"dt": 1e-3}),
        pytest.param(
            "rk4", {"controller": jo.Grid(np.linspace(0.0, 1.0, 101))}, marks=pytest.mark.slow
        ),
        pytest.param(
            "implicit_midpoint",
            {"controller": jo.Grid(np.linspace(0.0, 1.0, 801))},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_solver_integrates_backwards(solver, options):
    """Where the solver of the solve cannot: splitting solvers, and grids."""
    field, flow = linear("stormer_verlet")
    ts, y0, rate = np.array([0.0, 0.3, 1.0]), jnp.array([0.7, -0.4]), jnp.array(1.3)
    sensitivity = jo.Continuous("backsolve", rtol=1e-7)

    def value(y0, rate):
        sol = jo.solve(field, y0, ts, rate, solver=solver, sensitivity=sensitivity, **options)
        return weighted(sol.ys)

    exact = jax.grad(lambda y0, rate: weighted(flow(ts, y0, rate)), (0, 1))(y0, rate)
    assert_close(jax.jit(jax.grad(value, (0, 1)))(y0, rate), exact, 1e-5)


def test_many_segments_are_recomputed():
    """Of more steps than a segment has, forwards and backwards in time."""

    def value(p, sensitivity, sign):
        def field(t, y, args):
            return args * jnp.stack([y[1], -jnp.sin(y[0]) - 0.1 * y[1]])

        ts = sign * jnp.array([0.0, 1.0, 7.0])
        options: dict[str, Any] = {"controller": jo.Fixed(0.01), "max_steps": 1000, "solver": "rk4"}
        return weighted(jo.solve(field, p["y0"], ts, p["k"], sensitivity=sensitivity, **options).ys)

    p = {"y0": jnp.array([0.5, 1.0]), "k": jnp.array(1.3)}
    run = jax.jit(jax.grad(value), static_argnums=1)
    for sign in (1.0, -1.0):
        found = run(p, jo.Continuous("interpolate"), sign)
        assert_close(found, run(p, jo.Discrete(), sign), 1e-7)


BAD = {
    "misspelt": (lambda: jo.Continuous("quadratur"), jo.OptionError, "did you mean 'quadrature'"),
    "no name": (lambda: jo.Continuous(3), jo.OptionError, "no method of jo.Continuous called '3'"),  # pyright: ignore
    "solver": (lambda: jo.Continuous(solver="tsti5"), jo.OptionError, "did you mean 'tsit5'"),
    "class": (lambda: jo.Continuous(solver=jo.Tsit5), jo.OptionError, r"write Tsit5\(\)"),  # pyright: ignore
    "rtol": (lambda: jo.Continuous(rtol=0.0), jo.ToleranceError, "rtol of jo.Continuous.*got 0.0"),
    "atol": (lambda: jo.Continuous(atol="a"), jo.ToleranceError, "atol of jo.Continuous.*'a'"),  # pyright: ignore
    "nan": (lambda: jo.Continuous(rtol=np.nan), jo.ToleranceError, "positive number, got nan"),
    "seminorm": (lambda: jo.Continuous(seminorm=1), jo.OptionError, "True or False, got 1"),  # pyright: ignore
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused_at_once(case):
    make, error, words = BAD[case]
    with pytest.raises(error, match=words):
        make()


DOES_NOT_FIT = {
    "pairs back": (jo.Continuous(solver="yoshida4"), {}, "no pair, so Yoshida4 cannot"),
    "fixed steps back": (jo.Continuous(solver="rk4"), {}, "RK4 takes fixed steps"),
    "bands and parameters": (
        jo.Continuous("backsolve"),
        {"solver": jo.Rodas5P(linear_solver=jo.Banded(1, 1))},
        r'"backsolve".*Banded\(lower=1, upper=1\).*method="quadrature"',
    ),
    "algebraic equations": (
        jo.Continuous(solver="tsit5"),
        {"solver": jo.Rodas5P(mass=np.diag([1.0, 0.0]))},
        "Tsit5 takes no mass matrix",
    ),
    "mass twice": (
        jo.Continuous(solver=jo.Rodas5P(mass=np.eye(2))),
        {},
        "that of the forward solve",
    ),
}


@pytest.mark.parametrize("case", DOES_NOT_FIT)
def test_what_does_not_fit_the_solve_is_refused_by_name(case):
    sensitivity, options, words = DOES_NOT_FIT[case]
    with pytest.raises(jo.OptionError, match=words):
        jo.solve(lambda t, y, args: -y, jnp.ones(2), (0.0, 1.0), sensitivity=sensitivity, **options)


@pytest.mark.parametrize("case", ["smaller steps", "own norm", "fixed steps", "for an euler solve"])
def test_the_backward_solve_has_a_controller_of_its_own(case):
    def field(t, y, a):
        return jnp.stack([y[1], -a * jnp.sin(y[0])])

    seen = []

    def norm(x):
        seen.append(x.shape)
        return jnp.max(jnp.abs(x))

    controller = {
        "smaller steps": jo.PID(dtmax=0.05),
        "own norm": jo.PID(norm=norm),
        "fixed steps": jo.Fixed(0.02),
        "for an euler solve": jo.PID(),
    }[case]
    forward = {"solver": "euler", "dt": 1e-3} if case == "for an euler solve" else {}
    options = {"rtol": 1e-6, "atol": 1e-6, "max_steps": 2000, **forward}
    way = jo.Continuous(controller=controller)

    def loss(a, sensitivity):
        y0 = jnp.array([0.5, 0.1])
        return jnp.sum(jo.solve(field, y0, (0.0, 2.0), a, sensitivity=sensitivity, **options).y1)

    a = jnp.asarray(1.3)
    got = jax.jit(jax.grad(lambda a: loss(a, way)))(a)
    expected = jax.jit(jax.grad(lambda a: loss(a, "discrete")))(a)
    np.testing.assert_allclose(got, expected, rtol=1e-2 if forward else 1e-4)
    assert bool(seen) == (case == "own norm") and set(seen) <= {(2,)}


def test_a_controller_of_the_backward_solve_that_does_not_fit():
    with pytest.raises(jo.OptionError, match=r"controller of jo\.Continuous must be jo\.PID"):
        jo.Continuous(controller=jo.Grid([0.0, 1.0]))  # pyright: ignore
    way = jo.Continuous(solver="rk4", controller=jo.PID())
    with pytest.raises(jo.OptionError, match="RK4 has no error estimate for the controller"):
        jo.solve(lambda t, y, a: -y, 1.0, (0.0, 1.0), sensitivity=way)


@pytest.mark.parametrize("method", few(METHODS, "quadrature"))
def test_the_cost_of_the_backward_solve_is_reported(method):
    reports: list[jo.BackwardStats] = []
    way = jo.Continuous(method, report=reports.append)
    starts = jnp.array([[1.0], [2.0]])

    def loss(y0, solve):
        return solve(lambda t, y: -t * y, y0, jnp.linspace(0.0, 2.0, 5), sensitivity=way).ys.sum()

    jax.block_until_ready(jax.grad(loss)(starts[0], jo.solve))
    jax.effects_barrier()
    (one,) = reports
    # Tsit5: a slope and a choice of the size at the start, and at each of three jumps one.
    assert one.num_evaluations == 6 * one.num_steps + 2 + 3
    assert one.num_steps >= 4
    jax.block_until_ready(jax.grad(loss)(starts, jo.solve_batch))
    jax.effects_barrier()
    np.testing.assert_array_equal(reports[1].num_steps[0], one.num_steps)
    np.testing.assert_array_equal(reports[1].num_evaluations[0], one.num_evaluations)
