"""The discrete gradient against differences of the same steps, and against that of tight ones."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import jaxode as jo
from tests.support.differences import assert_close, central, weighted

_NET = eqx.nn.MLP(2, 2, 16, 2, activation=jnp.tanh, key=jax.random.key(0))
_WEIGHTS, _RAVELLED = ravel_pytree(eqx.filter(_NET, eqx.is_inexact_array))


def three_bodies(t, y, mu):
    """The restricted three-body problem of Arenstorf's orbit."""
    near, far = y[0] + mu, y[0] - (1 - mu)
    d1, d2 = (near**2 + y[1] ** 2) ** 1.5, (far**2 + y[1] ** 2) ** 1.5
    ax = y[0] + 2 * y[3] - (1 - mu) * near / d1 - mu * far / d2
    ay = y[1] - 2 * y[2] - (1 - mu) * y[1] / d1 - mu * y[1] / d2
    return jnp.stack([y[2], y[3], ax, ay])


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def lotka_volterra(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


def network(t, y, weights):
    return eqx.combine(_RAVELLED(weights), _NET)(y)


# Field, start, argument, last time, the step of the differences, and how gradients err.
CASES: dict[str, tuple] = {
    "three-body": (
        three_bodies, [0.994, 0.0, 0.0, -2.0015851063790824], 0.012277471, 16.0, 1e-7, 2e3
    ),
    "Van der Pol": (van_der_pol, [2.0, 0.0], 5.0, 12.0, 1e-4, 300.0),
    "Lotka-Volterra": (lotka_volterra, [1.0, 1.0], [1.5, 1.0, 3.0, 1.0], 10.0, 1e-4, 300.0),
    "network": (network, [0.5, -0.3], _WEIGHTS.astype(float), 3.0, 1e-3, 1.0),
}  # fmt: skip


MAX_STEPS = 20_000


def point(name: str) -> tuple[Any, Any]:
    """The start and the argument that gradients are by."""
    _, y0, args, *_ = CASES[name]
    return jnp.asarray(y0, float), jnp.asarray(args, float)


def loss(name: str, point: Any, **options: Any) -> Any:
    """A sum of squares at the end."""
    field, _, _, t1, *_ = CASES[name]
    sol = jo.solve(field, point[0], (0.0, t1), point[1], max_steps=MAX_STEPS, **options)
    return weighted(sol.y1)


@functools.cache
def gradient(name: str, solver: str) -> Callable[..., Any]:
    """The gradient of `loss` as a compiled function of point and tolerances."""
    return jax.jit(
        jax.grad(lambda p, rtol, atol: loss(name, p, solver=solver, rtol=rtol, atol=atol))
    )


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("Van der Pol", "tsit5"),
        *(pytest.param(n, "tsit5", marks=pytest.mark.slow) for n in CASES if n != "Van der Pol"),
        *(pytest.param(n, "rodas5p", marks=pytest.mark.slow) for n in CASES),
    ],
)
def test_differences_of_the_same_steps_agree_to_seven_digits(name, solver):
    field, _, _, t1, step, _ = CASES[name]
    p = point(name)
    options: dict[str, Any] = {"solver": solver, "rtol": 1e-7, "atol": 1e-9}
    taken = jo.solve(field, p[0], (0.0, t1), p[1], save="steps", max_steps=MAX_STEPS, **options)
    ts = taken.ts[: int(taken.stats.num_accepted) + 1]
    same = {**options, "controller": jo.Grid(ts)}
    differences = central(lambda p: loss(name, p, **same), p, step)
    assert_close(gradient(name, solver)(p, 1e-7, 1e-9), differences, 1e-7)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "Van der Pol" else pytest.mark.slow) for n in CASES],
)
def test_the_error_falls_with_the_tolerance(name):
    *_, growth = CASES[name]
    exact = gradient(name, "dopri8")(point(name), 1e-13, 1e-14)
    for rtol in (1e-6, 1e-9):
        got = gradient(name, "tsit5")(point(name), rtol, 1e-2 * rtol)
        assert_close(got, exact, growth * rtol)
