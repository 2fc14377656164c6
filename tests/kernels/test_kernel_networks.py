"""Networks in a kernel: their layers are block arrays, their gradients are those of tiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.sweeps import few

N, WIDTH = 11, 20
KEYS = jax.random.split(jax.random.key(3), 8)
Y0 = jax.random.normal(KEYS[0], (N, 2))
FIRST = jax.random.normal(KEYS[1], (WIDTH, 3))
SECOND = jax.random.normal(KEYS[2], (WIDTH, WIDTH)) / 3
LAST = jax.random.normal(KEYS[3], (2, WIDTH)) / 3
BIAS = jax.random.normal(KEYS[4], (WIDTH,))
TABLE = jax.random.normal(KEYS[5], (17, 2))


def plain(t, y, weights):
    first, second, last, bias = weights
    hidden = jnp.tanh(first @ jnp.append(y, t) + bias)
    return last @ jnp.tanh(second @ hidden - bias)


def mixed(t, y, weights):
    """Activations of many kinds, a norm, a skip, a row picked, and weights the other way round."""
    first, second, last, bias = weights
    hidden = jax.nn.softplus(first @ jnp.append(y, t)) * bias
    hidden = (hidden - jnp.mean(hidden)) / jnp.sqrt(1 + jnp.sum(hidden**2))
    hidden = jnp.where(hidden > 0, hidden, 0.1 * hidden) + jax.nn.silu(hidden @ second)
    # Not the maximum: its gradient asks where a number is equal to itself, and what interprets
    # kernels computes numbers twice, rounded otherwise.
    high = jax.nn.logsumexp(hidden)
    return last @ hidden + 0.1 * hidden[3] - jnp.stack([jnp.dot(hidden, bias), high])


def looked_up(t, y, table):
    return table[jnp.clip(jnp.floor(4 * y[0]).astype(int) + 8, 0, 16)] - y


FIELDS: dict[str, tuple[Any, Any]] = {
    "layers": (plain, (FIRST, SECOND, LAST, BIAS)),
    "much else": (mixed, (FIRST, SECOND, LAST, BIAS)),
    "no network": (looked_up, TABLE),
}


def solve(kernel, field, y0, weights, **options):
    options = {"controller": jo.Fixed(0.25), "solver": "heun", "max_steps": 8, **options}
    ts = jnp.array([0.0, 0.4, 1.0])
    axes = (0, None, None)
    return jo.solve_batch(field, y0, ts, weights, in_axes=axes, kernel=kernel, lanes=8, **options)


@pytest.mark.parametrize("name", few(FIELDS, "layers"))
def test_values_and_gradients_are_those_of_tiles(name):
    field, weights = FIELDS[name]

    def loss(weights, y0, kernel):
        sol = solve(kernel, field, y0, weights)
        assert sol.stats.engine == ("kernel" if kernel else "xla")
        return jnp.sum(jnp.sin(sol.ys)), sol.ys

    asked = (1,) if name == "no network" else (0, 1)
    run = jax.jit(jax.grad(loss, asked, has_aux=True), static_argnums=2)
    found = [run(weights, Y0, flag) for flag in (True, False)]
    for kernel, tiles in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.linalg.norm(tiles) > 1e-3
        np.testing.assert_allclose(kernel, tiles, 1e-10, 1e-12)


SOLVERS: dict[str, dict[str, Any]] = {
    "tsit5": {"controller": jo.PID(), "max_steps": 20, "rtol": 1e-4},
    "rk4": {},
    "vern7": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_stages_in_a_loop_are_those_written_out(solver):
    def loss(weights, kernel):
        sol = solve(kernel, plain, Y0, weights, solver=solver, **SOLVERS[solver])
        return jnp.sum(jnp.sin(sol.ys)), (sol.ys, sol.stats.num_steps)

    weights = FIRST, SECOND, LAST, BIAS
    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    found = [run(weights, flag) for flag in (True, False)]
    for kernel, tiles in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.linalg.norm(tiles) > 1e-3
        np.testing.assert_allclose(kernel, tiles, 1e-9, 1e-11)


@pytest.mark.slow
def test_a_layer_in_a_loop_of_the_field_stays_one():
    def tied(t, y, weights):
        first, second, last, bias = weights
        hidden = first @ jnp.append(y, t)
        hidden, _ = jax.lax.scan(lambda x, _: (jnp.tanh(second @ x + bias), None), hidden, None, 3)
        return last @ hidden

    def loss(weights, kernel):
        return jnp.sum(jnp.sin(solve(kernel, tied, Y0, weights).ys))

    run = jax.jit(jax.grad(loss), static_argnums=1)
    found = [run((FIRST, SECOND, LAST, BIAS), flag) for flag in (True, False)]
    for kernel, tiles in zip(*found, strict=True):
        np.testing.assert_allclose(kernel, tiles, 1e-10, 1e-12)


def test_float32():
    weights = [x.astype(jnp.float32) for x in (FIRST, SECOND, LAST, BIAS)]
    kernel, tiles = (solve(flag, plain, Y0.astype(jnp.float32), weights) for flag in (True, False))
    assert kernel.ys.dtype == jnp.float32
    np.testing.assert_allclose(kernel.ys, tiles.ys, 1e-5, 1e-5)


def test_a_network_too_wide_and_one_with_an_adjoint_are_refused():
    with pytest.raises(jo.OptionError, match=r"a network of width 65 is too wide .at most 64"):
        solve(True, lambda t, y, w: w @ jnp.tanh(y @ w), Y0, jnp.ones((2, 65)))
    with pytest.raises(jo.OptionError, match=r"jo.Continuous\(\) has none of networks"):
        solve(True, plain, Y0, (FIRST, SECOND, LAST, BIAS), sensitivity=jo.Continuous(restarts=0))


def test_what_a_kernel_does_not_do_with_a_matrix_is_refused_by_name():
    with pytest.raises(jo.OptionError, match=r"numbers in a block array has no rule.*test_ker"):
        solve(True, lambda t, y, w: (w @ w)[:2, :2] @ y, Y0, jnp.ones((40, 40)))
