"""What Discrete keeps of the forward pass: every choice gives the same gradient."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.batch import checkpoints
from tests.support.differences import assert_close

Y0, TS = jnp.array([2.0, 0.0]), jnp.linspace(0.0, 3.0, 5)
QUERIES = jnp.array([0.3, 1.4])
CASES = [
    ("tsit5", "ts"),
    ("tsit5", "dense"),
    ("vern7", "steps"),
    ("kvaerno5", "dense"),
    ("bdf", "ts"),
    ("rk4", "steps"),
]


def oscillator(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * jnp.sin(y[1]) - y[0]])


@functools.cache
def gradients(memory, name, save):
    """The gradient of a sum of what is saved, by start, parameter and times."""

    def loss(y0, mu, ts):
        options: dict[str, Any] = {"dt": 0.05} if name == "rk4" else {}
        options |= {"solver": name, "sensitivity": jo.Discrete(memory=memory), "save": save}
        sol = jo.solve(oscillator, y0, ts, mu, rtol=1e-5, atol=1e-7, max_steps=200, **options)
        values = sol.ys if sol.dense is None else sol(QUERIES)
        return jnp.sum(jnp.sin(jnp.where(jnp.isnan(values), 0, values)))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(Y0, jnp.array(1.5), TS)


# test_modes_agree compares a few states and the stages of "tsit5" (fast) and "rodas5p".
KEPT = [
    pytest.param(*case, memory, marks=pytest.mark.slow)
    for case in CASES
    for memory in ((None, 1, 9, "stages") if case == CASES[0] else (2, "stages"))
]


@pytest.mark.parametrize(("name", "save", "memory"), KEPT)
def test_what_is_kept_does_not_change_the_gradient(name, save, memory):
    assert_close(gradients(memory, name, save), gradients("steps", name, save), 1e-9)


@functools.cache
def gradient_of_euler_steps(memory, max_steps):
    """The gradient of the end of a linear equation, as a compiled function of rate and `dt`."""
    how = jo.Discrete(memory=memory)

    def end(rate, dt):
        options = {"solver": "euler", "dt": dt, "max_steps": max_steps, "sensitivity": how}
        return jo.solve(lambda t, y, k: k * y, 1.0, (0.0, 1.0), rate, **options).y1

    return jax.jit(jax.grad(end))


@pytest.mark.parametrize(
    ("memory", "max_steps"), [(1, 100), (3, 100), (20, 100), (200, 100), (3, 7), (1, 1)]
)
def test_any_number_of_steps_goes_into_any_number_of_states(memory, max_steps):
    """Of a linear equation by Euler's steps, known in closed form."""
    for count in (1, 2, 7, 64, 100):
        if count <= max_steps:
            expected = (1 + 0.5 / count) ** (count - 1)
            gradient = gradient_of_euler_steps(memory, max_steps)(0.5, 1.0 / count)
            np.testing.assert_allclose(gradient, expected, rtol=1e-12, err_msg=str(count))


def test_with_the_stages_nothing_is_computed_again():
    calls = []

    def host(y):
        calls.append(1)
        return np.asarray(-np.sin(y))

    @jax.custom_vjp
    def slope(y):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    slope.defvjp(lambda y: (slope(y), y), lambda y, ct: (-jnp.cos(y) * ct,))

    def loss(y0, memory):
        how = {"sensitivity": jo.Discrete(memory=memory), "max_steps": 20, "dt": 0.1}
        return jo.solve(lambda t, y, _: slope(y), y0, (0.0, 1.0), solver="rk4", **how).y1

    def count(memory):
        value = jax.jit(jax.value_and_grad(lambda y0: loss(y0, memory))).lower(0.5).compile()
        calls.clear()
        jax.block_until_ready(value(0.5))
        return len(calls)

    jax.jit(lambda y0: loss(y0, None))(0.5).block_until_ready()
    assert count("stages") == 10 * 4
    assert count("steps") > 10 * 4


def temporary(memory: Any, steps: int) -> int:
    """Bytes that XLA sets aside for the gradient."""

    def loss(rate):
        options = {"controller": jo.Fixed(1.0 / steps), "max_steps": steps}
        how = jo.Discrete(memory=memory)
        y0 = jnp.linspace(0.0, 1.0, 20_000)
        field = lambda t, y, rate: -rate * jnp.sin(y)  # noqa: E731
        return jnp.sum(jo.solve(field, y0, (0.0, 1.0), rate, sensitivity=how, **options).y1)

    compiled = jax.jit(jax.grad(loss)).lower(1.0).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes


