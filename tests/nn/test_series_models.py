"""Models of series: each way to a gradient gives the same, and what is drawn stays in a solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.differences import parted, weighted
from tests.support.irregular import series

KEY = jax.random.key(0)
TIGHT: Any = {"rtol": 1e-8, "atol": 1e-8}


def latent(**options):
    model = jo.nn.LatentODE(2, 2, 3, width=4, depth=1, augment=1, key=KEY, **options)
    return model, lambda model, *data: model.elbo_loss(*data, key=KEY)


def ode_rnn(**options):
    model = jo.nn.ODERNN(2, 3, 2, key=KEY, **options)
    return model, lambda model, *data: weighted(model(*data))


def cde(**options):
    model = jo.nn.NeuralCDE.mlp(2, 2, hidden=3, width=4, key=KEY, **options)
    return model, lambda model, *data: weighted(model(*data))


def gradient(make, **options):
    model, loss = make(**TIGHT, **options)
    found = eqx.filter_jit(eqx.filter_grad(loss))(model, *series())
    return np.asarray(parted(found)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [latent, *(pytest.param(make, marks=pytest.mark.slow) for make in (ode_rnn, cde))]
)
def test_the_adjoint_has_the_gradient_of_the_replay(make):
    replayed, adjoint = (gradient(make, sensitivity=name) for name in ("discrete", "adjoint"))
    size = float(np.linalg.norm(replayed))
    assert size > 1e-2
    np.testing.assert_allclose(adjoint, replayed, atol=1e-6 * size)


class Dropped(eqx.Module):
    """A network with dropout on what it returns."""

    network: eqx.nn.Linear
    dropout: jo.nn.Dropout

    def __call__(self, z):
        return self.dropout(jnp.tanh(self.network(z)))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_a_cde_draws_once_for_a_solve_by_its_key(dtype):
    ts, xs, mask = series()
    field = Dropped(eqx.nn.Linear(3, 9, key=KEY), jo.nn.Dropout(0.5, 9))
    model = jo.nn.NeuralCDE(field, eqx.nn.Linear(3, 3, key=KEY))

    evaluated = eqx.filter_jit(model)
    data = jnp.asarray(ts, dtype), jnp.asarray(xs, dtype), mask

    def run(seed):
        return evaluated(*data, key=jax.random.key(seed))

    one = run(1)
    assert one.dtype == dtype and bool(jnp.all(jnp.isfinite(one)))
    np.testing.assert_array_equal(one, run(1))
    assert not np.allclose(one, run(2))
