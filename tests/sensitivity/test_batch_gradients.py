"""The discrete gradient of a batch, against that of its single solves and finite differences."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from tests.support.batches import in_tile, one_by_one
from tests.support.differences import assert_close, weighted

N = 7
TS = jnp.array([0.2, 0.5, 0.9, 1.4])
# Seven steps of 0.17 and one cut short, and other spans whose number of steps nothing here changes.
OWN_TS = jnp.array([0.2, 1.4, 0.1, 0.3, 0.0, 1.1, -0.2])[:, None] + jnp.outer(
    jnp.array([1.2, -1.2, 0.5, 0.1, 2.0, -0.7, 0.9]), jnp.array([0.0, 0.3, 0.6, 1.0])
)
ENDS = (0.2, 0.2 + OWN_TS[:, -1] - OWN_TS[:, 0])
ODD_TS = jnp.array(
    [
        [0.3, 0.3, 0.3, 0.3],
        [1.4, 0.9, 0.5, 0.2],
        [0.2, 0.5, 0.9, 1.4],
        [0.0, 0.0, 0.6, 0.7],
        [0.5, 0.5, 0.5, 0.5],
        [0.1, 0.2, 0.4, 0.4],
        [3.0, 2.0, 2.0, 1.0],
    ]
)
MAPS_K = {"k": 0, "speed": None}
PLACES = jnp.array([0.1, 0.45, 0.95])


class Field(eqx.Module):
    bend: Any
    inner: Any
    name: str = eqx.field(static=True, default="field")

    def __call__(self, t, y, args):
        bend = -args["k"] * jnp.sin(y[0]) + self.bend * jnp.sin(3 * t) * y[0] ** 2
        return args["speed"] * jnp.stack([y[1], bend]) + self.inner * y


def point(ts):
    return {
        "y0": 0.7 * jax.random.normal(jax.random.key(0), (N, 2)),
        "args": {"k": jnp.linspace(0.5, 4.0, N), "speed": jnp.array([1.1, 0.9])},
        "inner": jnp.array([-0.2, 0.1]),
        "bend": jnp.array(1.2),
        "ts": ts,
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """A save mode with one of the solvers and kinds of times."""

    save: str
    solver: str
    ts: str

    @property
    def point(self):
        ts = {"shared": TS, "own": OWN_TS, "odd": ODD_TS, "ends": ENDS}[self.ts]
        return point(ts)

    @property
    def axes(self):
        return {"shared": None, "ends": (None, 0)}.get(self.ts, 0)

    @property
    def options(self):
        if self.solver == "tsit5":
            return {"rtol": 1e-10, "atol": 1e-10, "max_steps": 512, "dt": 0.5}
        return {"controller": jo.Fixed(0.17), "max_steps": 16}

    def outputs(self, solve, p, y0, ts, args, **more):
        """What the loss is made of, of a solve or a batch."""
        save = {"function": self.read(p), "ends": "ts"}.get(self.save, self.save)
        field = Field(p["bend"], p["inner"])
        # Of a module, and of a plain function that closes over one.
        f = field if self.save == "steps" else lambda t, y, args: p["inner"] * field(t, y, args)
        sol = solve(f, y0, ts, args, solver=self.solver, save=save, **self.options, **more)
        ys = sol.ys
        if self.save == "steps":
            known = jnp.arange(sol.ts.shape[-1]) <= sol.stats.num_accepted[..., None]
            ys = jnp.where(known[..., None], ys, 0.0), jnp.where(known, sol.ts, 0.0)
        elif self.save == "dense":
            times = sol.ts[..., :1] + PLACES * (sol.ts[..., -1:] - sol.ts[..., :1])
            many = sol.status.ndim == 1
            axes = (0, None if times.ndim == 1 else 0)
            # That is what the values at `ts` are read from too.
            ys = jax.vmap(lambda d, t: d(t), axes)(sol.dense, times) if many else sol(times)
        return ys, 2.0 * sol.y1

    def read(self, p):
        def read(t, y, args):
            return {"product": y[0] * y[1] * args["k"], "when": jnp.cos(t) * y * p["inner"]}

        return read

    def batch(self, p):
        in_axes = (0, self.axes, MAPS_K)
        parts = p["y0"], p["ts"], p["args"]
        return weighted(self.outputs(jo.solve_batch, p, *parts, in_axes=in_axes, lanes=3))

    def loop(self, p):
        def one(y0, ts, args):
            return self.outputs(jo.solve, p, y0, ts, args)

        parts = p["y0"], p["ts"], p["args"]
        return weighted(one_by_one(one, (0, self.axes, MAPS_K), *parts))


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
    "ends": Case("ends", "midpoint", "ends"),
    "ts": Case("ts", "rk4", "own"),
    "function": Case("function", "euler", "odd"),
    "steps": Case("steps", "euler", "own"),
    "dense": Case("dense", "midpoint", "shared"),
    "implicit": Case("ts", "kvaerno3", "own"),
    "collocation": Case("ts", "radau_iia5", "own"),
    "linearly implicit": Case("ends", "rosenbrock23", "ends"),
    "adaptive": Case("ts", "tsit5", "shared"),
}
RUNS = [(name, wide) for name in CASES for wide in (False, True)][:-1]


@functools.cache
def single(name):
    return jax.jit(jax.grad(CASES[name].loop))(CASES[name].point)


@pytest.mark.parametrize(("name", "wide"), RUNS)
def test_gradients_are_those_of_single_solves_and_differences(name, wide):
    """The log has room for a few turns alone, so it is written again and again."""
    case, p = CASES[name], CASES[name].point
    run = in_tile(wide, jax.value_and_grad(case.batch), p, segment=1)
    gradient = run(p)[1]
    assert_close(gradient, single(name), 1e-10)
    adaptive = case.solver == "tsit5"
    slopes = differences(lambda p: run(p)[0], p, 3e-3 if adaptive else 1e-3)
    if case.ts == "odd":  # two times that are equal cannot move by themselves
        del gradient["ts"], slopes["ts"]
    assert_close(gradient, slopes, 1e-6 if adaptive else 1e-9)


def turn(t, y, args):
    size = jnp.sum(jnp.abs(y["wave"]) ** 2)
    return {
        "wave": args * y["wave"],
        "real": (-size * y["real"][0] @ y["real"][0].T @ y["real"][0],),
    }


def test_complex_states_and_matrices_with_tolerances_of_their_own():
    def loss(p):
        y0 = {"wave": p["a"] + 1j * p["b"], "real": (p["m"],)}
        args, rtol = p["b"][:, 0] + 1.5j * p["a"][:, 0], jnp.full(N, 1e-3)
        sols = jo.solve_batch(
            turn, y0, (0.2, 1.4), args, in_axes=(0, None, 0, 0, None), rtol=rtol, lanes=3,
            controller=jo.Fixed(0.17), max_steps=16,
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


def loss_of(p, y):
    return weighted(jo.solve(swing(p), y, (0.0, 2.0), p["k"], **ROUGH).y1)


def batch_loss(p, ys):
    sols = jo.solve_batch(swing(p), ys, (0.0, 2.0), p["k"], lanes=3, **ROUGH)
    return jnp.sum(jax.vmap(weighted)(sols.y1))


SHARED = {"k": jnp.array(1.3), "c": jnp.array(2.0)}
STARTS = 2 * jax.random.normal(jax.random.key(5), (N, 2))


@functools.cache
def each():
    """The gradient of each trajectory by what they share."""
    return one_by_one(lambda y: jax.grad(loss_of)(SHARED, y), 0, STARTS)


def test_vmap_of_a_gradient_by_what_is_shared_has_one_for_each_lane():
    """Not their sum, which a rule of solve for vmap that sums would give."""
    lanes = jax.jit(jax.vmap(jax.grad(loss_of), (None, 0)))(SHARED, STARTS)
    assert lanes["k"].shape == lanes["c"].shape == (N,)
    assert_close(lanes, each(), 1e-10)
    for own in jax.tree.leaves(lanes):
        assert np.min(np.abs(own - np.sum(own))) > 0.1 * np.max(np.abs(own))


def test_gradient_of_a_batch_by_what_is_shared_is_the_sum():
    """Outside jit, where the batch is compiled by itself; rejected steps count for nothing."""
    total = jax.grad(batch_loss)(SHARED, STARTS)
    assert_close(total, jax.tree.map(lambda x: jnp.sum(x, axis=0), each()), 1e-10)


def test_vmap_of_gradients_of_batches():
    """Two batches at once, of other parameters and starts: a gradient by both for each."""
    many = jax.tree.map(lambda x: x * jnp.array([1.0, 0.7]), SHARED)
    starts = jnp.stack([STARTS, STARTS[::-1]])
    run = in_tile(False, jax.vmap(jax.grad(batch_loss, argnums=(0, 1))), many, starts)

    def alone(p, starts):
        own, by_start = jax.lax.map(lambda y: jax.grad(loss_of, argnums=(0, 1))(p, y), starts)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), own), by_start

    assert_close(run(many, starts), one_by_one(alone, 0, many, starts), 1e-10)
