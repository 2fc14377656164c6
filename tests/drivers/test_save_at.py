"""Several entries of `save=`, each with times of its own; and every n-th step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

TS = jnp.linspace(0.0, 2.0, 5)
OWN = [0.3, 1.7, 0.1]
TOLERANCES: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


def decay(t, y, k):
    return -k * y


def energy(t, y):
    return jnp.sum(y**2)


ENTRIES = {"energy": energy, "own": jo.SaveAt(ts=OWN), "states": "ts"}


def check(sol, k=1.0):
    """The values of `ENTRIES` of a decay from [1, 2]."""
    start, own = np.array([1.0, 2.0]), np.array(OWN)
    np.testing.assert_array_equal(sol.ts["own"], own)
    np.testing.assert_array_equal(sol.ts["energy"], TS)
    np.testing.assert_allclose(sol.ys["own"], start * np.exp(-k * own)[:, None], rtol=1e-7)
    np.testing.assert_allclose(sol.ys["states"], start * np.exp(-k * TS)[:, None], rtol=1e-7)
    np.testing.assert_allclose(sol.ys["energy"], 5.0 * np.exp(-2 * k * TS), rtol=1e-7)


@pytest.mark.parametrize("sensitivity", ["discrete", "adjoint"])
def test_each_entry_has_its_times_values_and_derivatives(sensitivity):
    options = {"save": ENTRIES, "sensitivity": sensitivity, **TOLERANCES}

    def solved(k):
        return jo.solve(decay, jnp.array([1.0, 2.0]), TS, k, **options)

    check(solved(1.0))
    gradient = jax.grad(lambda k: solved(k).ys["own"][1, 0] + solved(k).ys["energy"][2])(1.0)
    assert gradient == pytest.approx(-1.7 * np.exp(-1.7) - 10.0 * np.exp(-2.0), rel=1e-6)


def test_batches_and_times_that_decrease():
    save = (jo.SaveAt(ts=np.array([0.5, 1.0])), jo.SaveAt(energy), jo.SaveAt(ts=[]))
    sols = jo.solve_batch(decay, jnp.ones((3, 2)), None, 1.0, t0=2.0, t1=0.0, save=save)
    assert [x.shape for x in sols.ys] == [(3, 2, 2), (3, 2), (3, 0, 2)]
    np.testing.assert_allclose(sols.ys[0][:, :, 0], np.exp([[1.5, 1.0]] * 3), rtol=1e-3)
    np.testing.assert_allclose(sols.ys[1], [[2.0, 2 * np.exp(4.0)]] * 3, rtol=1e-3)


def test_traced_times_and_vmap():
    def at(time):
        save = [jo.SaveAt(ts=jnp.stack([time, 0.5 * time])), "ts"]
        return jo.solve(decay, jnp.ones(1), (0.0, 2.0), 1.0, save=save, **TOLERANCES).ys

    own, ends = jax.jit(jax.vmap(at))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(own[..., 0], np.exp([[-1.0, -0.5], [-2.0, -1.0]]), rtol=1e-7)
    np.testing.assert_allclose(ends[..., 0], np.exp([[0.0, -2.0]] * 2), rtol=1e-7)
    slope = jax.grad(lambda time: at(time)[0][0, 0])(1.0)
    assert slope == pytest.approx(-np.exp(-1.0), rel=1e-6)


def test_every_third_step():
    every = jo.solve(decay, jnp.ones(1), TS, 1.0, save="steps", max_steps=50, **TOLERANCES)
    sol = jo.solve(decay, jnp.ones(1), TS, 1.0, save=jo.SaveAt("steps", every=3), max_steps=50,
                   **TOLERANCES)  # fmt: skip
    assert sol.ts.shape == (17,)
    np.testing.assert_array_equal(sol.ts, every.ts[::3])
    np.testing.assert_array_equal(sol.ys, every.ys[::3])
    rows = jo.solve_batch(decay, jnp.ones((2, 1)), TS, 1.0, save=jo.SaveAt("steps", every=3),
                          max_steps=50, **TOLERANCES)  # fmt: skip
    assert rows.ys.shape == (2, 17, 1)


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        ({"a": 3}, jo.OptionError, "hold several entries"),
        ({}, jo.OptionError, "saves nothing"),
        (
            [jo.SaveAt(ts=[3.0])],
            jo.TimesError,
            "outside of the solve: 3, where it runs from 0 to 2",
        ),
        ({"a": "steps"}, jo.OptionError, "goes with no other entries"),
        (["dense", "ts"], jo.OptionError, "goes with no other entries"),
    ],
)
def test_what_cannot_be_saved_is_refused(save, error, message):
    with pytest.raises(error, match=message):
        jo.solve(decay, jnp.ones(1), TS, 1.0, save=save)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"save": 3}, jo.OptionError, "must be"),
        ({"every": 0}, jo.OptionError, "every of"),
        ({"every": 2}, jo.OptionError, "needs save"),
        ({"save": "steps", "ts": [1.0]}, jo.OptionError, "takes no ts"),
        ({"ts": [[1.0]]}, jo.TimesError, "one-dimensional"),
        ({"ts": "now"}, jo.TimesError, "real numbers"),
    ],
)
def test_wrong_arguments_of_an_entry(arguments, error, message):
    with pytest.raises(error, match=message):
        jo.SaveAt(**arguments)


def test_times_of_each_trajectory_are_refused():
    times = jnp.stack([TS, TS + 1])
    with pytest.raises(jo.OptionError, match="all trajectories share"):
        jo.solve_batch(decay, jnp.ones((2, 1)), times, 1.0, in_axes=(0, 0, None), save=ENTRIES)
