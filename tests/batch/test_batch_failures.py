"""Trajectories that fail: a status and NaN of their own, and nothing for the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.batches import assert_bits, assert_same, in_tile, one_by_one, outcome
from tests.support.differences import assert_close
from tests.support.sweeps import few

TS = jnp.array([0.0, 0.3, 0.7, 1.0, 2.0])
MAPS = {"square": 0, "pull": 0, "until": 0, "push": None}
OPTIONS = {
    "solver": "bosh3",
    "rtol": 1e-5,
    "max_steps": 400,
    "controller": jo.PID(dtmin=1e-5),
}
N = 10
Status = jo.Status
# Trajectories 0, 2, 3, 6 and 9 fail, each for a reason of its own.
STATUS = np.zeros(N, np.int32)
STATUS[[0, 2, 3, 6, 9]] = [
    Status.NOT_FINITE, Status.NOT_FINITE, Status.STEP_UNDERFLOW, Status.MAX_STEPS,
    Status.NOT_FINITE,
]  # fmt: skip
GOOD = STATUS == Status.SUCCESS


def field(t, y, args):
    rest = args["square"] * y**2 - args["pull"] * (y - args["push"] * jnp.cos(t))
    return jnp.where(t > args["until"], jnp.nan, rest)


@functools.cache
def batch():
    """One in which nothing fails, and the same with five trajectories that do."""
    y0 = 0.5 * np.random.default_rng(0).standard_normal((N, 2))
    k = np.array([3.0, 0.3, 9.0, 1.0, 12.0, 0.1, 5.0, 2.0, 0.5, 7.0])
    own = {"square": np.full(N, 0.05), "pull": k, "until": np.full(N, np.inf)}
    good = {"y0": y0, "own": own, "push": np.array(0.7), "ts": np.asarray(TS)}
    bad = jax.tree.map(np.copy, good)
    bad["own"]["square"][0] = np.nan
    bad["y0"][2, 1] = np.nan
    bad["y0"][3], bad["own"]["square"][3], bad["own"]["pull"][3] = 1.0, 1.0, 0.0  # 1 / (1 - t)
    bad["own"]["pull"][6] = 800.0
    bad["own"]["until"][9] = 0.5
    return good, bad


def solve(p, **options):
    args = p["own"] | {"push": p["push"]}
    in_axes = (0, None, MAPS)
    return jo.solve_batch(
        field, p["y0"], p["ts"], args, in_axes=in_axes, lanes=3, **OPTIONS, **options
    )


def read(t, y, args):
    return {"sum": jnp.sum(y) + args["push"], "time": t}


def rows(tree, mask):
    return jax.tree.map(lambda x: np.asarray(x)[mask], tree)


CASES = [("ts", False), ("ts", True), ("steps", False), ("dense", True), (read, False)]


@pytest.mark.parametrize(("save", "wide"), few(CASES, ("ts", False), ("dense", True)))
def test_each_has_its_own_status_and_nan_and_the_others_every_bit(save, wide):
    good, bad = batch()

    def everything(p):
        sols = solve(p, save=save, throw=True)  # which cannot be under jit
        return sols.ts, sols(0.9) if sols.dense else (), outcome(sols)

    run = in_tile(wide, everything, good)
    (ts, inside, got), (_, *expected) = run(bad), run(good)
    ys, y1, status, stats = jax.tree.map(np.asarray, got)
    np.testing.assert_array_equal(status, STATUS)
    assert np.all(expected[-1][2] == Status.SUCCESS)
    assert_bits(rows((inside, got), GOOD), rows(tuple(expected), GOOD))
    assert np.all(np.isnan(y1[~GOOD]))
    if save == "dense":
        late = ~(stats.t_reached >= 0.9)
        np.testing.assert_array_equal(np.any(np.isnan(inside), axis=1), late)
    beyond = np.asarray(~(ts <= stats.t_reached[:, None])) & ~GOOD[:, None]
    assert np.all(beyond[[0, 3, 6, 9]][:, -1])
    for leaf in jax.tree.leaves(ys):
        assert np.all(np.isnan(leaf[beyond]))
    if save == "ts":
        known = ~beyond & (np.arange(N) != 2)[:, None]
        assert np.all(np.isfinite(ys[known]))
        single = one_by_one(
            lambda y0, args: outcome(jo.solve(field, y0, TS, args, **OPTIONS)),
            (0, MAPS), bad["y0"], bad["own"] | {"push": bad["push"]},
        )  # fmt: skip
        assert_same(got, single, 1e-10)


def test_throw_raises_outside_jit_and_says_which():
    good, bad = batch()
    with pytest.raises(jo.SolveError, match=r"5 of 10 trajectories failed, .* 0: NOT_FINITE: at t"):
        solve(bad, throw=True)
    assert np.all(solve(good, throw=True).success)
    np.testing.assert_array_equal(solve(bad).success, GOOD)


def test_bad_times_of_one_under_jit_are_its_status_alone():
    good, _ = batch()
    ts = np.tile(TS, (N, 1))
    bad = ts.copy()
    bad[1], bad[4, 2] = [0.0, 0.7, 0.3, 1.0, 2.0], np.nan

    @jax.jit
    def run(ts):
        args = good["own"] | {"push": 0.7}
        return outcome(jo.solve_batch(field, good["y0"], ts, args, in_axes=(0, 0, MAPS), lanes=3))

    got, expected = run(bad), run(ts)
    wrong = np.isin(np.arange(N), [1, 4])
    np.testing.assert_array_equal(got[2], np.where(wrong, Status.BAD_TIMES, Status.SUCCESS))
    assert np.all(np.isnan(got[0][wrong]))
    assert np.all(np.isnan(got[1][wrong]))
    assert_bits(rows(got, ~wrong), rows(expected, ~wrong))


@functools.cache
def gradient(wide):
    """Of the sum over the trajectories that `keep` names, the others masked before.

    The narrow tile keeps its whole log, the wide one writes it again and again.
    """

    def loss(p, keep):
        ys = jnp.where(keep[:, None, None], solve(p).ys, 0.0)
        return jnp.sum(ys**2)

    return in_tile(wide, jax.grad(loss), batch()[0], GOOD, segment=1 if wide else None)


@functools.cache
def gradients(wide):
    """Where nothing fails, and where some do: masked, and not."""
    (good, bad), run = batch(), gradient(wide)
    return run(good, GOOD), run(bad, GOOD), run(bad, np.ones(N, bool))


def own_of(gradient):
    return gradient["y0"], gradient["own"]["square"], gradient["own"]["pull"]


@pytest.mark.parametrize("wide", few([False, True], False), ids=["one segment", "segments"])
def test_own_gradients_of_what_failed_are_nan_or_masked_zero_and_bits_for_the_others(wide):
    expected, masked, spoiled = gradients(wide)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(own_of(expected)))
    for got, failed in ((masked, 0.0), (spoiled, np.nan)):
        for leaf in jax.tree.leaves(own_of(got)):
            np.testing.assert_array_equal(leaf[~GOOD], failed)
        assert_bits(rows(own_of(got), GOOD), rows(own_of(expected), GOOD))


@pytest.mark.parametrize("wide", few([False, True], False), ids=["one segment", "segments"])
def test_shared_gradients_are_right_if_the_loss_masks_failures_and_nan_if_not(wide):
    expected, masked, spoiled = gradients(wide)
    for name in ("push", "ts"):
        assert np.all(np.isfinite(masked[name]))
        assert_close(masked[name], expected[name], 1e-12)
        assert np.all(np.isnan(spoiled[name]))


def test_shared_gradients_of_the_masked_are_those_of_the_rest_alone():
    good, _ = batch()

    def loss(push):
        args = rows(good["own"], GOOD) | {"push": push}
        one = lambda y0, args: jo.solve(field, y0, TS, args, **OPTIONS).ys  # noqa: E731
        return jnp.sum(one_by_one(one, (0, MAPS), good["y0"][GOOD], args) ** 2)

    assert_close(gradients(False)[1]["push"], jax.jit(jax.grad(loss))(0.7), 1e-10)


def test_where_all_fail_every_gradient_is_nan():
    good, _ = batch()
    got = gradient(False)(good | {"y0": good["y0"] * np.nan}, np.ones(N, bool))
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(got))
