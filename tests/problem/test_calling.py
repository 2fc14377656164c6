"""How a problem may be written: arguments and slopes of functions, integer and empty states."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of
from tests.support.differences import central, weighted

Y0 = jnp.array([1.0, 0.5])
TS = jnp.array([0.0, 0.3, 1.0])


class Decay(eqx.Module):
    rate: jax.Array

    def __call__(self, t, y):
        return -self.rate * y

    def slope(self, t, y):
        return self(t, y)


def with_default(t, y: Any = None):
    return -2.0 * y


def three(t, y, args):
    return -2.0 * y


def keyword(t, y, *, rate):
    return -rate * y


WITHOUT_ARGS = {
    "a function": lambda t, y: -2.0 * y,
    "a default": with_default,
    "a module": Decay(jnp.array(2.0)),
    "a method": Decay(jnp.array(2.0)).slope,
    "a partial": functools.partial(keyword, rate=2.0),
    "a wrapped function": jax.jit(lambda t, y: -2.0 * y),
}


@pytest.mark.parametrize("case", WITHOUT_ARGS)
def test_a_field_without_args(case):
    expected = jo.solve(three, Y0, TS)
    np.testing.assert_allclose(jo.solve(WITHOUT_ARGS[case], Y0, TS).ys, expected.ys, rtol=1e-12)


def test_a_default_stands_for_args_that_are_not_given():
    for rate in (1.0, 2.0):
        f = lambda t, y, rate=rate: -rate * y  # noqa: E731
        sol = jo.solve(f, 1.0, (0.0, 1.0), save=lambda t, y, scale=3.0: scale * y)
        np.testing.assert_allclose(sol.ys[-1], 3 * np.exp(-rate), rtol=1e-3)


def test_a_default_of_the_field_of_a_model():
    x1 = jo.NeuralODE(lambda t, y, rate=2.0: -rate * y)(jnp.ones(2))
    np.testing.assert_allclose(x1, np.exp(-2.0), rtol=1e-3)


@pytest.mark.parametrize("f", [lambda t, y, p=3.0: p * y, lambda t, *rest: rest[1] * rest[0]])
def test_what_can_take_args_gets_them(f):
    np.testing.assert_allclose(jo.solve(f, 1.0, (0.0, 1.0), -1.0).y1, np.exp(-1.0), rtol=1e-3)


def functions(args: bool, origin: float) -> Any:
    """A problem all of whose functions take `args`, or do not."""

    def takes(f):
        return (lambda t, y, args: f(t, y)) if args else f

    event = jo.Event(takes(lambda t, y: y[0] - 0.6), apply=takes(lambda t, y: y + 0.25))
    dose = jo.Jumps([origin + 0.8], takes(lambda t, y: 2 * y))
    jacobian: Any = takes(lambda t, y: [[-1.0 * y[1], -1.0 * y[0]], [0.0, -1.0]])
    solver = jo.Rodas5P(jac=jacobian)
    return {
        "f": takes(lambda t, y: jnp.stack([-y[0] * y[1], -y[1]])),
        "solver": solver,
        "events": event,
        "jumps": dose,
        "save": takes(lambda t, y: 2 * y[0]),
    }


@pytest.mark.parametrize("origin", [0.0, 1.7e9])
def test_no_function_needs_args(origin):
    with jax.enable_x64(origin == 0.0):
        y0, ts = np.ones(2), origin + np.array([0.0, 0.4, 1.5])
        two, full = (
            jo.solve(y0=np.asarray(y0, np.float32), ts=ts, max_steps=256, **functions(args, origin))
            for args in (False, True)
        )
    assert two.events is not None and full.events is not None
    assert int(two.events.count) == 1
    for one, other in ((two.ys, full.ys), (two.y1, full.y1), (two.events.ts, full.events.ts)):
        np.testing.assert_array_equal(one, other)


def test_batches_and_steady_states_without_args():
    f = Decay(jnp.array(2.0))
    sols = jo.solve_batch(f, jnp.stack([Y0, 2 * Y0]), TS, save=lambda t, y: y[0])
    np.testing.assert_allclose(sols.ys[1], 2 * sols.ys[0], rtol=1e-5)
    gradient = jax.grad(lambda f: jo.solve(f, Y0, TS).y1.sum())(f)
    np.testing.assert_allclose(gradient.rate, -1.5 * np.exp(-2.0), rtol=1e-3)
    np.testing.assert_allclose(jo.steady_state(lambda t, y: 3.0 - y, 1.0).y, 3.0)


def test_a_field_without_args_is_compiled_once():
    def call(rate):
        return jo.solve(lambda t, y: -rate * y, Y0, TS).ys

    first, second = jnp.array(1.0), jnp.array(2.0)
    call(first)
    assert compilations_of(call, second) == 0


class Pair(NamedTuple):
    x: jax.Array
    v: jax.Array


FALL = {  # of a state (height, speed) from (10, 0)
    "a constant": (lambda t, y: (y[1], jnp.array(-9.8)), tuple),
    "a number": (lambda t, y: (y[1], -9.8), tuple),
    "an integer": (lambda t, y: (y[1] - 0.8 * t, -9), tuple),
    "a list for a tuple": (lambda t, y: [y[1], -9.8], tuple),
    "a tuple for a list": (lambda t, y: (y[1], -9.8), list),
    "a dict": (lambda t, y: {"v": -9.8, "h": y["v"]}, lambda hv: dict(zip("hv", hv, strict=True))),
    "a named tuple": (lambda t, y: Pair(y.v, jnp.full((), -9.8)), lambda xv: Pair(*xv)),
    "nested": (lambda t, y: [(y[0][1], -9.8)], lambda xv: (list(xv),)),
    "of NumPy": (lambda t, y: (y[1], np.float32(-9.8)), tuple),
}


@pytest.mark.parametrize("case", FALL)
def test_slopes_that_are_constant(case):
    f, make = FALL[case]
    y0 = make((jnp.float32(10.0), jnp.float32(0.0)))
    sol = jo.solve(f, y0, (0.0, 1.0))
    assert jax.tree.structure(sol.y1) == jax.tree.structure(y0)
    np.testing.assert_allclose(
        jax.tree.leaves(sol.y1)[0], 5.1, rtol=2e-2 if "int" in case else 1e-5
    )
    np.testing.assert_allclose(
        jax.tree.leaves(sol.y1)[1], -9.0 if "int" in case else -9.8, rtol=1e-5
    )


def test_constant_slopes_in_batches_kernels_and_gradients():
    def f(t, y, g):
        return y[1], -9.8

    y0 = (jnp.array([10.0, 20.0]), jnp.zeros(2))
    sols = jo.solve_batch(f, y0, (0.0, 1.0))
    np.testing.assert_allclose(sols.y1[0], [5.1, 15.1], rtol=1e-6)
    kernel = jo.solve_batch(f, y0, (0.0, 1.0), kernel=True)
    np.testing.assert_allclose(kernel.y1[0], [5.1, 15.1], rtol=1e-6)
    gradient = jax.grad(lambda v: jo.solve(f, (10.0, v), (0.0, 1.0)).y1[0])(1.0)
    np.testing.assert_allclose(gradient, 1.0, rtol=1e-6)
    stiff = jo.solve(f, (10.0, 0.0), (0.0, 1.0), solver="rodas5p")
    np.testing.assert_allclose(stiff.y1[0], 5.1, rtol=1e-6)


def test_a_slope_that_is_a_number():
    np.testing.assert_allclose(jo.solve(lambda t, y: 2.0, 1.0, (0.0, 3.0)).y1, 7.0, rtol=1e-6)
    event = jo.Event(lambda t, y: y[0] - 2.0, apply=lambda t, y: [0.0, y[1]])
    sol = jo.solve(lambda t, y: (2.0, 1), (1.0, 0.0), (0.0, 3.0), events=event)
    np.testing.assert_allclose(sol.y1, (1.0, 3.0), rtol=1e-6)  # from 0 at 0.5, again at 1.5, 2.5


WRONG = {
    "a list for an array": (lambda t, y: [y[1], -y[0]], Y0, r"jnp\.stack makes a list one array"),
    "too many": (lambda t, y: (y[0], 1.0, 2.0), (1.0, 2.0), r"must return a pytree like y0"),
    "other names": (lambda t, y: {"b": 1.0}, {"a": 1.0}, r"must return a pytree like y0"),
    "a complex number": (lambda t, y: 1j, 1.0, r"complex128 where y0 has float64"),
    "a number for an array": (lambda t, y: 1.0, Y0, r"shape \(\) where y0 has \(2,\)"),
    "args in parts": (lambda t, y, a, b: y, Y0, r"takes 4 arguments; .* f\(t, y, \*args\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_slopes_that_fit_no_state(case):
    f, y0, message = WRONG[case]
    with pytest.raises(jo.FieldError, match=message):
        jo.solve(f, y0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("y0", "dtypes"),
    [
        (2, [jnp.float64]),
        (jnp.array([1, 2], jnp.int32), [jnp.float64]),
        (np.array([1, 2]), [jnp.float64]),
        ((1, jnp.float32(2.0)), [jnp.float32, jnp.float32]),
        ((1, 1j), [jnp.float64, jnp.complex128]),
    ],
)
def test_integer_states_become_floats(y0, dtypes):
    def f(t, y):
        return jax.tree.map(lambda x: -0.5 * x, y)

    expected = jax.tree.map(lambda x: np.exp(-0.5) * np.asarray(x), y0)
    for sol in (jo.solve(f, y0, (0.0, 1.0)), jax.jit(lambda y: jo.solve(f, y, (0.0, 1.0)))(y0)):
        assert [x.dtype for x in jax.tree.leaves(sol.y1)] == dtypes
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), sol.y1, expected)


def test_integer_states_of_batches_and_without_float64():
    sols = jo.solve_batch(lambda t, y: -0.5 * y, jnp.arange(1, 4), (0.0, 1.0))
    np.testing.assert_allclose(sols.y1, np.exp(-0.5) * np.arange(1, 4), rtol=1e-4)
    with jax.enable_x64(False):
        assert jo.solve(lambda t, y: -y, 1, (0.0, 1.0)).y1.dtype == jnp.float32


EMPTY = {"no entries": np.zeros((2, 0)), "no leaves": (), "a leaf of none": {"a": np.zeros(0)}}


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("save", ["ts", "steps", "dense"])
def test_states_without_components(case, save):
    y0 = EMPTY[case]
    sol = jo.solve(lambda t, y: y, y0, TS, save=save, max_steps=16)
    assert int(sol.status) == jo.Status.SUCCESS
    assert jax.tree.map(np.shape, sol.y1) == jax.tree.map(np.shape, y0)
    rows = 17 if save == "steps" else 3
    assert jax.tree.map(np.shape, sol.ys) == jax.tree.map(lambda x: (rows, *x.shape), y0)
    if save == "dense":
        assert jax.tree.map(np.shape, sol(0.5)) == jax.tree.map(np.shape, y0)


@pytest.mark.parametrize("solver", ["rodas5p", "bdf", "stormer_verlet"])
def test_states_without_components_by_other_solvers(solver):
    options: Any = {"dt": 0.25} if solver == "stormer_verlet" else {}
    sol = jo.solve(lambda t, y: y, (np.zeros(0), np.zeros(0)), TS, solver=solver, **options)
    assert int(sol.status) == jo.Status.SUCCESS


def test_functions_of_time_of_a_state_without_components():
    event = jo.Event(lambda t, y: t - 0.4, terminal=True)
    sol = jo.solve(lambda t, y: y, {}, TS, save=lambda t, y: t**2, events=event)
    assert sol.events is not None
    np.testing.assert_allclose(sol.events.ts[0], 0.4, rtol=1e-12)
    np.testing.assert_allclose(sol.ys, [0.0, 0.09, np.nan], rtol=1e-12)

    def values(rate):
        saved = jo.solve(lambda t, y, r: y, {}, TS, rate, save=lambda t, y, r: jnp.exp(r * t)).ys
        return weighted(saved)

    np.testing.assert_allclose(jax.grad(values)(0.5), central(values, 0.5), rtol=1e-7)


def test_batches_of_states_without_components():
    times = jnp.stack([TS, 2 * TS])
    for y0 in ({}, {"a": np.zeros((2, 0))}):
        sols = jo.solve_batch(lambda t, y: y, y0, times, save=lambda t, y: t, in_axes=(0, 0, None))
        np.testing.assert_allclose(sols.ys, times)
        assert np.all(sols.success)
