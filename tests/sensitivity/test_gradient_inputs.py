"""The discrete gradient by arrays of modules, closed-over arrays, complex values and pytrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import jaxode as jo
from tests.support.differences import assert_close, gradient_and_differences, weighted
from tests.support.pendulum import point


class Field(eqx.Module):
    net: eqx.nn.MLP
    name: str = eqx.field(static=True, default="field")

    def __call__(self, t, y, args):
        return self.net(jnp.concatenate([y, t[None]]))


def network():
    net = eqx.nn.MLP(3, 2, 4, 1, activation=jax.nn.tanh, key=jax.random.key(3))
    return eqx.partition(Field(net), eqx.is_inexact_array)


@pytest.mark.parametrize("save", ["ts", pytest.param("dense", marks=pytest.mark.slow)])
def test_arrays_of_a_module_get_the_exact_gradient(save):
    arrays, rest = network()

    def loss(arrays):
        sol = jo.solve(
            eqx.combine(arrays, rest), jnp.ones(2), (0.2, 0.8, 1.4), save=save,
            controller=jo.Fixed(0.17), max_steps=12,
        )  # fmt: skip
        return weighted(sol.ys)

    assert_close(*gradient_and_differences(loss, arrays), 1e-9)


def test_closed_over_arrays_of_field_and_read_out_get_the_exact_gradient():
    def loss(p):
        sol = jo.solve(
            lambda t, y, args: p["inner"] @ jnp.sin(y),
            jnp.array([0.4, 0.8]),
            (0.2, 0.8, 1.4),
            save=lambda t, y, args: p["outer"] * y,
            controller=jo.Fixed(0.17),
        )
        return weighted(sol.ys)

    p = {"inner": jnp.array([[0.1, 1.0], [-1.2, 0.3]]), "outer": jnp.array([1.0, -2.0])}
    assert_close(*gradient_and_differences(loss, p), 1e-9)


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float64, marks=pytest.mark.slow), jnp.complex128]
)
def test_complex_states_and_parameters(dtype):
    def loss(p):
        y0 = (p["y"][0] + 1j * p["y"][1])[None]
        factor = p["k"][0] + 1j * p["k"][1]
        args = factor if dtype == jnp.complex128 else p["k"]

        def field(t, y, k):
            k = k if dtype == jnp.complex128 else k[0] + 1j * k[1]
            return k * y + 0.1 * y**2 * jnp.cos(t)

        sol = jo.solve(field, y0, p["ts"], args, controller=jo.Fixed(0.17), max_steps=12)
        return weighted(sol.ys)

    p = {"y": jnp.array([0.5, 0.2]), "k": jnp.array([-0.2, 1.5]), "ts": point()["ts"]}
    assert_close(*gradient_and_differences(loss, p), 1e-9)


def test_mixed_pytree_states():
    def loss(p):
        y0 = {"wave": p["a"] + 1j * p["b"], "real": (p["a"][:1], p["b"][None])}

        def field(t, y, args):
            size = jnp.sum(jnp.abs(y["wave"]) ** 2)
            real = jax.tree.map(lambda x: -x * size, y["real"])
            return {"wave": 1j * y["wave"] * y["real"][0][0], "real": real}

        sol = jo.solve(field, y0, (0.2, 0.8, 1.4), controller=jo.Fixed(0.17), max_steps=12)
        return weighted((sol.ys, sol.y1))

    p = {"a": jnp.array([0.6, 0.3]), "b": jnp.array([-0.4, 0.9])}
    assert_close(*gradient_and_differences(loss, p), 1e-9)
