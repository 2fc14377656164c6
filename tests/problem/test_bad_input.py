"""Bad input to `solve`: a named error that says what was wrong and what was expected."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.problem.validation import check_count, is_count

Y0 = jnp.array([1.0, 2.0])


def decay(t, y, args):
    return -y


def two(t, y):
    return -y


def four(t, y, a, b):
    return -y


def broken(t, y, args):
    return y + jnp.ones(3)


class Field:
    def __call__(self, t, y, args):
        return -y


def refuse(error, message, f: Any = decay, y0: Any = Y0, ts: Any = (0.0, 1.0), **options):
    with pytest.raises(error, match=message):
        jo.solve(f, y0, ts, **options)


STATES = {
    "booleans": (jnp.array([True, False]), r"y0 has dtype bool.*expected floating-point"),
    "a boolean": (True, r"y0 has dtype bool.*expected floating-point"),
    "a string": ("ab", r"y0 is a str: expected an array of floats"),
    "a string leaf": ([jnp.ones(2), "ab"], r"y0\[1\] is a str: expected an array"),
    "nothing": (None, r"y0 is None: expected a pytree of arrays"),
    "an object": (object(), r"y0 is a object: expected an array"),
    "objects in numpy": (np.array([None, 1.0], object), r"y0.*dtype object.*expected"),
}


@pytest.mark.parametrize("case", STATES)
def test_state(case):
    refuse(jo.StateError, STATES[case][1], y0=STATES[case][0])


FIELDS = {
    "too many arguments": (four, r"called as f\(t, y, args\), but four takes 4 arguments; wrap it"),
    "one argument": (lambda y: y, r"called as f\(t, y, args\), but <lambda> takes 1 argument;"),
    "a class": (Field, r"the vector field is the class Field: pass an instance"),
    "not callable": (3.0, r"must be callable as f\(t, y, args\), got float"),
    "nothing": (None, r"must be callable as f\(t, y, args\), got NoneType"),
    "a shape clash inside": (broken, r"calling broken\(t, y, args\).*float64\[2\].*failed"),
    "a scalar": (lambda t, y, args: jnp.sum(y), r"shape \(\) where y0 has \(2,\).*broadcast"),
    "one entry": (lambda t, y, args: y[:1], r"shape \(1,\) where y0 has \(2,\).*broadcast"),
    "a row": (lambda t, y, args: y[None], r"shape \(1, 2\) where y0 has \(2,\)"),
    "a Python number": (lambda t, y, args: 0.0, r"float.*expected an array|shape \(\)"),
    "nothing back": (lambda t, y, args: None, r"must return a pytree like y0, structure"),
    "a tuple": (lambda t, y, args: (y,), r"must return a pytree like y0, structure"),
    "another precision": (
        lambda t, y, args: y.astype(jnp.float32),
        r"dtype float32 where y0 has float64: cast y0 or the output",
    ),
    "complex of real": (lambda t, y, args: 1j * y, r"dtype complex128 where y0 has float64"),
    "integers": (lambda t, y, args: jnp.arange(2), r"dtype int.* where y0 has float64"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_field(case):
    refuse(jo.FieldError, FIELDS[case][1], f=FIELDS[case][0])


def test_field_with_a_wrong_leaf_of_a_pytree():
    y0 = {"a": jnp.ones(2), "b": jnp.ones((3, 1))}
    refuse(
        jo.FieldError,
        r"\['b'\] has shape \(3,\) where y0 has \(3, 1\)",
        f=lambda t, y, args: {"a": y["a"], "b": y["b"][:, 0]},
        y0=y0,
    )


def test_a_field_that_raises_keeps_its_own_error():
    def fails(t, y, args):
        raise KeyError("mine")

    refuse(KeyError, "mine", f=fails)


TIMES = {
    "NaN": ([0.0, np.nan, 1.0], r"ts\[1\] is nan: every time must be finite"),
    "infinite": ([0.0, np.inf], r"ts\[1\] is inf: every time must be finite"),
    "not monotone": ([0.0, 2.0, 1.0, 3.0], r"monotone, but goes from 2 to 1 at index 2"),
    "not monotone backwards": ([3.0, 1.0, 2.0, 0.0], r"monotone, but goes from 1 to 2 at index 2"),
    "there and back": ([0.0, 1.0, 0.0], r"ts must be monotone"),
    "two-dimensional": ([[0.0, 1.0]], r"one-dimensional, \(t0, t1\) or longer; got shape \(1, 2\)"),
    "a scalar": (1.0, r"one-dimensional.*got shape \(\)"),
    "a single time": ([0.0], r"at least two times, got 1"),
    "none": ([], r"at least two times, got 0"),
    "complex": (jnp.array([0.0, 1.0j]), r"real numbers, got dtype complex128"),
    "booleans": (jnp.array([False, True]), r"real numbers, got dtype bool"),
    "a string": ("01", r"ts must hold real numbers, got dtype <U2: '01'"),
    "strings": (["a", "b"], r"ts must hold real numbers, got dtype"),
    "nothing": (None, r"ts is None: expected times such as"),
    "with a gap": ((0.0, None), r"ts must hold real numbers, got dtype object"),
}


@pytest.mark.parametrize("case", TIMES)
def test_times(case):
    refuse(jo.TimesError, TIMES[case][1], ts=TIMES[case][0])


TOLERANCES = {
    "negative rtol": ({"rtol": -1e-3}, r"rtol must be a non-negative number, got \[-0.001\]"),
    "negative atol": ({"atol": -1e-3}, r"atol must be a non-negative number, got \[-0.001\]"),
    "NaN rtol": ({"rtol": np.nan}, r"rtol must be a non-negative number, got \[nan\]"),
    "wrong shape": ({"atol": jnp.ones(3)}, r"atol must be a number or broadcast against y0"),
    "wrong structure": ({"atol": {"a": 1.0}}, r"atol must be a number or broadcast against y0"),
    "a string": ({"rtol": "tight"}, r"rtol must be a number"),
    "infinite rtol": ({"rtol": np.inf}, r"rtol must be a finite number, got \[inf\]"),
    "a boolean": ({"atol": True}, r"atol must be a number or an array of numbers, got True"),
    "nothing": ({"rtol": None}, r"rtol must be a number"),
    "complex": ({"atol": 1e-6 + 1j}, r"atol must be"),
    "both zero": ({"rtol": 0.0, "atol": 0.0}, r"rtol and atol.*zero|zero"),
}


@pytest.mark.parametrize("case", TOLERANCES)
def test_tolerances(case):
    options, message = TOLERANCES[case]
    refuse(jo.ToleranceError, message, **options)


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-7), (jnp.float64, 1e-15)])
def test_tolerance_out_of_reach_warns_with_the_number(dtype, rtol):
    with pytest.warns(jo.ToleranceWarning, match=rf"rtol=1e-{round(-np.log10(rtol)):02d} is finer"):
        jo.solve(decay, Y0.astype(dtype), (0.0, 0.1), rtol=rtol)


class Strange:
    """Neither a solver nor a controller nor a sensitivity."""


OPTIONS = {
    "misspelt solver": ({"solver": "tist5"}, r"no solver called 'tist5'; did you mean 'tsit5'"),
    "unknown solver": ({"solver": "qqq"}, r"no solver called 'qqq'; known: .*tsit5"),
    "solver class": ({"solver": jo.Tsit5}, r"instance, but got the class Tsit5: write Tsit5\(\)"),
    "solver object": (
        {"solver": Strange()},
        r"solver must be a name or an object such as jo.Tsit5",
    ),
    "no solver": ({"solver": None}, r"solver must be a name or an object.*got None"),
    "misspelt sensitivity": ({"sensitivity": "ajoint"}, r"sensitivity called.*mean 'adjoint'"),
    "sensitivity class": ({"sensitivity": jo.Discrete}, r"instance.*write Discrete\(\)"),
    "misspelt save": ({"save": "step"}, r"save mode called 'step'; did you mean 'steps'"),
    "save of a number": (
        {"save": 3},
        r'save must be "ts", "steps", "dense" or a f.*, got 3',
    ),
    "fixed solver, no dt": ({"solver": "euler"}, r"Euler takes fixed steps: give dt="),
    "fixed solver, PID": (
        {"solver": "rk4", "controller": jo.PID()},
        r"RK4 has no error estimate for PID to judge: give dt=",
    ),
    "Fixed and dt": (
        {"controller": jo.Fixed(0.1), "dt": 0.1},
        r"both dt= and controller=Fixed set the step",
    ),
    "controller class": ({"controller": jo.PID}, r"controller must be an instance.*got PID"),
    "controller of a name": ({"controller": "pid"}, r"controller must be an instance.*'pid'"),
    "dt of zero": ({"dt": 0.0}, r"dt must be a positive number.*got 0.0"),
    "dt below zero": ({"dt": -0.1}, r"positive number, backwards in time too, got -0.1"),
    "dt of NaN": ({"dt": np.nan}, r"dt must be a positive number.*got nan"),
    "dt infinite": ({"dt": np.inf}, r"dt must be a positive number.*got inf"),
    "dt of a list": ({"dt": [0.1, 0.2]}, r"dt must be a positive number"),
    "dt of a string": ({"dt": "small"}, r"dt must be a positive number.*'small'"),
    "Grid too short": (
        {"controller": jo.Grid(jnp.array([0.0, 0.5]))},
        r"Grid must run from ts\[0\] = 0 to ts\[-1\] = 1, but runs from 0 to 0.5",
    ),
    "Grid the other way": (
        {"controller": jo.Grid(jnp.array([1.0, 0.5, 0.0]))},
        r"strictly monotone, in the direction of ts",
    ),
    "Grid not monotone": (
        {"controller": jo.Grid(jnp.array([0.0, 0.7, 0.5, 1.0]))},
        r"strictly monotone, in the direction of ts",
    ),
    "max_steps of zero": (
        {"max_steps": 0},
        r"max_steps must be an integer of at least 1 or None, got 0",
    ),
    "max_steps of a float": (
        {"max_steps": 1.5},
        r"max_steps must be an integer of at least 1 or None, got 1.5",
    ),
    "max_steps of True": (
        {"max_steps": True},
        r"max_steps must be an integer of at least 1 or None, got True",
    ),
    "progress of a string": ({"progress": "yes"}, r"progress must be True or False, got 'yes'"),
    "adjoint of steps": (
        {"sensitivity": "adjoint", "save": "steps"},
        r'not of save="steps"; use save="ts" or sensitivity="discrete"',
    ),
    "adjoint of dense": ({"sensitivity": "adjoint", "save": "dense"}, r'not of save="dense"'),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case):
    options, message = OPTIONS[case]
    refuse(jo.OptionError, message, **options)


CONTROLLERS = {
    "dtmin below zero": ({"dtmin": -1.0}, r"0 < dtmin < dtmax, got dtmin=-1.0"),
    "dtmax of zero": ({"dtmax": 0.0}, r"0 < dtmin < dtmax, got dtmin=None, dtmax=0.0"),
    "dtmin above dtmax": ({"dtmin": 1.0, "dtmax": 0.1}, r"got dtmin=1.0, dtmax=0.1"),
    "factor_min above one": ({"factor_min": 1.5}, r"factor_min < 1.*got factor_min=1.5"),
    "factor_max below one": ({"factor_max": 0.5}, r"1 < factor_max.*factor_max=0.5"),
    "safety of zero": ({"safety": 0.0}, r"0 < safety <= 1.*safety=0.0"),
    "safety of NaN": ({"safety": np.nan}, r"0 < safety <= 1.*safety=nan"),
    "misspelt norm": ({"norm": "rsm"}, r"no norm called 'rsm'; did you mean 'rms'"),
    "norm of a number": ({"norm": 2}, r"no norm called '2'; known: max, rms"),
}


@pytest.mark.parametrize("dt", [0.0, -1.0, None, True, np.inf, "a"])
def test_steps_of_no_size(dt):
    with pytest.raises(jo.OptionError, match=r"dt of jo\.Fixed must be a positive number, got"):
        jo.Fixed(dt)


@pytest.mark.parametrize("times", [jnp.array([0.0]), [0.0, np.nan, 1.0], "abc", None, [[0.0, 1.0]]])
def test_grids_of_no_times(times):
    with pytest.raises(jo.OptionError, match="at least two finite times"):
        jo.Grid(times)


@pytest.mark.parametrize("make", [jo.PID, jo.PI, jo.I])
@pytest.mark.parametrize("case", CONTROLLERS)
def test_controllers(case, make):
    knobs, message = CONTROLLERS[case]
    with pytest.raises(jo.OptionError, match=message):
        make(**knobs)


def test_a_gain_that_is_no_number():
    with pytest.raises(jo.OptionError, match="icoeff"):
        jo.PID(icoeff=np.nan)


def test_integers_of_numpy_count_and_booleans_do_not():
    for value in (2, np.int32(2), np.uint8(2)):
        assert is_count(value, 2) and not is_count(value, 3)
        assert type(check_count("n", value)) is int
    for value in (True, np.True_, 2.0, np.float64(2.0), np.array(2), "2", None):
        assert not is_count(value)
    assert jo.Banded(np.int64(2), 1).lower == 2  # an array here would be a warning


def test_dense_output_that_was_not_asked_for():
    sol = jo.solve(decay, Y0, (0.0, 1.0))
    with pytest.raises(jo.OptionError, match=r'sol\(t\) needs dense output: .*save="dense"'):
        sol(0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, Y0, jnp.array([0.0, 1.0])), jo.FieldError, r"callable as func\(y, t, \*args\)"),
        ((two, "ab", jnp.array([0.0, 1.0])), jo.StateError, r"y0 is a str"),
        ((two, Y0, jnp.array([0.0, 2.0, 1.0])), jo.TimesError, r"monotone"),
    ],
)
def test_odeint_refuses_as_solve_does(arguments, error, message):
    with pytest.raises(error, match=message):
        jo.odeint(*arguments)


@pytest.mark.parametrize("mxstep", [0, -3, np.nan])
def test_odeint_refuses_no_steps(mxstep):
    with pytest.raises(jo.OptionError, match=r"mxstep must be at least one"):
        jo.odeint(lambda y, t: -y, Y0, jnp.array([0.0, 1.0]), mxstep=mxstep)


def fails(*args):
    raise ValueError("of the user's own")


FUNCTIONS = {
    "field": ({"f": fails}, jo.FieldError, r"calling fails\(t, y, args\) .*the user's own"),
    "save that raises": ({"save": fails}, jo.OptionError, r"calling save.*the user's own"),
    "save of one argument": ({"save": lambda t: t}, jo.OptionError, r"calling save\(t, y, args\)"),
    "condition": (
        {"events": jo.Event(fails)},
        jo.EventError,
        r"calling condition\(t, y, args\) of jo\.Event.*the user's own",
    ),
    "condition of one argument": (
        {"events": jo.Event(lambda t: t)},  # pyright: ignore
        jo.EventError,
        r"calling condition\(t, y, args\) of jo\.Event",
    ),
    "state map": (
        {"jumps": jo.Jumps([0.5], fails)},
        jo.EventError,
        r"calling apply\(t, y, args\) of jo\.Jumps.*the user's own",
    ),
    "jac": ({"solver": jo.Rodas5P(jac=fails)}, jo.FieldError, r"calling jac.*the user's own"),
    "norm": ({"controller": jo.PID(norm=fails)}, jo.OptionError, r"calling norm.*the user's own"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_that_raise_are_named_and_their_errors_kept(case):
    options, error, message = FUNCTIONS[case]
    with pytest.raises(error, match=message) as caught:
        jo.solve(**{"f": decay, "y0": Y0, "ts": (0.0, 1.0), **options})
    assert isinstance(caught.value.__cause__, ValueError | TypeError)


def test_an_error_of_jaxode_inside_a_function_is_raised_as_it_is():
    def nested(t, y, args):
        return jo.solve(decay, y, (0.0, 1.0), rtol=-1.0).y1

    refuse(jo.ToleranceError, "rtol must be a non-negative number", f=nested)


@pytest.mark.parametrize("t", ["a", None, [None], True, object()])
def test_dense_output_is_read_at_times(t):
    sol = jo.solve(decay, Y0, (0.0, 1.0), save="dense", max_steps=16)
    with pytest.raises(jo.TimesError, match="t must hold real numbers"):
        sol(t)
