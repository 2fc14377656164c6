"""Every model, field and path can be pickled, with the activations of JAX inside."""

import inspect
import pickle
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.model_arguments import NEEDED

KEY = jax.random.key(0)


def modules() -> list[str]:
    """The public classes of modules, but those that are only a base class of others."""
    return [
        name
        for name, value in vars(jo.nn).items()
        if inspect.isclass(value)
        and issubclass(value, eqx.Module)
        and value not in (jo.nn.Basis, jo.nn.Control, jo.nn.WeightNorm)
    ]


def again(module: Any) -> Any:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("name", modules())
def test_a_pickled_module_is_the_same(name):
    make = getattr(jo.nn, name)
    if issubclass(make, jo.nn.Control):
        make = eqx.filter_jit(make)
    module = make(**NEEDED.get(name, {}))
    assert bool(eqx.tree_equal(again(module), module))
    assert jax.tree.structure(again(module)) == jax.tree.structure(module)


ACTIVATIONS = (
    jax.nn.relu, jax.nn.silu, jax.nn.gelu, jax.nn.softplus, jax.nn.elu, jax.nn.sigmoid, jnp.tanh,
    jnp.sin, jax.nn.swish,
)  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_found_by_name(activation):
    assert again(activation) is activation
    assert again(eqx.nn.MLP(2, 2, 4, 1, activation, key=KEY)).activation is activation


def test_a_pickled_model_gives_the_same_output():
    x = jax.random.normal(KEY, (3, 2))
    options: Any = {"solver": "rk4", "dt": 0.5}
    network = eqx.nn.MLP(2, 2, 4, 1, jnp.tanh, key=KEY)
    model = jo.NeuralODE(network, t1=jnp.array(2.0), sensitivity="adjoint", **options)
    np.testing.assert_array_equal(again(model)(x), model(x))
    series = jnp.linspace(0.0, 1.0, 3), jax.random.normal(KEY, (2, 3, 2))
    rnn = jo.nn.ODERNN(2, 3, 1, key=KEY, solver="rk4", dt=0.5)
    np.testing.assert_array_equal(again(rnn)(*series), rnn(*series))


def test_a_function_that_no_name_leads_to_says_so():
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(jo.NeuralODE(jax.jit(lambda y: -y)))