def test_a_number_of_states_is_all_that_is_kept():
    few, many = temporary(32, 100), temporary(np.int64(32), 10_000)
    assert abs(many / few - 1) < 0.05
    assert temporary("steps", 100) > 2 * few


@functools.cache
def batch_gradient(memory, lanes):
    starts = jax.random.normal(jax.random.key(0), (5, 2))
    how = jo.Discrete(memory=memory)

    def loss(starts, mu):
        options: dict[str, Any] = {"sensitivity": how, "max_steps": 200, "lanes": lanes}
        sols = jo.solve_batch(oscillator, starts, TS, mu, in_axes=(0, None, None), **options)
        return jnp.sum(jnp.sin(sols.ys))

    return jax.jit(jax.grad(loss, (0, 1)))(starts, jnp.array(1.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "lanes"),
    [
        (1, 2),
        *(
            pytest.param(memory, lanes, marks=pytest.mark.slow)
            for memory, lanes in [(3, 2), ("steps", 2), (1, 5), (3, 5), ("steps", 5)]
        ),
    ],
)
def test_a_batch_keeps_as_many_snapshots(memory, lanes):
    """In fewer lanes than trajectories, and in as many."""
    assert_close(batch_gradient(memory, lanes), batch_gradient(None, lanes), 1e-10)


@pytest.mark.parametrize("memory", [0, -1, True, 2.5, "all"])
def test_another_memory_is_refused(memory):
    with pytest.raises(jo.OptionError, match='a number of states, "steps", "stages" or None'):
        jo.Discrete(memory=memory)


def test_stages_of_a_batch_are_refused():
    with pytest.raises(jo.OptionError, match='for a batch use memory="steps"'):
        jo.solve_batch(oscillator, Y0[None], TS, 1.5, sensitivity=jo.Discrete(memory="stages"))


def test_stages_that_do_not_fit_are_refused_with_their_bytes():
    def loss(y0):
        options = {"sensitivity": jo.Discrete(memory="stages"), "max_steps": 10**9}
        return jnp.sum(jo.solve(lambda t, y, _: -jnp.sin(y), y0, (0.0, 1.0), **options).y1)

    with pytest.raises(jo.OutOfMemoryError, match=r"bytes.*lower max_steps"):
        jax.jit(jax.grad(loss))(jnp.ones(1000))


def harmonic(t, y, p):
    return jnp.stack([y[1], -p * y[0]])


def loss_of_one(p, max_steps, rtol=1e-6):
    ts = jnp.linspace(0.0, 2.0, 4)
    sol = jo.solve(harmonic, jnp.ones(2), ts, p, rtol=rtol, max_steps=max_steps, throw=False)
    return jnp.sum(sol.ys**2)


def loss_of_many(p, max_steps, rtol=1e-6):
    starts, ts = jnp.ones((3, 2)) * jnp.arange(1.0, 4.0)[:, None], jnp.linspace(0.0, 2.0, 4)
    sol = jo.solve_batch(harmonic, starts, ts, p, rtol=rtol, max_steps=max_steps)
    return jnp.sum(sol.ys**2)


@pytest.mark.parametrize("loss", [loss_of_one, loss_of_many])
def test_no_array_grows_with_the_largest_number_of_steps(loss):
    def largest(max_steps):
        text = jax.jit(jax.grad(lambda p: loss(p, max_steps))).lower(2.0).as_text()
        shapes = re.findall(r"tensor<((?:\d+x)+)", text)
        return max(math.prod(map(int, shape[:-1].split("x"))) for shape in shapes)

    # The rows of one segment; buffers of all steps would have a million.
    assert largest(10**6) == largest(10**5) < 50_000


@pytest.mark.slow
def test_a_solve_of_very_many_steps_has_the_gradient_of_a_short_one():
    short, long = (jax.jit(jax.grad(loss_of_one), static_argnums=1)(2.0, n) for n in (300, 10**6))
    assert_close(long, short, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss_of_one, loss_of_many])
def test_thinned_snapshots_give_the_gradient_of_all(loss, monkeypatch):
    """Of about 70 segments there are at most 6 snapshots; those between are made again."""

    def gradient(max_steps):
        return jax.jit(jax.grad(lambda p: loss(p, max_steps, rtol=1e-12)))(2.0)

    expected = gradient(4096)
    monkeypatch.setattr(checkpoints, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(checkpoints, "SEGMENT_ROWS", 4)
    monkeypatch.setattr(checkpoints, "MAX_SNAPSHOTS", 6)
    assert_close(gradient(10**6), expected, 1e-12)
