"""The types and fields of what `solve` returns."""

import jax.numpy as jnp
import numpy as np

import jaxode as jo


def decay(t, y, args):
    return -y


def test_a_solve_returns_values_statistics_and_events():
    half = jo.Event(lambda t, y, args: y[0] - 0.5, terminal=True)
    sol = jo.solve(decay, jnp.ones(1), (0.0, 2.0), events=half, rtol=1e-8, atol=1e-10)
    assert isinstance(sol, jo.Solution) and sol.success
    assert isinstance(sol.stats, jo.Stats)
    assert sol.stats.num_steps == sol.stats.num_accepted + sol.stats.num_rejected
    assert isinstance(sol.events, jo.Events)
    assert sol.events.count == 1 and sol.events.index[0] == 0 and sol.events.terminated
    np.testing.assert_allclose(sol.events.ts[0], np.log(2.0), rtol=1e-7)
    np.testing.assert_allclose(sol.events.ys[0], 0.5, rtol=1e-7)
