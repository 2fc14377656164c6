"""Programs of one trajectory on arrays that are taken apart, against `jax.vmap` of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.kernels.lowering.interpreter import lower_to_lanes
from jaxode.kernels.lowering.lane_scalars import LaneScalars, broadcast_to_lanes, is_lane_value
from jaxode.kernels.lowering.unsupported import NoKernelError
from jaxode.solvers.linear import gauss_jordan_inverse, solver_of
from tests.support.sweeps import few

LANES = 8
KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (LANES, 5))
M = jax.random.normal(KEYS[1], (LANES, 5, 5))
I = jax.random.randint(KEYS[2], (LANES,), -3, 8)
W = np.asarray(jax.random.normal(KEYS[3], (7, 5)))
KNOTS = np.linspace(-2.0, 2.0, 9)


def apart(x: Any) -> LaneScalars:
    shape = x.shape[1:]
    return LaneScalars.of(
        [x[(slice(None), *place)] for place in np.ndindex(*shape)], shape, x.dtype
    )


def together(x: LaneScalars) -> np.ndarray:
    elements = [np.asarray(broadcast_to_lanes(c, x.dtype, LANES)) for c in x.flat()]
    return np.array(elements).reshape(-1, LANES).T.reshape(LANES, *x.shape)


CELLS = apart(X)


def doubled(state):
    return state[0] + jnp.abs(state[0]), state[1] + 1


def network(x):
    return jnp.tanh(W @ x).sum()


PROGRAMS: dict[str, tuple[Any, ...]] = {
    "arithmetic": (lambda x: jnp.sin(x) * 2 + x[0] ** 3 - x[::-1] / 3 + jnp.where(x > 0, x, 0), X),
    "network": (network, X),
    "gradient": (jax.grad(network), X),
    "Jacobian": (jax.jacfwd(lambda x: jnp.tanh(W @ x)), X),
    "Jacobian backwards": (jax.jacrev(lambda x: jnp.tanh(W @ x) * x[2]), X),
    "products": (lambda m, x: m @ m @ x + jnp.einsum("ij,kj->ik", m, m)[0], M, X),
    "batched products": (lambda m, x: jnp.einsum("bij,bj->bi", jnp.stack([m, m.T]), m[:2]), M, X),
    "an entry": (lambda x, i: x[i], X, I),
    "an entry or NaN": (lambda x, i: x.at[i].get(mode="fill"), X, I),
    "a row": (lambda m, i: m[i, 2] + m[1:3, i][0], M, I),
    "rows": (lambda x, i: x[(jnp.arange(5) + i) % 5], X, I),
    "rows of a matrix": (lambda m, i: m[jnp.array([3, 1])] + m[i % 5], M, I),
    "a slice": (lambda x, i: jax.lax.dynamic_slice(x, (i,), (3,)), X, I),
    "written": (lambda x, i: jax.lax.dynamic_update_slice(x, x[:2] * 2, (i,)), X, I),
    "scattered": (lambda x: x.at[jnp.array([0, 3])].set(5.0).at[2].add(x[1]), X),
    "added twice": (jax.grad(lambda x: (x[jnp.array([1, 1, 2])] ** 2).sum() + x[0] * x[-1]), X),
    "a loop": (lambda x: jax.lax.while_loop(lambda s: s[0].sum() < 50, doubled, (abs(x), 0)), X),
    "a scan": (lambda x: jax.lax.scan(lambda c, a: (c + a, c * a), x[0], x), X),
    "a scan backwards": (lambda x: jax.lax.scan(lambda c, a: (c * a, c), 1.0, x, reverse=True), X),
    "a count": (lambda x: jax.lax.fori_loop(0, 5, lambda i, c: c + i * x[i], 0.0), X),
    "own counts": (lambda x, i: jax.lax.fori_loop(0, i, lambda i, c: c + x[i], 0.0), X, I),
    "a branch": (lambda x: jax.lax.cond(x[0] > 0, lambda x: x, lambda x: -x, x), X),
    "branches": (lambda x, i: jax.lax.switch(i, [jnp.sin, jnp.cos, lambda x: 2 * x], x), X, I),
    "extremes": (lambda x: (jnp.argmax(x), jnp.argmin(x), x.max(), x.min(), x.prod()), X),
    "truths": (lambda x: (jnp.any(x > 1), jnp.all(x > -3), ~(x > 0) ^ (x < 1)), X),
    "running sums": (lambda m: (jnp.cumsum(m, 1)[::-1], jnp.cumsum(m, 0), jnp.cumprod(m, 0)), M),
    "joined": (lambda x: (jnp.stack([x, 2 * x], 1), jnp.roll(x, 2), jnp.pad(x, (1, 2))), X),
    "parted": (lambda x: (*jnp.split(x, [2]), *jnp.unstack(x)), X),
    "interpolated": (lambda x: jnp.interp(x[0], KNOTS, KNOTS**2), X),
    "activations": (lambda x: (jax.nn.softmax(x), jax.nn.silu(x), jax.nn.softplus(x)), X),
    "more of them": (lambda x: (jax.nn.gelu(x), jax.nn.relu(x), jax.nn.elu(x), x // 1, x % 2), X),
    "rounded": (lambda x: (jnp.round(2 * x) / 2, jax.lax.round(x), jnp.round(KNOTS + x[0] * 0)), X),
    "integers": (lambda x, i: (i // 2, i % 3, i.astype(float) * x, i << 1, abs(i)), X, I),
    "constants": (lambda x: x * jnp.arange(5.0) + jnp.eye(5)[1], X),
    "a small inverse": (lambda m: gauss_jordan_inverse(m[:4, :4]), M),
    "an inverse": (gauss_jordan_inverse, M),
    "a system's gradient": (jax.grad(lambda m: solver_of(m)(m[0]).sum()), M),
    "a checkpoint": (jax.grad(jax.checkpoint(network)), X),
    "nothing": (lambda x: (x[:0], jnp.sum(x[:0]), jnp.prod(I[:0]), jnp.any(x[:0] > 0)), X),
    "numbers in another order": (lambda m: (m.ravel(order="F"), m.reshape(1, 25, order="F")), M),
    "places known and not": (lambda y, i: y[None][i, jnp.array([1, 9])], X, I),
    "an index of one place": (lambda x, i: jax.lax.dynamic_slice(x, (i,), (5,)), X, I),
    "an entry or what is given": (lambda x, i: x.at[i].get(mode="fill", fill_value=7.0), X, I),
    "integers or the least": (lambda i: jnp.arange(5).at[i].get(mode="fill"), I),
    "truths or True": (lambda x, i: (x > 0).at[i].get(mode="fill"), X, I),
    "places of NaN": (lambda x: (jnp.argmax(x), jnp.argmin(x)), X.at[:4, 2].set(jnp.nan)),
    "cases": (lambda x: jnp.select([x > 1, x > 0], [x, 2 * x], -x), X),
    "cases by number": (lambda x, i: jax.lax.select_n(i % 3, x[0], x[1], x[2]), X, I),
    "tiles": (lambda x: (jnp.tile(x, (2, 3)), jnp.repeat(x, 2)), X),
    "a polynomial": (lambda x: jnp.polyval(jnp.array([1.0, -2.0, 0.5]), x), X),
    "a half less a bit": (lambda x: jax.lax.round(jnp.nextafter(x * 0 + 0.5, 0.0)), X),
    "a bound that is no integer": (
        lambda x: jnp.array([3e9, -3e9]).astype(jnp.int32) + 0 * x,
        X[:, :2],
    ),
}


LONG = ("an inverse", "a system's gradient")


@pytest.mark.parametrize("name", few(PROGRAMS, *(name for name in PROGRAMS if name not in LONG)))
def test_a_program_computes_what_it_does_for_each_lane(name):
    function, *inputs = PROGRAMS[name]
    found = lower_to_lanes(function, LANES)(*map(apart, inputs))
    expected = jax.tree.leaves(jax.jit(jax.vmap(function))(*inputs))
    for got, want in zip(jax.tree.leaves(found, is_leaf=is_lane_value), expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape[1:]
        np.testing.assert_allclose(together(got), want, 1e-11, 1e-13)


def test_what_is_known_is_not_computed():
    figures, nothing, same = lower_to_lanes(lambda x: (jnp.arange(3.0) * 2, 0 * x, 1 * x), LANES)(
        CELLS
    )
    assert figures.is_constant
    assert nothing.is_constant
    assert all(a is b for a, b in zip(same.flat(), CELLS.flat(), strict=True))


REFUSED: dict[str, tuple[Any, str]] = {
    "an operation without a rule": (jnp.sort, "'sort' has no rule there"),
    "a callback": (lambda x: jax.pure_callback(np.sin, x, x), "'pure_callback' has no rule"),
    "a print": (
        lambda x: (jax.debug.print("here"), x)[1],
        "'debug_(print|callback)' does more than compute",
    ),
    "a random number": (lambda x: x + jax.random.normal(jax.random.key(0)), "an array of key<"),
    "complex numbers": (lambda x: jnp.exp(1j * x).real, "complex numbers"),
    "bits of another width": (
        lambda x: jax.lax.bitcast_convert_type(x, jnp.int32).astype(float),
        "a bit cast that changes the shape",
    ),
    "many tables": (
        lambda x: sum(jnp.arange(200.0)[(k * x).astype(int)] for k in range(60)),
        "a step of over 30000 operations",
    ),
    "a long loop": (
        lambda x: jax.lax.fori_loop(0, 999, lambda i, x: x + i, x),
        "of 999 iterations",
    ),
    "a long table": (lambda x: jnp.ones(999)[x[0].astype(int)], "an index into 999 places"),
    "too much": (lambda x: jnp.outer(x, jnp.ones(9999)).sum(), "a step of over 30000 operations"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_with_its_place(name):
    function, message = REFUSED[name]
    with pytest.raises(NoKernelError, match=rf"{message}.* \(test_lowering.py:\d+\)"):
        lower_to_lanes(lambda x: function(x), LANES)(apart(X))
