"""The continuous adjoint of stiff and implicit problems: mass matrices, structured Jacobians."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import assert_close, central, weighted

STIFF: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12, "max_steps": 512}


# A field of three components with mass matrices: regular, and of index 1.
MASSES = {
    "regular": np.array([[2.0, 0.3, 0.1], [-0.4, 1.5, 0.2], [0.1, 0.5, 1.0]]),
    "index 1": np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, -1.0]]),
}
MASSIVE = {
    "y0": jnp.array([1.1, 0.6, 0.3]),
    "k": jnp.array([1.0, 0.9, 1.2]),
    "c": jnp.array(0.7),
    "ts": jnp.array([0.0, 0.4, 0.4, 1.0]),
}


def mixing(t, u, args):
    k, c = args
    x, y, z = u
    A = jnp.array([[-0.7, 0.9, 0.4], [-0.5, -0.8, 0.6], [0.5, -0.3, -1.9]])
    more = [
        jnp.sin(x * y) + 0.3 * z**2 * x * c,
        x * y - 0.4 * z**3 * y + c * jnp.cos(t),
        0.3 * jnp.sin(x * z) + x**2 + jnp.sin(t),
    ]
    return k * (A @ u) + jnp.stack(more)


def massive(p, kind, sensitivity):
    sol = jo.solve(
        mixing, p["y0"], p["ts"], (p["k"], p["c"]), solver=jo.Rodas5P(mass=MASSES[kind]),
        sensitivity=sensitivity, **STIFF,
    )  # fmt: skip
    return weighted(sol.ys)


@functools.cache
def massive_discrete(kind):
    return jax.jit(jax.grad(lambda p: massive(p, kind, "discrete")))(MASSIVE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sensitivity"),
    [
        pytest.param("regular", jo.Continuous("interpolate"), marks=pytest.mark.slow),
        pytest.param("regular", jo.Continuous("backsolve"), marks=pytest.mark.slow),
        pytest.param(
            "regular", jo.Continuous("quadrature", solver="tsit5"), marks=pytest.mark.slow
        ),
        ("index 1", jo.Continuous("interpolate")),
        pytest.param("index 1", jo.Continuous("quadrature"), marks=pytest.mark.slow),
    ],
)
def test_mass_matrices(kind, sensitivity):
    """The adjoint solver keeps the matrix, or the equation is divided by it if that takes none."""
    gradient = jax.jit(jax.grad(lambda p: massive(p, kind, sensitivity)))(MASSIVE)
    assert_close(gradient, massive_discrete(kind), 1e-6)


@pytest.mark.slow
def test_algebraic_equations_in_a_batch():
    def value(p, sensitivity):
        sols = jo.solve_batch(
            mixing, p["y0"][None], p["ts"], (p["k"][None], p["c"]), in_axes=(0, None, (0, None)),
            solver=jo.Rodas5P(mass=MASSES["index 1"]), sensitivity=sensitivity,
            **STIFF,
        )  # fmt: skip
        return weighted(sols.ys)

    gradient = jax.jit(jax.grad(lambda p: value(p, jo.Continuous("interpolate"))))(MASSIVE)
    assert_close(gradient, massive_discrete("index 1"), 1e-6)


# Convection upwind, and a reaction: bands of different widths below and above.
SIZE = 12
PATTERN = np.tri(SIZE, k=1) - np.tri(SIZE, k=-3)


def convection(t, u, k):
    before, twice = jnp.pad(u, (1, 0))[:-1], jnp.pad(u, (2, 0))[:-2]
    after = jnp.pad(u, (0, 1))[1:]
    return k[0] * (before - u) + 0.3 * twice * u + k[1] * after * jnp.cos(t) - 0.1 * u**2


def structured(k, solver, sensitivity):
    start = jnp.sin(jnp.linspace(0.1, 3.0, SIZE))
    options: dict[str, Any] = {
        "solver": solver,
        "sensitivity": sensitivity,
        **STIFF,
    }
    return weighted(jo.solve(convection, start, (0.0, 0.3, 0.5), k, **options).ys)


CONVECTION_K = jnp.array([2.0, 1.0])


@functools.cache
def structured_discrete():
    return jax.jit(jax.grad(lambda k: structured(k, "tsit5", "discrete")))(CONVECTION_K)


LINEAR = {
    "banded": jo.Banded(2, 1),
    "sparse": jo.Sparse(PATTERN),
    "krylov": jo.Krylov(rtol=1e-12),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("banded", "interpolate"),
        pytest.param("banded", "quadrature", marks=pytest.mark.slow),
        pytest.param("sparse", "interpolate", marks=pytest.mark.slow),
        pytest.param("krylov", "backsolve", marks=pytest.mark.slow),
    ],
)
def test_structured_jacobians(name, method):
    solver, sensitivity = jo.Rodas5P(linear_solver=LINEAR[name]), jo.Continuous(method)
    gradient = jax.jit(jax.grad(lambda k: structured(k, solver, sensitivity)))(CONVECTION_K)
    assert_close(gradient, structured_discrete(), 1e-6)


K = jnp.log(jnp.array([0.04, 3e7, 1e4]))


def robertson(t, y, k):
    one, two, three = k[0] * y[0], k[1] * y[1] ** 2, k[2] * y[1] * y[2]
    return jnp.stack([three - one, one - two - three, two])


def stiff(k, sensitivity: Any = "discrete", rtol=1e-8):
    sol = jo.solve(
        robertson, jnp.array([1.0, 0.0, 0.0]), (0.0, 1e5), jnp.exp(k), solver="rodas5p",
        rtol=rtol, atol=1e-4 * rtol, sensitivity=sensitivity, max_steps=20_000,
    )  # fmt: skip
    return jnp.sum(jnp.array([1.0, 1e5, 2.0]) * sol.y1**2)


@pytest.mark.slow
def test_a_stiff_problem_interpolated_has_the_gradient_of_differences():
    """And so has the discrete one: differences of solves whose steps are their own."""
    exact = central(lambda k: stiff(k, rtol=1e-11), K)
    for sensitivity in (jo.Continuous("interpolate"), "discrete"):
        found = jax.jit(jax.grad(lambda k: stiff(k, sensitivity)))(K)  # noqa: B023
        np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quadrature", "backsolve"])
def test_a_stiff_problem_integrated_backwards_is_never_a_wrong_number(name):
    gradient = jax.jit(jax.grad(lambda k: stiff(k, jo.Continuous(name))))(K)
    assert np.all(np.isnan(gradient))


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"controller": jo.Fixed(0.01)}, marks=pytest.mark.slow)]
)
def test_only_the_trajectory_that_is_not_retraced_is_nan(options):
    """Backwards, the error of a state that contracts by exp(-rate) grows by as much, and is finite.

    The gradient by what all share is NaN then, unless the loss leaves that trajectory out.
    """
    rates = jnp.array([0.5, 300.0, 1.0])

    def value(p, keep):
        def field(t, y, rate):
            return -rate * (y - p["push"] * jnp.cos(t))

        sols = jo.solve_batch(
            field, p["y0"], (0.0, 1.0), rates, in_axes=(0, None, 0), sensitivity="adjoint",
            rtol=1e-4, atol=1e-4, **options,
        )  # fmt: skip
        return jnp.sum(jnp.where(keep[:, None], sols.y1, 0) ** 2)

    p = {"y0": jnp.ones((3, 1)), "push": jnp.array(0.3)}
    run = jax.jit(jax.grad(value))
    all_of_them = run(p, jnp.ones(3, bool))
    np.testing.assert_array_equal(np.isnan(all_of_them["y0"][:, 0]), [False, True, False])
    assert np.isnan(all_of_them["push"])
    rest, r, push = run(p, rates < 10), np.array([0.5, 1.0]), 0.3
    by_push = r * (r * np.cos(1) + np.sin(1) - r * np.exp(-r)) / (r**2 + 1)
    exact = np.sum(2 * (np.exp(-r) + push * by_push) * by_push)
    np.testing.assert_allclose(rest["push"], exact, rtol=1e-3)
