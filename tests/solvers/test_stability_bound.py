"""An explicit solve that stability binds says so, and one that accuracy binds does not."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.problems import BY_NAME
from tests.support.registry import NAMES
from tests.support.sweeps import few

SIZE = 40
LAPLACIAN = (2 * np.eye(SIZE) - np.eye(SIZE, k=1) - np.eye(SIZE, k=-1)) * (SIZE + 1) ** 2
NODES = np.arange(1, SIZE + 1) / (SIZE + 1)
SHAPE = np.sin(np.pi * NODES) + 0.3 * np.sin(2 * np.pi * NODES)
DETECTING = [n for n in NAMES if SOLVERS[n].detects_stability and SOLVERS[n]().error_exponent]
# Two stages tell little of what is fast.
SHARP = [name for name in DETECTING if SOLVERS[name]().evaluations.step > 2]


def beam(t, y, args):
    return jnp.concatenate([y[SIZE:], -jnp.asarray(LAPLACIAN @ LAPLACIAN) @ y[:SIZE]])


def attracted(t, y, rate):
    return -rate * (y - jnp.cos(t))


def share_bound(field, y0, t1, args=None, **options):
    """The share of the accepted steps of each tolerance that stability binds."""
    run = jax.jit(
        lambda rtol: jo.solve(field, y0, (0.0, t1), args, rtol=rtol, max_steps=20_000, **options)
    )
    stats = [run(rtol).stats for rtol in (1e-3, 1e-4, 1e-6)]
    return [float(s.num_stability_bound / s.num_accepted) for s in stats]


@pytest.mark.parametrize("name", few(SHARP, "tsit5"))
def test_steps_that_stability_binds_are_counted_on_the_real_axis(name):
    # Other tolerances are as tight as accuracy needs for fehlberg2.
    shares = share_bound(attracted, jnp.ones(1), 1.0, 1000.0, solver=name)
    assert shares[0] > 0.8
    if name in ("tsit5", "dopri5", "dopri8", "vern7"):
        assert min(shares) > 0.8


@pytest.mark.parametrize("name", few(["tsit5", "dopri5", "dopri8", "vern7"], "tsit5"))
def test_about_half_of_them_on_the_imaginary_axis(name):
    y0 = jnp.concatenate([jnp.asarray(SHAPE), jnp.zeros(SIZE)])
    atol = 1e-6 * jnp.concatenate([jnp.ones(SIZE), 10 * jnp.ones(SIZE)])
    assert share_bound(beam, y0, 1.0, solver=name, atol=atol)[1] > 0.45


FOLLOWED = ("lotka_volterra", "kepler", "pleiades", "predator_prey", "lorenz")


@pytest.mark.parametrize("name", few(["tsit5", "dopri5", "dopri8", "bosh3"], "tsit5"))
@pytest.mark.parametrize("problem", few(FOLLOWED, "lotka_volterra"))
def test_hardly_any_where_accuracy_binds(name, problem):
    problem = BY_NAME[problem]
    y0 = jnp.array(problem.y0)
    shares = share_bound(problem.field, y0, problem.t1, problem.args, solver=name)
    assert max(shares) < 0.4


def test_one_solve_outside_jit_warns():
    with pytest.warns(jo.StiffnessWarning, match=r"bound \d+ of \d+ steps.*auto") as caught:
        jo.solve(attracted, jnp.ones(1), (0.0, 3.0), 1000.0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jo.solve(attracted, jnp.ones(1), (0.0, 3.0), 1000.0, solver="rodas5p")
        jo.solve(attracted, jnp.ones(1), (0.0, 1.0), 100.0)  # a few steps
        jax.jit(lambda y: jo.solve(attracted, y, (0.0, 3.0), 1000.0).y1)(jnp.ones(1))
        sols = jo.solve_batch(attracted, jnp.ones((2, 1)), (0.0, 3.0), 1000.0)
    np.testing.assert_array_equal(sols.stats.num_stability_bound, [-1, -1])


@pytest.mark.parametrize("by", [jax.jacfwd, jax.grad])
def test_counting_is_no_part_of_a_derivative(by):
    def end(rate, t1):
        sol = jo.solve(
            lambda t, y, rate: -rate * y, jnp.ones(1), (0.0, t1), rate, rtol=1e-8, atol=1e-10,
            sensitivity="forward" if by is jax.jacfwd else "discrete",
        )  # fmt: skip
        assert sol.stats.num_stability_bound is not None
        return sol.y1[0] + 0 * sol.stats.num_stability_bound

    slopes = jax.jit(by(end, (0, 1)))(2.0, 1.0)
    np.testing.assert_allclose(slopes, [-np.exp(-2), -2 * np.exp(-2)], rtol=1e-6)


def test_not_counted_of_implicit_and_fixed_steps():
    given: list[dict[str, Any]] = [{"solver": "rodas5p"}, {"solver": "rk4", "dt": 1e-3}]
    for options in given:
        sol = jo.solve(attracted, jnp.ones(1), (0.0, 0.01), 10.0, **options)
        assert sol.stats.num_stability_bound is None
