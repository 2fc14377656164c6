"""The discrete gradient against differences of the same steps, and against that of tight ones."""

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


def gradient(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Of a sum of squares at the end, by start and argument; and the function itself."""
    field, y0, args, t1, *_ = CASES[name]

    def loss(point: Any, **more: Any) -> Any:
        options: dict[str, Any] = {"max_steps": 20_000, **more}
        return weighted(jo.solve(field, point[0], (0.0, t1), point[1], **options).y1)

    point = jnp.asarray(y0, float), jnp.asarray(args, float)
    return jax.jit(jax.grad(lambda p: loss(p, **options)))(point), (loss, point)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", ["tsit5", "rodas5p"])
def test_differences_of_the_same_steps_agree_to_seven_digits(name, solver):
    field, _, _, t1, step, _ = CASES[name]
    options: dict[str, Any] = {"solver": solver, "rtol": 1e-7, "atol": 1e-9}
    got, (loss, point) = gradient(name, options)
    taken = jo.solve(field, point[0], (0.0, t1), point[1], save="steps", max_steps=20_000,
                     **options)  # fmt: skip
    ts = taken.ts[: int(taken.stats.num_accepted) + 1]
    same = {**options, "controller": jo.Grid(ts)}
    assert_close(got, central(lambda p: loss(p, **same), point, step), 1e-7)


@pytest.mark.parametrize("name", CASES)
def test_the_error_falls_with_the_tolerance(name):
    *_, growth = CASES[name]
    exact, _ = gradient(name, {"solver": "dopri8", "rtol": 1e-13, "atol": 1e-14})
    for rtol in (1e-6, 1e-9):
        got, _ = gradient(name, {"rtol": rtol, "atol": 1e-2 * rtol})
        assert_close(got, exact, growth * rtol)
