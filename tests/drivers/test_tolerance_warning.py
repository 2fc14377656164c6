"""The warning about a tolerance that is too fine points at the user's line, in every driver."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import pytest

import jaxode as jo

Y0 = jnp.ones(2)
FINE = {"rtol": 1e-15, "max_steps": 2, "throw": False}


def decay(t, y, args):
    return -y


DRIVERS = {
    "solve": lambda y: jo.solve(decay, y, (0.0, 0.1), **FINE),
    "solve_batch": lambda y: jo.solve_batch(decay, y[:, None], (0.0, 0.1), **FINE),
    "solve_batch, a tolerance each": lambda y: jo.solve_batch(
        decay,
        y[:, None],
        (0.0, 0.1),
        in_axes=(0, None, None, 0, None),
        **FINE | {"rtol": 1e-15 * y},
    ),
    "steady_state": lambda y: jo.steady_state(decay, y, **FINE),
    "odeint": lambda y: jo.odeint(lambda y, t: -y, y, jnp.array([0.0, 1e-3]), rtol=1e-15),
    "NeuralODE": lambda y: jo.NeuralODE(decay, **FINE)(y, jnp.array([0.0, 0.1])),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_the_warning_points_at_the_user(name):
    check_line(DRIVERS[name], DRIVERS[name], Y0)


def test_the_warning_points_into_a_function_under_jit():
    def traced(y):
        return jo.solve(decay, y, (0.0, 0.1), **FINE).y1

    check_line(traced, jax.jit(traced), Y0)


def check_line(function, call, *inputs):
    """`call(*inputs)` warns at a line of the source of `function`."""
    lines, first = inspect.getsourcelines(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*inputs)
    caught = [w for w in caught if w.category is jo.ToleranceWarning]
    assert caught
    for warning in caught:
        assert warning.filename == __file__
        assert first <= warning.lineno < first + len(lines)
