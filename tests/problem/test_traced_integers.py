"""Integers of Python in `args`, outside of `jit`: traced unless their value is needed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.compilations import compilations_of

Y0 = jnp.array([1.0, -0.5])
SPAN = (0.0, 0.5)
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}


def end(f, args, y0=Y0):
    return jo.solve(f, y0, SPAN, args, **TIGHT).y1


def compiled_anew(f, *several):
    """For each of these arguments after the first, if it compiled a program."""
    end(f, several[0])
    return [compilations_of(end, f, args) > 0 for args in several[1:]]


def test_an_integer_that_changes_does_not_recompile():
    f = lambda t, y, a: -a["n"] * y  # noqa: E731
    assert compiled_anew(f, {"n": 1}, {"n": 2}, {"n": 3}) == [False, False]
    np.testing.assert_allclose(end(f, {"n": 3}), np.exp(-1.5) * Y0, rtol=1e-6)


def test_of_two_integers_the_one_that_sizes_something_alone_is_known():
    def f(t, y, args):
        count, rate = args
        return -rate * sum((y for _ in range(count)), 0 * y)

    assert compiled_anew(f, (2, 1), (2, 3), (3, 3), (3, 1)) == [False, True, False]
    np.testing.assert_allclose(end(f, (2, 3)), np.exp(-3.0) * Y0, rtol=1e-6)
    np.testing.assert_allclose(end(f, (3, 1)), np.exp(-1.5) * Y0, rtol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_power_keeps_value_and_gradient(n):
    f = lambda t, y, a: -(y ** a[0]) + 0 * y  # noqa: E731
    g = lambda t, y, a: -(y**n) + 0 * y  # noqa: E731
    for y0 in (Y0, jnp.zeros(2)):
        np.testing.assert_allclose(end(f, (n,), y0), end(g, None, y0), rtol=1e-9, atol=1e-12)
        values = jax.grad(lambda y: jnp.sum(end(f, (n,), y)))(y0)
        np.testing.assert_allclose(
            values, jax.grad(lambda y: jnp.sum(end(g, None, y)))(y0), rtol=1e-7, atol=1e-9
        )


@pytest.mark.parametrize(
    "rate",
    [
        lambda n: 10**-n,
        lambda n: 10**n / 10**12,
        lambda n: n**11 / 3**20,
        lambda n: (-1) ** n,
        lambda n: 1 / (n * 1_000_000_007),
        lambda n: {3: 0.25}.get(n, 0.5),
        lambda n: float(n),
        lambda n: jnp.zeros(n).size,
        lambda n: n / 2,
        lambda n: n // 2 + n % 2,
    ],
)
def test_arithmetic_is_that_of_python(rate):
    f = lambda t, y, a: -rate(a) * y  # noqa: E731
    np.testing.assert_allclose(end(f, 3), np.exp(-0.5 * rate(3)) * Y0, rtol=1e-6)


def test_a_loop_up_to_an_integer_keeps_its_gradient():
    def f(t, y, n):
        return jax.lax.fori_loop(0, n, lambda i, s: s - y / 4, 0 * y)

    gradient = jax.grad(lambda y: jnp.sum(end(f, 2, y)))(Y0)
    np.testing.assert_allclose(gradient, np.exp(-0.25) * np.ones(2), rtol=1e-6)


def test_integers_of_a_batch_and_of_an_event():
    event = jo.Event(lambda t, y, a: t - a["at"] / 8, terminal=True)
    batch = jnp.ones((3, 2))

    def solve(n, at):
        args = {"n": n, "k": jnp.arange(3.0), "at": at}
        axes = (0, None, {"n": None, "k": 0, "at": None})
        f = lambda t, y, a: -a["n"] * a["k"] * y  # noqa: E731
        return jo.solve_batch(f, batch, SPAN, args, in_axes=axes, events=event, **TIGHT)

    solve(1, 1)
    assert compilations_of(lambda: solve(2, 2)) == 0
    sols = solve(2, 2)
    np.testing.assert_allclose(sols.stats.t_reached, 0.25, rtol=1e-6)
    np.testing.assert_allclose(sols.y1[:, 0], np.exp(-0.5 * np.arange(3)), rtol=1e-6)


def test_an_integer_too_large_for_32_bits():
    f = lambda t, y, n: -y * (n / 2**40)  # noqa: E731
    np.testing.assert_allclose(end(f, 2**40), np.exp(-0.5) * Y0, rtol=1e-6)


def test_an_error_of_the_field_is_that_of_the_user():
    def f(t, y, n):
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        end(f, 3)
