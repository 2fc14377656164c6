"""The discrete gradient of a batch, against that of its single solves and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from tests.support.batch_losses import BatchLoss, N
from tests.support.batches import in_tile, one_by_one
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
# Each case in one of the tiles; the other tile is slow, and so are two kinds of implicit solvers.
RUNS = [
    ("ends", True),
    ("ts", False),
    ("function", True),
    ("steps", False),
    ("dense", True),
    ("linearly implicit", False),
]
MORE_RUNS = [(name, wide) for name in CASES for wide in (False, True) if (name, wide) not in RUNS]
MORE_RUNS.remove(("adaptive", True))


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


ROUGH = {"solver": "bosh3", "rtol": 1e-3, "atol": 1e-5, "dt": 0.7, "max_steps": 64}


def swing(p):
    """A field that all trajectories share: `args`, and an array that it closes over."""

    def f(t, y, args):
        return jnp.stack([args * y[1], -p["c"] * jnp.sin(3 * y[0])])

    return f


def single_loss(p, y):
    return weighted(jo.solve(swing(p), y, (0.0, 2.0), p["k"], **ROUGH).y1)


def batch_loss(p, ys):
    sols = jo.solve_batch(swing(p), ys, (0.0, 2.0), p["k"], lanes=3, **ROUGH)
    return jnp.sum(jax.vmap(weighted)(sols.y1))


SHARED = {"k": jnp.array(1.3), "c": jnp.array(2.0)}
STARTS = 2 * jax.random.normal(jax.random.key(5), (N, 2))


@functools.cache
def gradient_of_each():
    """The gradient of each trajectory by what they share."""
    return one_by_one(lambda y: jax.grad(single_loss)(SHARED, y), 0, STARTS)


def test_vmap_of_a_gradient_by_what_is_shared_has_one_for_each_lane():
    """Not their sum, which a rule of solve for vmap that sums would give."""
    lanes = jax.jit(jax.vmap(jax.grad(single_loss), (None, 0)))(SHARED, STARTS)
    assert lanes["k"].shape == lanes["c"].shape == (N,)
    assert_close(lanes, gradient_of_each(), 1e-10)
    for own in jax.tree.leaves(lanes):
        assert np.min(np.abs(own - np.sum(own))) > 0.1 * np.max(np.abs(own))


def test_gradient_of_a_batch_by_what_is_shared_is_the_sum():
    """Outside jit, where the batch is compiled by itself; rejected steps count for nothing."""
    total = jax.grad(batch_loss)(SHARED, STARTS)
    assert_close(total, jax.tree.map(lambda x: jnp.sum(x, axis=0), gradient_of_each()), 1e-10)


@pytest.mark.slow
def test_vmap_of_gradients_of_batches():
    """Two batches at once, of other parameters and starts: a gradient by both for each."""
    many = jax.tree.map(lambda x: x * jnp.array([1.0, 0.7]), SHARED)
    starts = jnp.stack([STARTS, STARTS[::-1]])
    run = in_tile(False, jax.vmap(jax.grad(batch_loss, argnums=(0, 1))), many, starts)

    def alone(p, starts):
        own, by_start = jax.lax.map(lambda y: jax.grad(single_loss, argnums=(0, 1))(p, y), starts)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), own), by_start

    assert_close(run(many, starts), one_by_one(alone, 0, many, starts), 1e-10)
