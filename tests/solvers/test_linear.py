"""Linear systems of implicit steps: dense, banded, sparse, matrix-free."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import jaxode as jo
from jaxode.solvers.linear import gauss_jordan_inverse, solver_of
from jaxode.solvers.linear.sparse import greedy_colouring
from tests.support.differences import central_by_calls
from tests.support.sweeps import few

rng = np.random.default_rng(0)


def solved(matrices, b):
    """numpy's solution, lane by lane; matrices as one writes them, `(n, n)` or `(n, n, lanes)`."""
    if matrices.ndim == 2:
        return np.linalg.solve(matrices, b)
    lanes = range(matrices.shape[2])
    return np.stack([np.linalg.solve(matrices[..., k], b[..., k]) for k in lanes], -1)


@pytest.mark.parametrize("lanes", [(), (5,)])
@pytest.mark.parametrize("n", few([1, 2, 4, 7, 20, 33], 1, 4, 33))
def test_dense_systems(n, lanes):
    a, b = rng.normal(size=(n, n, *lanes)), rng.normal(size=(n, *lanes))
    found = jax.jit(lambda a, b: solver_of(a)(b))(a.swapaxes(0, 1), b)
    np.testing.assert_allclose(found, solved(a, b), rtol=1e-9)


@pytest.mark.parametrize("n", [3, 6])
def test_pivots_are_sought(n):
    """Zeros on the whole diagonal, and pivots that shrink by 1e-8 from row to row."""
    a = np.roll(np.eye(n), 1, axis=0) * 10.0 ** (-8 * np.arange(n) / n)
    np.testing.assert_allclose(gauss_jordan_inverse(jnp.asarray(a)), np.linalg.inv(a), rtol=1e-14)


@pytest.mark.parametrize("n", [3, 6, 40])
def test_a_singular_matrix_gives_no_finite_solution(n):
    a = np.ones((n, n))
    assert not np.all(np.isfinite(solver_of(jnp.asarray(a))(jnp.arange(1.0, n + 1))))


BANDS = [(7, 1, 1), (10, 2, 1), (11, 0, 3), (9, 3, 0), (5, 0, 0), (64, 2, 2)]


def banded(n, lower, upper, lanes):
    i, j = np.ogrid[:n, :n]
    inside = (i - j <= lower) & (j - i <= upper)
    return rng.normal(size=(n, n, *lanes)) * inside.reshape((n, n) + (1,) * len(lanes))


@pytest.mark.parametrize("lanes", [(), (3,)])
@pytest.mark.parametrize(("n", "lower", "upper"), few(BANDS, (10, 2, 1)))
def test_banded_systems_and_their_derivatives(n, lower, upper, lanes):
    a, b = banded(n, lower, upper, lanes), rng.normal(size=(n, *lanes))
    mass = np.diag(rng.uniform(1, 2, n))
    solver, shift = jo.Banded(lower, upper), np.full(lanes, 20.0)
    full = 20 * mass.reshape((n, n) + (1,) * len(lanes)) - a

    def solve(a, b):
        return solver.system(solver.extract_bands(a), jnp.asarray(shift), jnp.asarray(mass))(b)

    @jax.jit
    def run(a, b, weights):
        found, pull = jax.vjp(solve, a, b)
        return found, pull(weights)

    weights = rng.normal(size=b.shape)
    found, (ct_a, ct_b) = run(a, b, weights)
    np.testing.assert_allclose(found, solved(full, b), rtol=1e-10, atol=1e-13)
    expected = solved(full.swapaxes(0, 1), weights)
    np.testing.assert_allclose(ct_b, expected, rtol=1e-10, atol=1e-13)
    outer = expected[:, None] * np.asarray(found)[None]
    np.testing.assert_allclose(ct_a, np.where(a != 0, outer, 0), rtol=1e-9, atol=1e-12)


def test_columns_of_one_colour_share_no_row():
    pattern = rng.uniform(size=(40, 40)) < 0.1
    rows, columns = np.nonzero(pattern)
    colours = np.array(greedy_colouring(rows, columns, 40))
    for colour in range(colours.max() + 1):
        assert pattern[:, colours == colour].sum(axis=1).max(initial=0) <= 1


def diffusion(t, y, rate):
    """Two species side by side in one vector, whose reaction couples distant components."""
    u, v = jnp.split(y, 2)
    n = u.size + 1

    def spread(x, edge):
        x = jnp.pad(x, 1, constant_values=edge)
        return rate * n**2 * (x[2:] - 2 * x[1:-1] + x[:-2])

    return jnp.concatenate(
        [1 + u * u * v - 4 * u + spread(u, 1.0), 3 * u - u * u * v + spread(v, 3.0)]
    )


GRID = jnp.arange(1, 21) / 21
START = jnp.concatenate([1 + jnp.sin(2 * jnp.pi * GRID), jnp.full(20, 3.0)])
OPTIONS: dict[str, Any] = {"controller": jo.Fixed(0.05)}


def end(rate, linear_solver):
    solver = jo.Rosenbrock23(linear_solver=linear_solver)
    return jo.solve(diffusion, START, (0.0, 1.0), rate, solver=solver, **OPTIONS).y1


