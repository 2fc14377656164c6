"""`solve_batch` against single solves: every solver, save mode and way to map an argument."""

import dataclasses
import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.batch.order import run_longest_first
from jaxode.solvers.registry import SOLVERS
from tests.support.batches import assert_bits, assert_same, in_tile, one_by_one, outcome
from tests.support.registry import FAMILIES, ITERATING, PARTITIONED
from tests.support.sweeps import few

N = 8
Y0 = jax.random.normal(jax.random.key(0), (N, 2))
K = jnp.array([0.3, 0.03, 4.0, 0.1, 1.2, 0.01, 9.0, 0.5])
ARGS = {"k": K, "push": 0.7}
MAPS_K = {"k": 0, "push": None}
TS = jnp.array([0.2, 0.5, 0.9, 1.4])
# Forwards, backwards, over no time, with repeats at either end and inside.
OWN_TS = jnp.array(
    [
        [0.2, 0.5, 0.9, 1.4],
        [1.4, 0.9, 0.5, 0.2],
        [0.3, 0.3, 0.3, 0.3],
        [0.0, 0.0, 0.6, 0.7],
        [0.1, 0.2, 0.4, 0.4],
        [0.5, 0.5, 0.5, 0.5],
        [0.2, 0.3, 0.3, 0.4],
        [3.0, 2.0, 2.0, 2.0],
    ]
)
# Values hang on the bits of the step sizes, which are float32, by as much as the steps err.
FINE: dict[str, Any] = {"solver": "bosh3", "rtol": 1e-7, "atol": 1e-9, "max_steps": 1024}
QUERIES = jnp.array([0.25, 0.3, 0.45, 0.7, 1.1, 2.5])


def pull(t, y, args):
    return args["k"] * (args["push"] * jnp.cos(t) - y)


def swing(t, y, args):
    return jnp.stack([y[1], args["k"] * (args["push"] * jnp.cos(t) - jnp.sin(y[0]))])


def read(t, y, args):
    return {"product": y[0] * y[1] * args["k"], "when": jnp.cos(t) * y}


@pytest.mark.parametrize("name", few(FAMILIES, "tsit5", "rk4", "rodas5p", "stormer_verlet"))
def test_every_solver_equals_its_single_solves(name):
    """Steps of their own: adaptive ones by the rates, fixed ones by the spans of time."""
    solver = SOLVERS[name]()
    fixed = solver.error_exponent is None
    options = FINE | {"solver": name, "max_steps": 4096}
    if fixed:
        options["dt"] = 0.013
    elif (solver.error_exponent or 0) < 3:
        options |= {"rtol": 1e-5, "atol": 1e-5}
    ts, axes = (OWN_TS, 0) if fixed else (TS, None)
    f = swing if name in PARTITIONED else pull
    # Reversible solvers damp nothing: where solutions draw near each other they take tiny steps.
    rates = 0.1 * K if solver.reversible and not fixed else K

    def batch(y, ts, k):
        more = {"in_axes": (0, axes, MAPS_K), "lanes": 3}
        return outcome(jo.solve_batch(f, y, ts, {"k": k, "push": 0.7}, **more, **options))

    def single(y, ts, k):
        return outcome(jo.solve(f, y, ts, {"k": k, "push": 0.7}, **options))

    expected = one_by_one(single, (0, axes, 0), Y0, ts, rates)
    assert np.all(expected[2] == jo.Status.SUCCESS)
    assert len(np.unique(expected[-1].num_steps)) > 3
    loose = {"rtol": options["rtol"], "counts": 4} if name in ITERATING else {}
    assert_same(in_tile(False, batch, Y0, ts, rates)(Y0, ts, rates), expected, **loose)
    ts, expected = ts[..., ::3], (expected[0][:, ::3], *expected[1:])
    *got, stats = in_tile(True, batch, Y0, ts, rates)(Y0, ts, rates)
    if solver.evaluations.dense:  # the steps that are read inside have more
        stats = dataclasses.replace(stats, num_evaluations=expected[-1].num_evaluations)
    assert_same((*got, stats), expected, **loose)


@dataclasses.dataclass
class Case:
    """A batch; `tolerances` are `rtol` and `atol`, and then `in_axes` has five entries."""

    y0: Any = dataclasses.field(default_factory=lambda: Y0)
    ts: Any = dataclasses.field(default_factory=lambda: TS)
    args: Any = dataclasses.field(default_factory=lambda: ARGS)
    in_axes: Any = (0, None, MAPS_K)
    f: Callable = pull
    tolerances: tuple = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-12
    wide: bool = False

    def run(self, solve, y0, ts, args, *tolerances, **more):
        given = dict(zip(("rtol", "atol"), tolerances, strict=False))
        sol = solve(self.f, y0, ts, args, **(FINE | given | self.options | more))
        inside = sol(QUERIES) if sol.dense is not None else ()
        return sol.ts, (*outcome(sol), inside)

    def check(self, wide=None):
        inputs = jax.tree.map(jnp.asarray, (self.y0, self.ts, self.args, *self.tolerances))

        def batch(*inputs):
            return self.run(jo.solve_batch, *inputs, in_axes=self.in_axes, lanes=3)

        def single(*inputs):
            return self.run(jo.solve, *inputs)

        wide = self.wide if wide is None else wide
        ts, got = in_tile(wide, batch, *inputs)(*inputs)
        single_ts, expected = one_by_one(single, self.in_axes, *inputs)
        assert_bits(ts, single_ts if ts.ndim == 2 else single_ts[0])
        assert_same(got, expected, self.rtol)
        return got


