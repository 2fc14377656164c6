"""All sensitivities have the same derivative, for random fields, states and times."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxode as jo

MODES: dict[str, Any] = {
    "discrete": jo.Discrete(),
    "three states": jo.Discrete(memory=3),
    "stages": jo.Discrete(memory="stages"),
    "forward": jo.Forward(),
    "reversible": jo.Reversible(),
    "backsolve": jo.Continuous(method="backsolve"),
    "quadrature": jo.Continuous(method="quadrature"),
    "interpolate": jo.Continuous(method="interpolate"),
}
# The discrete ones differentiate the computed solution, the others the equation's.
EXACT = ("three states", "stages", "forward")
SIZE = 2
numbers = st.integers(-100, 100).map(lambda n: n / 100)


def field(t, y, args):
    """Bounded, so that no draw runs away; a component of the arguments has no part in it."""
    return jnp.sin(args["a"] @ y + args["b"] * t) - args["rate"] * y


@functools.cache
def derivative(solver: str, mode: str):
    """The derivative of a weighted end and middle, along a direction: compiled once."""

    def loss(point):
        y0, args, ts = point
        options = {"solver": solver, "sensitivity": MODES[mode], "rtol": 1e-9, "atol": 1e-9}
        ys = jo.solve(field, y0, ts, args, throw=False, **options).ys
        return jnp.sum(jnp.cos(jnp.arange(3.0))[:, None] * jnp.sin(ys) * jnp.arange(1.0, SIZE + 1))

    def forwards(point, along):
        return jax.jvp(loss, (point,), (along,))[1]

    def backwards(point, along):
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(point), along)
        return jax.tree.reduce(jnp.add, products)

    return jax.jit(forwards if mode == "forward" else backwards)


@st.composite
def problems(draw):
    """A point, and a direction to differentiate along."""

    def array(*shape):
        count = int(np.prod(shape))
        return jnp.array(draw(st.lists(numbers, min_size=count, max_size=count))).reshape(shape)

    def point():
        return (
            array(SIZE),
            {"a": array(SIZE, SIZE), "b": array(SIZE), "rate": array(), "unused": array(2)},
            array(3),
        )

    y0, args, _ = point()
    start, first, second = draw(numbers), *(draw(st.integers(0, 150)) / 100 for _ in range(2))
    sign = draw(st.sampled_from([-1.0, 1.0]))
    ts = start + sign * jnp.array([0.0, first, first + second + 0.01])
    return (y0, args, ts), point()


@pytest.mark.parametrize("solver", ["tsit5", pytest.param("rodas5p", marks=pytest.mark.slow)])
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(problem=problems())
def test_modes_agree(solver, problem):
    point, along = problem
    expected = derivative(solver, "discrete")(point, along)
    assert np.isfinite(expected)
    for mode in MODES:
        if mode == "reversible" and solver == "rodas5p":
            continue
        tolerance = 1e-10 if mode in EXACT else 1e-5
        got = derivative(solver, mode)(point, along)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=mode)
