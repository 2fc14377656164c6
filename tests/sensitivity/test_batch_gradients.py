"""The discrete gradient of a batch, against that of its single solves and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from tests.support.batch_losses import BatchLoss, N
from tests.support.batches import in_tile
from tests.support.differences import assert_close, weighted


def differences(function, point, step=1e-3):
    """Central differences of order four, by calls of a compiled function."""
    flat, unravel = ravel_pytree(point)
    flat, unravel = np.asarray(flat), jax.jit(unravel)
    shifts, weights = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0])
    slopes = np.zeros_like(flat)
    for i in range(flat.size):
        moved = [flat + shift * step * (np.arange(flat.size) == i) for shift in shifts]
        values = [function(unravel(x)) for x in moved]
        slopes[i] = np.dot(weights, values) / (12 * step)
    return unravel(slopes)


CASES = {
    "ends": BatchLoss("ends", "midpoint", "ends"),
    "ts": BatchLoss("ts", "rk4", "own"),
    "function": BatchLoss("function", "euler", "odd"),
    "steps": BatchLoss("steps", "euler", "own"),
    "dense": BatchLoss("dense", "midpoint", "shared"),
    "implicit": BatchLoss("ts", "kvaerno3", "own"),
    "collocation": BatchLoss("ts", "radau_iia5", "own"),
    "linearly implicit": BatchLoss("ends", "rosenbrock23", "ends"),
    "adaptive": BatchLoss("ts", "tsit5", "shared"),
}
# Two ways to save, in one of the tiles; the others, and implicit solvers, are slow.
RUNS = [("ends", True), ("steps", False)]
# Each other case in the lanes that it does not share with the one before.
MORE_RUNS = [(name, number % 2 == 1) for number, name in enumerate(CASES)]
MORE_RUNS = [run for run in MORE_RUNS if run not in (*RUNS, ("adaptive", True))]


@functools.cache
def single(name):
    """The gradient of single solves of a case, one trajectory after another."""
    return jax.jit(jax.grad(CASES[name].loop))(CASES[name].point)


@pytest.mark.parametrize(
    ("name", "wide"),
    [*RUNS, *(pytest.param(*run, marks=pytest.mark.slow) for run in MORE_RUNS)],
)
def test_gradients_are_those_of_single_solves_and_differences(name, wide):
    """The log holds few steps, so that it is written many times."""
    case, p = CASES[name], CASES[name].point
    run = in_tile(wide, jax.value_and_grad(case.batch), p, segment=1)
    gradient = run(p)[1]
    assert_close(gradient, single(name), 1e-10)
    adaptive = case.solver == "tsit5"
    slopes = differences(lambda p: run(p)[0], p, 3e-3 if adaptive else 1e-3)
    if case.ts == "odd":  # two times that are equal cannot move by themselves
        del gradient["ts"], slopes["ts"]
    assert_close(gradient, slopes, 1e-6 if adaptive else 1e-9)


def rotation_and_decay(t, y, args):
    size = jnp.sum(jnp.abs(y["wave"]) ** 2)
    return {
        "wave": args * y["wave"],
        "real": (-size * y["real"][0] @ y["real"][0].T @ y["real"][0],),
    }


@pytest.mark.slow
def test_complex_states_and_matrices_with_tolerances_of_their_own():
    def loss(p):
        y0 = {"wave": p["a"] + 1j * p["b"], "real": (p["m"],)}
        args, rtol = p["b"][:, 0] + 1.5j * p["a"][:, 0], jnp.full(N, 1e-3)
        sols = jo.solve_batch(
            rotation_and_decay, y0, (0.2, 1.4), args, in_axes=(0, None, 0, 0, None),
            rtol=rtol, lanes=3, controller=jo.Fixed(0.17), max_steps=16,
        )  # fmt: skip
        return weighted(sols.ys)

    a, b, m = np.random.default_rng(0).standard_normal((3, N, 2))
    p = {"a": 0.6 * a, "b": 0.4 * b, "m": 0.3 * np.stack([m, -m[:, ::-1]], 1)}
    run = in_tile(False, jax.value_and_grad(loss), p)
    assert_close(run(p)[1], differences(lambda p: run(p)[0], p), 1e-9)
