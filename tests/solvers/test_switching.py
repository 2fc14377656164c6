"""`"auto"` where stability ends near the imaginary axis, and where nothing is stiff."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo

SIZE = 40
LAPLACIAN = (2 * np.eye(SIZE) - np.eye(SIZE, k=1) - np.eye(SIZE, k=-1)) * (SIZE + 1) ** 2
STIFFNESS = jnp.asarray(LAPLACIAN @ LAPLACIAN)
NODES = np.arange(1, SIZE + 1) / (SIZE + 1)
SHAPE = np.sin(np.pi * NODES) + 0.3 * np.sin(2 * np.pi * NODES)


def beam(t, y, args):
    return jnp.concatenate([y[SIZE:], -STIFFNESS @ y[:SIZE]])


def spiral(t, y, alpha):
    turning = jnp.stack([-10 * y[0] + alpha * y[1], -alpha * y[0] - 10 * y[1]])
    return jnp.concatenate([turning, -jnp.array([4.0, 1.0, 0.5, 0.1]) * y[2:]])


def steps(field, y0, t1, solver, args=None, **options):
    sol = jo.solve(
        field, y0, (0.0, t1), args, solver=solver, rtol=1e-4, max_steps=20_000, **options
    )
    return int(sol.stats.num_steps), np.asarray(sol.y1)


def test_auto_switches_where_a_beam_binds_explicit_steps():
    y0 = jnp.concatenate([jnp.asarray(SHAPE), jnp.zeros(SIZE)])
    atol = 1e-6 * jnp.concatenate([jnp.ones(SIZE), 10 * jnp.ones(SIZE)])
    count, state = steps(beam, y0, 5.0, "auto", atol=atol)
    stiff_count, stiff_state = steps(beam, y0, 5.0, "rodas5p", atol=atol)
    assert count <= 2 * stiff_count
    np.testing.assert_allclose(state[:SIZE], stiff_state[:SIZE], atol=1e-2)


@pytest.mark.parametrize("alpha", [25.0, 100.0])
def test_auto_switches_where_eigenvalues_have_large_imaginary_parts(alpha):
    counts = [
        steps(spiral, jnp.ones(6), 20.0, solver, alpha, atol=1e-6)[0]
        for solver in ("auto", "rodas5p")
    ]
    assert counts[0] <= 2 * counts[1]


def test_who_has_stepped_back_from_stiffness_is_slower_to_see_it_again():
    """The votes that many steps near the boundary of stability would need are owed first."""
    auto, field = jo.Auto(), lambda t, y: -y
    state = auto.init(field, jnp.array(0.0), jnp.ones(1))
    state = state._replace(stiff=jnp.array(1.0), votes=jnp.array(2.0))
    after: Any = auto.step(field, jnp.array(0.0), jnp.ones(1), jnp.array(0.1), state, None)
    assert after.solver_state.stiff == 0
    assert after.solver_state.votes == -50


def test_auto_stays_explicit_where_nothing_is_stiff():
    def predators(t, y, args):
        return jnp.stack([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])

    y0 = jnp.array([10.0, 1.0])
    for rtol in (1e-3, 1e-5, 1e-7):
        stats = jo.solve(predators, y0, (0.0, 30.0), solver="auto", rtol=rtol).stats
        # Two evaluations before the first step, the slope and a choice of its size; six in each.
        assert stats.num_evaluations == 2 + 6 * stats.num_steps
