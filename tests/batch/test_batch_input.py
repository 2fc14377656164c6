"""Bad input to `solve_batch`: a named error that says what was wrong and what was expected."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

Y0 = jnp.ones((3, 2))
TS = (0.0, 1.0)
TIMES = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])


def decay(t, y, args):
    return -y


def refuse(error, message, f: Any = decay, y0: Any = Y0, ts: Any = TS, args=None, **options):
    with pytest.raises(error, match=message):
        jo.solve_batch(f, y0, ts, args, **options)


AXES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing mapped": (
        {"in_axes": (None, None, None)},
        r"in_axes maps nothing: give an axis for y0, ts or args, or call jo.solve",
    ),
    "nothing mapped of five": ({"in_axes": (None,) * 5}, r"in_axes maps nothing"),
    "two entries": ({"in_axes": (0, None)}, r"three entries for \(y0, ts, args\).*\(0, None\)"),
    "four entries": ({"in_axes": (0, None, None, None)}, r"or five for \(y0, ts, args, rtol, atol"),
    "six entries": ({"in_axes": (0,) * 6}, r"in_axes must be an integer, or have three entries"),
    "None": ({"in_axes": None}, r"in_axes must be an integer, or have three.*got None"),
    "True": ({"in_axes": True}, r"in_axes must be an integer.*got True"),
    "a string": ({"in_axes": "first"}, r"in_axes must be an integer.*got 'first'"),
    "a number that is no axis": ({"in_axes": (1.0, None, None)}, r"y0 must be an integer.*got 1.0"),
    "an axis of True": ({"in_axes": (True, None, None)}, r"y0 must be an integer.*got True"),
    "a string for args": (
        {"in_axes": (0, None, {"k": "all"}), "args": {"k": jnp.ones(3)}},
        r"in_axes for args\['k'\] must be an integer or None, got 'all'",
    ),
    "an axis too many": (
        {"in_axes": (2, None, None)},
        r"in_axes maps axis 2 of y0, which has shape \(3, 2\)",
    ),
    "too far from the end": ({"in_axes": (-3, None, None)}, r"axis -3 of y0.*shape \(3, 2\)"),
    "axis 0 of a number": (
        {"in_axes": (0, None, {"k": 0, "c": 0}), "args": {"k": jnp.ones(3), "c": 2.0}},
        r"axis 0 of args\['c'\], which has shape \(\)",
    ),
    "a number of rtol": (
        {"in_axes": (0, None, None, 0, None)},
        r"axis 0 of rtol, which has shape \(\)",
    ),
    "another structure": (
        {"in_axes": (0, None, {"k": 0}), "args": {"rate": jnp.ones(3)}},
        r"in_axes for args is \{'k': 0\}, which does not fit its structure.*rate",
    ),
    "a list where a dict is": (
        {"in_axes": (0, None, [0]), "args": {"k": jnp.ones(3)}},
        r"in_axes for args is \[0\], which does not fit",
    ),
    "structure of y0": (
        {"in_axes": ((0, 0), None, None)},
        r"in_axes for y0 is \(0, 0\), which does not fit",
    ),
    "three axes of two times": (
        {"in_axes": (0, (None, 0, 0), None), "ts": (0.0, jnp.ones(3))},
        r"in_axes for ts is \(None, 0, 0\), which does not fit",
    ),
    "sizes differ": (
        {"in_axes": (0, None, 0), "args": jnp.ones(4)},
        r"differ in their number of trajectories: y0 has 3, args has 4",
    ),
    "sizes differ inside": (
        {"in_axes": (0, None, 0), "args": {"k": jnp.ones(3), "c": jnp.ones((2, 3))}},
        r"args\['c'\] has 2",
    ),
    "as many times as none": (
        {"in_axes": (0, 0, None), "ts": np.linspace(0, 1, 8).reshape(4, 2)},
        r"y0 has 3, ts has 4",
    ),
    "more last times": (
        {"in_axes": (0, (None, 0), None), "ts": (0.0, jnp.ones(5))},
        r"y0 has 3, ts has 5",
    ),
    "more tolerances": (
        {"in_axes": (0, None, None, 0, None), "rtol": jnp.full(4, 1e-3)},
        r"y0 has 3, rtol has 4",
    ),
    "an empty batch": ({"y0": jnp.zeros((0, 3))}, r"the batch is empty: "),
    "an empty batch of args": (
        {"in_axes": (None, None, 0), "args": jnp.zeros(0)},
        r"the batch is empty: ",
    ),
}


@pytest.mark.parametrize("case", AXES)
def test_axes(case):
    options, message = AXES[case]
    refuse(jo.BatchError, message, **options)


def test_axes_under_jit_are_refused_while_it_is_traced():
    with pytest.raises(jo.BatchError, match=r"y0 has 3, args has 4"):
        jax.jit(lambda y, k: jo.solve_batch(decay, y, TS, k, in_axes=(0, None, 0)))(Y0, jnp.ones(4))


MAPPED_TIMES: dict[str, tuple[Any, str]] = {
    "one row not monotone": (
        TIMES,
        r"of trajectory 1: ts must be monotone, but goes from 2 to 1 at index 2",
    ),
    "there and back": ([[0, 1, 2], [0, 1, 2], [1, 2, 1]], r"of trajectory 2: ts must be monotone"),
    "NaN": ([[0, 1], [0, np.nan], [0, 1]], r"of trajectory 1: ts\[1\] is nan: every time must be"),
    "infinite": ([[-np.inf, 1], [0, 1], [0, 1]], r"of trajectory 0: ts\[0\] is -inf"),
    "a single time": (np.zeros((3, 1)), r"\(trajectories, times\), at least two times, got \(3, 1"),
    "one axis": (np.zeros(3), r"mapped ts must have shape \(trajectories, times\).*got \(3,\)"),
    "three axes": (np.zeros((3, 2, 2)), r"mapped ts must have shape.*got \(3, 2, 2\)"),
    "complex": (jnp.ones((3, 2)) * 1j, r"real numbers, got dtype complex128"),
    "booleans": (np.array([[False, True]] * 3), r"real numbers, got dtype bool"),
}


@pytest.mark.parametrize("case", MAPPED_TIMES)
def test_mapped_times(case):
    ts, message = MAPPED_TIMES[case]
    refuse(jo.TimesError, message, ts=np.asarray(ts), in_axes=(0, 0, None))


@pytest.mark.parametrize("times", [jnp.ones((3, 2)) * 1j, np.array([[False, True]] * 3)])
def test_mapped_times_under_jit_must_be_real_numbers_too(times):
    run = jax.jit(lambda ts: jo.solve_batch(decay, Y0, ts, in_axes=(0, 0, None)).status)
    with pytest.raises(jo.TimesError, match=r"real numbers, got dtype"):
        run(times)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: x.tolist()])
def test_mapped_times_of_any_kind_are_named(make):
    refuse(jo.TimesError, r"of trajectory 1: .*monotone", ts=make(TIMES), in_axes=(0, 0, None))


SHARED: dict[str, tuple[dict[str, Any], type, str]] = {
    "shared times not monotone": (
        {"ts": [0.0, 2.0, 1.0]},
        jo.TimesError,
        r"ts must be monotone, but goes from 2 to 1 at index 2",
    ),
    "mapped times that are not said to be": (
        {"ts": np.zeros((3, 2))},
        jo.TimesError,
        r"one-dimensional.*got shape \(3, 2\)",
    ),
    "no times": ({"ts": None}, jo.TimesError, r"ts is None"),
    "NaN rtol": ({"rtol": np.nan}, jo.ToleranceError, r"rtol must be a non-negative number.*nan"),
    "NaN in mapped rtol": (
        {"rtol": jnp.array([1e-3, np.nan, 1e-3]), "in_axes": (0, None, None, 0, None)},
        jo.ToleranceError,
        r"rtol must be a non-negative number, got \[0.001, nan, 0.001\]",
    ),
    "negative mapped atol": (
        {"atol": -jnp.ones(3), "in_axes": (0, None, None, None, 0)},
        jo.ToleranceError,
        r"atol must be a non-negative number, got \[-1.0",
    ),
    "tolerances of zero": ({"rtol": 0.0, "atol": 0.0}, jo.ToleranceError, r"both zero"),
    "atol of a wrong shape": (
        {"atol": jnp.ones((3, 5)), "in_axes": (0, None, None, None, 0)},
        jo.ToleranceError,
        r"atol must be a number or broadcast against y0 of shapes \(2,\)",
    ),
    "rtol of a mapped batch that is not said to be": (
        {"rtol": jnp.full(3, 1e-3)},
        jo.ToleranceError,
        r"rtol must be a number or broadcast against y0 of shapes \(2,\)",
    ),
    "field of the whole batch": (
        {"f": lambda t, y, args: jnp.ones((3, 2))},
        jo.FieldError,
        r"has shape \(3, 2\) where y0 has \(2,\)",
    ),
    "field of a scalar": (
        {"f": lambda t, y, args: jnp.sum(y)},
        jo.FieldError,
        r"has shape \(\) where y0 has \(2,\)",
    ),
    "field of y": ({"f": lambda y: y}, jo.FieldError, r"f\(t, y, args\), but <lam"),
    "no field": ({"f": None}, jo.FieldError, r"must be callable as f\(t, y, args\), got NoneType"),
    "booleans": ({"y0": jnp.ones((3, 2), bool)}, jo.StateError, r"y0 has dtype bool"),
    "no state": ({"y0": None}, jo.StateError, r"y0 is None"),
    "misspelt solver": ({"solver": "tsit"}, jo.OptionError, r"did you mean 'tsit5'"),
    "fixed solver, no dt": ({"solver": "euler"}, jo.OptionError, r"takes fixed steps: give dt="),
    "misspelt save": ({"save": "step"}, jo.OptionError, r"did you mean 'steps'"),
    "max_steps of zero": ({"max_steps": 0}, jo.OptionError, r"max_steps must be an integer of"),
    "misspelt sensitivity": ({"sensitivity": "discreet"}, jo.OptionError, r"'discrete'"),
    "progress of a string": ({"progress": "yes"}, jo.OptionError, r"progress must be True or Fal"),
    "sharding of a string": ({"sharding": "all"}, jo.OptionError, r"sharding must be a .*'all'"),
}


@pytest.mark.parametrize("case", SHARED)
def test_what_solve_refuses_too(case):
    options, error, message = SHARED[case]
    refuse(error, message, **options)


@pytest.mark.parametrize("lanes", [0, -1, 2.5, "many", True])
def test_lanes(lanes):
    refuse(jo.OptionError, rf"lanes must be a positive integer or None, got {lanes!r}", lanes=lanes)


def test_more_than_the_machine_holds_is_refused_with_the_bytes():
    """A petabyte of steps; nothing of it is asked for before it is refused."""
    refuse(
        jo.OutOfMemoryError,
        r"3 trajectories need \d+ bytes, .*saved values .*save fewer times or a function",
        save="steps",
        max_steps=2**31 - 2,
        y0=jnp.ones((3, 20_000)),
    )


def test_dense_output_that_was_not_asked_for():
    sols = jax.eval_shape(lambda: jo.solve_batch(decay, Y0, TS))
    with pytest.raises(jo.OptionError, match=r"sol\(t\) needs dense output"):
        sols(0.5)


def test_work_is_a_number_per_trajectory():
    refuse(jo.BatchError, r"work has shape \(2,\) where 3 trajectories need \(3,\)", work=[1, 2])
    refuse(jo.BatchError, "work holds values that are not finite", work=[1.0, 2.0, np.nan])