@functools.cache
def linear_solvers():
    pattern = jo.sparsity(diffusion, START, 0.02)
    return {
        "sparse": jo.Sparse(pattern),
        "sparse of scipy": jo.Sparse(scipy.sparse.csr_array(pattern)),
        "banded": jo.Banded(20, 20),
        "bicgstab": jo.Krylov(rtol=1e-10),
        "gmres": jo.Krylov("gmres", rtol=1e-10),
    }


@functools.cache
def end_by_dense():
    return end(0.02, jo.Dense())


@pytest.mark.parametrize("name", few(["sparse of scipy", "gmres"], "sparse of scipy"))
def test_linear_solvers_agree(name):
    np.testing.assert_allclose(end(0.02, linear_solvers()[name]), end_by_dense(), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "banded", "bicgstab"])
def test_linear_solvers_agree_and_have_gradients(name):
    solver = linear_solvers()[name]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(rate):
        y1 = end(rate, solver)
        return jnp.sum(y1**2), y1

    (_, y1), gradient = run(jnp.array(0.02))
    np.testing.assert_allclose(y1, end_by_dense(), rtol=1e-9)
    slope = central_by_calls(lambda rate: run(rate)[0][0], jnp.array(0.02), 1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


@pytest.mark.slow
def test_a_batch_through_sparse_systems_equals_single_solves():
    rates = jnp.array([0.01, 0.02, 0.03])
    solver = jo.Rosenbrock23(linear_solver=linear_solvers()["sparse"])
    axes = (None, None, 0)
    sols = jo.solve_batch(
        diffusion, START, (0.0, 1.0), rates, in_axes=axes, solver=solver, **OPTIONS
    )
    for rate, y1 in zip(rates, sols.y1, strict=True):
        single = end(float(rate), solver.linear_solver)
        np.testing.assert_allclose(y1, single, rtol=1e-11)


def test_sparse_layout_of_two_species_is_narrow():
    layout = linear_solvers()["sparse"].layout
    assert isinstance(layout.inner, jo.Banded)
    assert layout.inner.lower <= 3
    assert max(layout.colours) < 7


def decayed(rates, method="bicgstab"):
    solver, y0 = jo.Rodas5P(linear_solver=jo.Krylov(method)), jnp.ones_like(rates)
    return jo.solve(lambda t, y, k: -k * y, y0, (0.0, 1.0), rates, solver=solver).y1


@pytest.mark.parametrize("method", few(["bicgstab", "gmres", "cg"], "bicgstab"))
@pytest.mark.parametrize("dtype", few([jnp.float32, jnp.float64], jnp.float32))
def test_iterations_that_are_exact_at_once_or_reach_rounding_succeed(method, dtype):
    """All decay alike, so that one iteration is exact; or some differ, to below `rtol=1e-8`."""
    run = jax.jit(functools.partial(decayed, method=method))
    for rates in (jnp.ones(4, dtype), jnp.arange(1, 5).astype(dtype)):
        np.testing.assert_allclose(run(rates), np.exp(-np.asarray(rates)), rtol=1e-3)


@pytest.mark.slow
def test_lanes_of_which_one_is_exact_at_once_have_their_gradients():
    rates = jnp.stack([jnp.ones(4), jnp.arange(1.0, 5.0)]).astype(jnp.float32)
    slopes = jax.vmap(jax.grad(lambda k: jnp.sum(decayed(k))))(rates)
    np.testing.assert_allclose(slopes, -np.exp(-np.asarray(rates)), rtol=2e-3)


@pytest.mark.slow
def test_a_preconditioner_spares_iterations():
    """With the inverse itself as preconditioner two iterations do."""

    def near(t, y, shift):
        matrix = jax.jacfwd(lambda y: diffusion(t, y, 0.02))(y)
        inverse = jnp.linalg.inv(shift * jnp.eye(40) - matrix)
        return lambda x: inverse @ x

    few: dict[str, Any] = {"max_steps": 3, "rtol": 1e-9}
    solver = jo.Rosenbrock23(linear_solver=jo.Krylov(**few))
    sol = jo.solve(diffusion, START, (0.0, 1.0), 0.02, solver=solver, throw=False, **OPTIONS)
    assert sol.status != jo.Status.SUCCESS
    helped = end(0.02, jo.Krylov(preconditioner=near, **few))
    np.testing.assert_allclose(helped, end_by_dense(), rtol=1e-7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jo.Banded(-1, 1), "lower of Banded"),
        (lambda: jo.Banded(1, 1.5), "upper of Banded"),  # pyright: ignore[reportArgumentType]
        (lambda: jo.Sparse(np.ones((3, 4))), r"\(3, 4\)"),
        (lambda: jo.Krylov("gmress"), "gmres"),
        (lambda: jo.Krylov(rtol=0.0), "rtol of Krylov"),
        (lambda: end(0.02, jo.Banded(40, 1)), r"Banded\(40, 1\).*40 rows"),
        (lambda: end(0.02, jo.Sparse(np.eye(39))), r"\(39, 39\).*40 components"),
    ],
)
def test_bad_linear_solvers_are_refused_by_name(make, words):
    with pytest.raises(jo.OptionError, match=words):
        make()