@pytest.mark.parametrize(
    ("save", "wide"),
    few(product(["steps", "dense", read], [False, True]), ("steps", False), ("dense", True)),
)
def test_every_save_mode_over_odd_times(save, wide):
    """Also dense output over no time, and before and after the span."""
    extra = {"solver": "rk4", "dt": 0.02} if wide == (save is read) else {}
    case = Case(ts=OWN_TS, in_axes=(0, 0, MAPS_K), options={"save": save, **extra})
    *_, status, _, inside = case.check(wide)
    assert np.all(status == jo.Status.SUCCESS)
    if save == "dense":
        missing = np.isnan(inside)[..., 0]
        assert 0 < np.count_nonzero(missing) < missing.size


ENDS = jnp.array([1.0, 0.2, 1.4, -1.0, 3.0, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("wide", few([False, True], True))
def test_two_times_one_of_them_mapped(wide):
    """Forwards, backwards and over no time; `ys` are the two ends."""
    case = Case(ts=(0.2, ENDS), in_axes=(0, (None, 0), MAPS_K))
    ys, y1, *_ = case.check(wide)
    assert ys.shape == (N, 2, 2)
    assert_bits((ys[:, 0], ys[:, 1]), (Y0, y1))


def test_two_times_under_one_axis():
    """As jax.vmap reads a single axis for a pair."""
    Case(ts=(jnp.full(N, 0.2), ENDS), in_axes=(0, 0, MAPS_K)).check()


def test_a_saved_python_number():
    args = {"k": 1.0, "push": 0.7}
    run = lambda y: jo.solve_batch(pull, y, TS, args, save=lambda t, y, args: 2.0).ys  # noqa: E731
    assert jax.eval_shape(run, Y0) == jax.ShapeDtypeStruct((N, len(TS)), jnp.float64)


def turn(t, y, args):
    return args["k"] * 1j * y + 0.1 * jnp.cos(t)


def matrix(t, y, args):
    return args["push"] * y @ jnp.sin(y).T @ y - args["k"] * y


def tree(t, y, args):
    size = jnp.sum(jnp.abs(y["wave"]) ** 2)
    real = jax.tree.map(lambda x: -args["k"] * x / (1 + size), y["real"])
    return {"wave": 1j * y["wave"] * y["real"][0][0, 0], "real": real}


def decay(t, y, args):
    return -args * y


MATRICES = 0.4 * jax.random.normal(jax.random.key(1), (N, 2, 3))
TREE = {"wave": Y0 + 0.5j, "real": (MATRICES, Y0[:, 0])}
SMALL = [jnp.asarray(x, jnp.float32) for x in (Y0.T, OWN_TS.T, jnp.stack([K, K / 2]))]
GRID = jnp.concatenate([jnp.linspace(0.2, 0.4, 40), jnp.linspace(0.42, 1.4, 30)])
RTOL, ATOL = jnp.logspace(-6, -9, N), jnp.logspace(-9, -6, N)
PID = jo.PID(pcoeff=0.3, icoeff=0.5, dcoeff=0.1, dtmin=1e-5, dtmax=0.05)
OWN_NORM = jo.PID(norm=lambda x: jnp.max(jnp.sum(jnp.abs(x), axis=0)))

CASES = {
    "shared times, backwards, repeated; complex": Case(
        y0=Y0 + 0.3j, f=turn, ts=jnp.array([1.4, 1.4, 0.9, 0.9, 0.2, 0.2])
    ),
    "two shared times; numbers; PID, bounds": Case(
        y0=Y0[:, 0], ts=(0.2, 1.4), rtol=1e-9, options={"controller": PID}
    ),
    "shared state; shared atol by component; max norm": Case(
        y0=Y0[0],
        in_axes=(None, None, MAPS_K),
        options={"controller": jo.PI(norm="max"), "atol": jnp.array([1e-9, 1e-6])},
    ),
    "times alone are mapped; Fixed": Case(
        Y0[0], OWN_TS, ARGS | {"k": 2.0}, (None, 0, None), options={"controller": jo.Fixed(0.02)}
    ),
    "axes 1, -1 and -2; atol by component": Case(
        Y0.T,
        OWN_TS.T,
        {"k": K[:, None], "push": 0.7},
        in_axes=(1, -1, {"k": -2, "push": None}, None, -1),
        tolerances=(1e-7, jnp.stack([ATOL, 10 * ATOL])),
    ),
    "one axis for all; float32": Case(
        *SMALL, in_axes=1, f=decay, rtol=2e-6, options={"rtol": 1e-4, "controller": jo.Fixed(0.02)}
    ),
    "a list of axes; Grid": Case(
        args=K[:, None], in_axes=[0, None, 0], f=decay, options={"controller": jo.Grid(GRID)}
    ),
    "tolerances; first step": Case(
        in_axes=(0, None, MAPS_K, 0, 0), tolerances=(RTOL, ATOL), options={"dt": 0.005}
    ),
    "tolerances of a pytree; steps": Case(
        y0=TREE,
        f=tree,
        in_axes=(0, None, MAPS_K, None, {"wave": None, "real": (0, 0)}),
        tolerances=(1e-6, {"wave": 1e-6, "real": (ATOL[:, None, None] * jnp.ones((1, 3)), ATOL)}),
        options={"save": "steps"},
    ),
    "matrices, dense; a norm of one's own": Case(
        y0=MATRICES, f=matrix, options={"save": "dense", "controller": OWN_NORM}, wide=True
    ),
}


@pytest.mark.parametrize(
    "name",
    few(
        CASES,
        "axes 1, -1 and -2; atol by component",
        "one axis for all; float32",
        "tolerances of a pytree; steps",
    ),
)
def test_a_batch_equals_its_single_solves(name):
    CASES[name].check()


@functools.cache
def compiled(wide, lanes=3):
    def batch(y, k):
        sols = jo.solve_batch(
            pull,
            y,
            (0.2, 1.4),
            {"k": k, "push": 0.7},
            in_axes=(0, None, MAPS_K),
            lanes=lanes,
            **FINE,
        )
        return outcome(sols)

    return in_tile(wide, batch, Y0, K)


@pytest.mark.parametrize("wide", [False, True])
def test_another_order_changes_no_bit(wide):
    expected = compiled(wide)(Y0, K)
    assert len(np.unique(expected[-1].num_steps)) == N
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(N)
        got = compiled(wide)(Y0[order], K[order])
        jax.tree.map(lambda a, b, order=order: assert_bits(a, b[order]), got, expected)


@pytest.mark.parametrize(
    ("wide", "lanes"), few([(False, (1, 2, 5, 100)), (True, (1, N))], (True, (1, N)))
)
def test_results_do_not_depend_on_the_lanes(wide, lanes):
    for number in lanes:
        assert_same(compiled(wide, number)(Y0, K), compiled(wide)(Y0, K))


def test_a_batch_of_one_is_a_solve():
    """Outside jit, where the batch is compiled by itself."""
    args = {"k": 2.0, "push": 0.7}
    sols, sol = (
        jo.solve_batch(pull, Y0[:1], TS, args, **FINE),
        jo.solve(pull, Y0[0], TS, args, **FINE),
    )
    assert_same(jax.tree.map(lambda x: x[0], outcome(sols)), outcome(sol))
    assert sols.success.shape == (1,)
    assert sols.stats.useful_share == 1
    assert_bits(sols.ts, TS)


def test_batches_inside_vmap():
    """Batches of different lengths at once, in a shared number of theirs and in their states."""
    pushes, starts = jnp.array([0.1, 2.0]), jnp.stack([Y0, 2 * Y0])
    scales = jnp.array([1.0, 3.0])

    def batch(y, push, scale):
        sols = jo.solve_batch(
            pull,
            y,
            (0.2, 1.4),
            {"k": scale * K, "push": push},
            in_axes=(0, None, MAPS_K),
            lanes=3,
            **FINE,
        )
        return outcome(sols)

    def single(y, push, scale):
        def one(y, k):
            return outcome(jo.solve(pull, y, (0.2, 1.4), {"k": scale * k, "push": push}, **FINE))

        return jax.lax.map(lambda row: one(*row), (y, K))

    got = in_tile(True, jax.vmap(batch), starts, pushes, scales)(starts, pushes, scales)
    assert_same(got, one_by_one(single, 0, starts, pushes, scales))


def test_results_of_trajectories_sorted_by_work_are_in_their_own_order():
    given = []

    def run(rows, shared):
        given.append(rows)
        return shared * rows

    rows, work = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([2.0, 9.0, 5.0, 1.0])
    np.testing.assert_array_equal(run_longest_first(run, rows, 10.0, work), 10 * rows)
    np.testing.assert_array_equal(given[0], [2.0, 3.0, 1.0, 4.0])


def test_a_norm_is_given_the_error_of_one_trajectory():
    """One that takes a vector of two components alone, beside the same as a sum."""
    weights = jnp.array([1.0, 4.0])

    def ends(norm):
        sols = jo.solve_batch(
            lambda t, y, rate: -rate * y, Y0, (0.0, 1.0), jnp.linspace(0.5, 1.5, N),
            in_axes=(0, None, 0), controller=jo.PID(norm=norm), max_steps=64,
        )  # fmt: skip
        return jnp.sum(sols.y1**2), sols.stats.num_steps

    found, expected = (
        ends(norm) for norm in (lambda e: weights @ jnp.abs(e), lambda e: jnp.sum(weights * abs(e)))
    )
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
