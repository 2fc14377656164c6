"""`solve_ivp` beside `scipy.integrate.solve_ivp`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp as reference

import jaxode as jo
from jaxode.drivers.ode_result import OdeResult
from tests.support.compilations import compilations_of
from tests.support.differences import central
from tests.support.sweeps import few

Y0 = [1.0, 0.5]
TIGHT: Any = {"rtol": 1e-8, "atol": 1e-10}
METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")


def oscillator(t, y, rate=1.0):
    return [y[1], -rate * y[0] + 0.1 * t]


def stiff(t, y, k):
    return [-k * y[0] + k * y[1], -y[1]]


def stiff_jacobian(t, y, k):
    return [[-k, k], [0.0, -1.0]]


def assert_alike(ours: OdeResult, theirs, rtol=1e-6, atol=1e-8):
    assert (ours.status, ours.success) == (theirs.status, theirs.success)
    assert (ours.t[0], ours.t[-1]) == pytest.approx((theirs.t[0], theirs.t[-1]), rel=1e-6)
    assert ours.y.shape == (theirs.y.shape[0], len(ours.t))
    np.testing.assert_allclose(ours.y[:, -1], theirs.y[:, -1], rtol=rtol, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_methods_and_given_times(method):
    times = np.linspace(0.5, 2.0, 4)
    ours, theirs = (
        solve(oscillator, (0, 3), Y0, method, t_eval=times, args=(2.0,), **TIGHT)
        for solve in (jo.solve_ivp, reference)
    )
    np.testing.assert_array_equal(ours.t, times)
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-6)
    assert ours.status == 0 and ours.success and "reached the end" in ours.message
    assert ours.sol is ours.t_events is ours.y_events is None
    assert ours.nfev > 0
    explicit = method in ("RK23", "RK45", "DOP853")
    assert {ours.njev, ours.nlu} == {0} if explicit else 0 not in {ours.njev, ours.nlu}


@pytest.mark.parametrize("dense", few([False, True], False))
@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 0.0)])
def test_all_steps_are_returned(span, dense):
    ours = jo.solve_ivp(oscillator, span, Y0, dense_output=dense, **TIGHT)
    theirs = reference(oscillator, span, Y0, dense_output=dense, **TIGHT)
    assert_alike(ours, theirs)
    np.testing.assert_allclose(ours.y[:, 0], Y0)
    exact = reference(oscillator, span, Y0, "DOP853", t_eval=ours.t, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(ours.y, exact.y, rtol=1e-6, atol=1e-8)
    if dense:
        between = np.linspace(0.1, 2.9, 7)
        np.testing.assert_allclose(ours.sol(between), theirs.sol(between), rtol=1e-6)
        assert ours.sol(0.5).shape == theirs.sol(0.5).shape == (2,)


def height(t, y, *args):
    return y[0]


def speed(t, y, *args):
    return y[1]


def falls(t, y):
    return [y[1], -9.81]


def with_attributes(event, terminal: Any = False, direction: float = 0) -> Any:
    def copied(t, y, *args):
        return event(t, y, *args)

    vars(copied).update(terminal=terminal, direction=direction)
    return copied


EVENTS = {
    "recorded": [height, speed],
    "one": height,
    "terminal": [with_attributes(height, terminal=True), speed],
    "down": [with_attributes(height, direction=-1), with_attributes(height, direction=1.0)],
    "the third": [with_attributes(height, terminal=3), speed],
    "the second of two": [with_attributes(height, terminal=2), with_attributes(speed, terminal=3)],
    "never": with_attributes(lambda t, y: y[0] + 10.0, terminal=True),
}


@pytest.mark.parametrize("case", EVENTS)
@pytest.mark.parametrize("mode", few(["steps", "times", "dense"], "steps"))
def test_events(case, mode):
    options: Any = {"dense_output": mode == "dense", **TIGHT}
    if mode == "times":
        options["t_eval"] = np.linspace(0.0, 9.0, 31)
    span, y0 = (0.0, 9.0), [1.0, 0.4]
    ours, theirs = (
        solve(lambda t, y: [y[1], -1.0 * y[0]], span, y0, events=EVENTS[case], **options)
        for solve in (jo.solve_ivp, reference)
    )
    assert_alike(ours, theirs)
    assert len(ours.t_events) == len(theirs.t_events)
    for one, other in zip(ours.t_events, theirs.t_events, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(ours.y_events, theirs.y_events, strict=True):
        assert one.shape[0] == other.shape[0]
        if other.shape[0]:
            np.testing.assert_allclose(one, other, atol=1e-6)
    if mode == "times":
        np.testing.assert_array_equal(ours.t, theirs.t)
        np.testing.assert_allclose(ours.y, theirs.y, atol=1e-6)


def test_the_cannon_of_the_documentation():
    hits = with_attributes(height, terminal=True, direction=-1)
    ours, theirs = (
        solve(falls, (0, 100), [0, 50], events=[hits, speed], dense_output=True)
        for solve in (jo.solve_ivp, reference)
    )
    assert ours.message == theirs.message == "A termination event occurred."
    np.testing.assert_allclose(ours.t_events[0], theirs.t_events[0], rtol=1e-6)
    top = ours.t_events[1][0]
    np.testing.assert_allclose(ours.sol(top), theirs.sol(top), atol=1e-6)
    np.testing.assert_allclose(ours.t[-1], ours.t_events[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
@pytest.mark.parametrize(
    "known",
    [
        {"jac": stiff_jacobian},
        {"jac": np.array(stiff_jacobian(0.0, None, 500.0))},
        {"lband": 0, "uband": 1},
        {"jac_sparsity": np.array([[1, 1], [0, 1]])},
    ],
)
def test_what_is_known_of_the_jacobian(method, known: Any):
    if method == "LSODA" and "jac_sparsity" not in known and "lband" not in known:
        known = {"jac": stiff_jacobian}
    ours = jo.solve_ivp(stiff, (0, 2), [2.0, 1.0], method, args=(500.0,), **known, **TIGHT)
    theirs = reference(stiff, (0, 2), [2.0, 1.0], "Radau", args=(500.0,), **TIGHT)
    assert_alike(ours, theirs)


def test_steps_keep_their_bounds():
    ours = jo.solve_ivp(oscillator, (0, 2), Y0, first_step=0.01, max_step=0.1)
    steps = np.diff(ours.t)
    assert steps[0] == pytest.approx(0.01)
    assert steps.max() <= 0.1 * (1 + 1e-9)
    failed = jo.solve_ivp(oscillator, (0, 2), Y0, min_step=1.0, **TIGHT)
    assert failed.status == -1


@pytest.mark.parametrize("options", [{}, {"t_eval": np.linspace(0, 2, 9)}, {"dense_output": True}])
def test_a_solve_that_fails_returns_what_it_reached(options: Any):
    ours = jo.solve_ivp(lambda t, y: y**2, (0, 2), [1.0], **options)
    assert (ours.status, ours.success) == (-1, False)
    assert ours.message.startswith(("STEP_UNDERFLOW", "NOT_FINITE"))
    assert 0.5 <= ours.t[-1] < 1.0 + 1e-6
    assert np.isfinite(ours.y).all()
    assert ours.y.shape == (1, len(ours.t))


def test_vectorised_complex_and_integer_states():
    matrix = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    ours = jo.solve_ivp(lambda t, y: matrix @ y, (0, 1), [1, 0], vectorized=True, **TIGHT)
    np.testing.assert_allclose(ours.y[:, -1], [np.cos(1), -np.sin(1)], rtol=1e-7)
    ours = jo.solve_ivp(lambda t, y: 1j * y, (0, 1), [1 + 0j], **TIGHT)
    np.testing.assert_allclose(ours.y[:, -1], [np.exp(1j)], rtol=1e-7)


def test_the_solvers_of_jaxode():
    for method in ("tsit5", jo.Vern7()):
        ours = jo.solve_ivp(oscillator, (0, 1), Y0, method, **TIGHT)
        theirs = reference(oscillator, (0, 1), Y0, **TIGHT)
        assert_alike(ours, theirs)


def test_items_are_attributes():
    result = jo.solve_ivp(oscillator, (0, 1), Y0)
    assert set(result.keys()) >= {"t", "y", "sol", "nfev", "status", "message", "success"}
    assert all(result[name] is getattr(result, name) for name in ("t", "y", "sol", "t_events"))
    with pytest.raises(KeyError):
        result["x"]


@pytest.mark.slow
def test_gradients_and_transforms():
    times = np.array([0.5, 1.0])

    def end(rate):
        return jo.solve_ivp(oscillator, (0, 1), Y0, t_eval=times, args=(rate,), **TIGHT).y[0, -1]

    expected = central(end, jnp.array(2.0))
    for function in (
        jax.grad(end),
        jax.jit(jax.grad(end)),
        lambda x: jax.vmap(jax.grad(end))(x[None])[0],
    ):
        np.testing.assert_allclose(function(jnp.array(2.0)), expected, rtol=1e-6)

    def last_step(rate):
        return jo.solve_ivp(oscillator, (0, 1), Y0, args=(rate,), **TIGHT).y[0, -1]

    np.testing.assert_allclose(jax.grad(last_step)(2.0), expected, rtol=1e-5)


def test_under_jit_unused_entries_are_nan():
    def solve(rate):
        return jo.solve_ivp(
            lambda t, y, rate: [y[1], -rate * y[0]], (0, 9), Y0, args=(rate,),
            events=[height, speed], max_steps=128, max_events=8,
        )  # fmt: skip

    inside, outside = jax.jit(solve)(2.0), solve(2.0)
    count = len(outside.t)
    np.testing.assert_allclose(inside.t[:count], outside.t)
    np.testing.assert_allclose(inside.y[:, :count], outside.y)
    assert np.isnan(inside.t[count:]).all() and np.isnan(inside.y[:, count:]).all()
    for one, other in zip(inside.t_events, outside.t_events, strict=True):
        assert len(other) > 2
        np.testing.assert_allclose(one[: len(other)], other)
        assert np.isnan(one[len(other) :]).all()
    assert int(inside.status) == outside.status == 0


def test_other_values_do_not_compile_again():
    def call(value):
        jo.solve_ivp(oscillator, (0, value), [value, 0.0], args=(value,), rtol=1e-4)

    call(1.0)
    call(1.2)
    assert compilations_of(call, 1.1) <= 2  # the cuts to what was reached


@pytest.mark.slow
def test_far_times_without_float64():
    with jax.enable_x64(False):
        start = 1.7e9
        given: Any = ({}, {"dense_output": True}, {"t_eval": start + np.array([0.5, 1.0])})
        for options in given:
            ours = jo.solve_ivp(lambda t, y: -y, (start, start + 1), [1.0], **options)
            assert ours.t.dtype == np.float64
            np.testing.assert_allclose(ours.y[0], np.exp(start - ours.t), rtol=2e-3)


WRONG = {
    "fun": ({"fun": 3.0}, jo.FieldError, r"fun must be callable as \(t, y, \*args\), got 3.0"),
    "an event": ({"events": [3.0]}, jo.EventError, r"events must be callable"),
    "one argument": (
        {"args": 2.0},
        jo.OptionError,
        r"args must be a tuple, for one argument \(p,\)",
    ),
    "span": ({"t_span": 3.0}, jo.TimesError, r"t_span must hold two times"),
    "a matrix": ({"y0": np.eye(2)}, jo.StateError, r"y0 must have the shape \(n,\), got \(2, 2\)"),
    "a string": ({"y0": "ab"}, jo.StateError, r"y0 is a str: expected an array of floats"),
    "method": (
        {"method": "RK54"},
        jo.OptionError,
        r"no method called 'RK54'; did you mean .*'rk45'",
    ),
    "times outside": ({"t_eval": [0.5, 2.0]}, jo.TimesError, r"go from ts\[1\] = 2 to t1 = 1"),
    "terminal": (
        {"events": with_attributes(height, terminal="yes")},
        jo.EventError,
        r"terminal of an event must be a boolean or a number, got 'yes'",
    ),
    "direction": (
        {"events": with_attributes(height, direction="up")},  # pyright: ignore
        jo.EventError,
        r"direction of an event must be a number, got 'up'",
    ),
    "a slope": ({"fun": lambda t, y: y[:1]}, jo.FieldError, r"shape \(1,\) where y0 has \(2,\)"),
    "complex": ({"fun": lambda t, y: 1j * y}, jo.FieldError, r"complex128 where y0 has float64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case):
    changed, error, message = WRONG[case]
    problem: Any = {"fun": oscillator, "t_span": (0, 1), "y0": Y0, **changed}
    with pytest.raises(error, match=message):
        jo.solve_ivp(**problem)


def test_a_later_occurrence_while_values_are_traced():
    def times(y0):
        event = with_attributes(height, terminal=2)
        return jo.solve_ivp(oscillator, (0, 9), y0, events=event).t_events[0][:2]

    np.testing.assert_allclose(jax.jit(times)(jnp.ones(2)), times(jnp.ones(2)))
