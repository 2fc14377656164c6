"""A training step of four models beside the same models solved by diffrax under `vmap`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.timing import Row, compile_times, run_times
from jaxode.nn import cnf, latent_ode, neural_cde, neural_ode
from jaxode.problem.field import call_field

TITLE = "A training step of the models, float32: value and gradient (ms); the curve is of 20 steps"
KEY = jax.random.key(0)
Loss = Callable[[Any, Any], Array]


class Found(eqx.Module):
    """What the models read of a solution."""

    ts: Array
    ys: Any
    y1: Any
    stats: None = None
    status: int = 0


def peer_flow(
    field: Callable, y0: Any, ts: Any, args: Any, settings: Any, *, in_axes: Any = None,
    key: None = None, **more: Any,
) -> Found:  # fmt: skip
    """In the place of jaxode's: the same field, tolerances and times, solved by diffrax."""
    from benchmarks.harness import peers

    ts = jnp.asarray(ts, jax.tree.leaves(y0)[0].dtype)

    def one(y0: Any, ts: Array, args: Any) -> Any:
        def of(t: Array, y: Any, args: Any) -> Any:
            return call_field(field, t, y, args)

        return peers.solve(of, y0, ts, args, settings.rtol, settings.atol)

    ys = jax.vmap(one, (0, None, None) if in_axes is None else in_axes)(y0, ts, args)
    return Found(ts, ys, jax.tree.map(lambda y: y[:, -1], ys))


@contextlib.contextmanager
def by_diffrax() -> Iterator[None]:
    """The models solve by diffrax."""
    modules: tuple[Any, ...] = (cnf, latent_ode, neural_cde, neural_ode)
    ours, compiled = modules[0].flow, latent_ode.compiled
    for module in modules:
        module.flow = peer_flow
    latent_ode.compiled = _called  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for module in modules:
            module.flow = ours
        latent_ode.compiled = compiled  # pyright: ignore[reportAttributeAccessIssue]


def _called(function: Callable, *args: Any) -> Any:
    """In the place of a function that keeps what it has traced once."""
    return function(*args)


def digits() -> tuple[Any, Any, Loss]:
    x, labels = jo.datasets.digits()
    model = jo.nn.ConvODENet(1, 10, groups=8, key=KEY, rtol=1e-2, atol=1e-2, throw=False)

    def loss(model: Any, batch: Any) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]).mean()

    return model, (x[:64], labels[:64]), loss


def flow() -> tuple[Any, Any, Loss]:
    model = jo.nn.FFJORD(2, key=KEY, rtol=1e-5, atol=1e-5, throw=False)
    return model, jo.datasets.moons(256, KEY), jo.nn.negative_log_likelihood


def latent() -> tuple[Any, Any, Loss]:
    data = jo.datasets.latent_spirals(64, key=KEY, shown=50)
    model = jo.nn.LatentODE(2, 4, key=KEY, rtol=1e-4, atol=1e-6, throw=False)
    batch = data.ts, data.xs, data.mask
    return model, batch, lambda model, batch: model.elbo_loss(*batch, key=KEY)


def controlled() -> tuple[Any, Any, Loss]:
    ts, xs, labels = jo.datasets.spiral_chirality(64, key=KEY, missing=0.3)
    model = jo.nn.NeuralCDE.mlp(2, 2, key=KEY, rtol=1e-3, atol=1e-4, throw=False)

    def loss(model: Any, batch: Any) -> Array:
        logits = model(*batch[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[2]).mean()

    return model, (ts, xs, labels), loss


CASES = {
    "digits, ConvODENet, 64 images": digits,
    "moons, FFJORD, exact trace, 256 samples": flow,
    "spirals, latent ODE, 64 series of 100": latent,
    "chirality, neural CDE, 64 series of 100": controlled,
}


def curve(step: Callable, model: Any, batch: Any) -> np.ndarray:
    """The losses of some Adam steps."""
    optimizer = optax.adam(1e-3)
    state, losses = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), []
    for _ in range(20):
        value, gradient = step(model, batch)
        updates, state = optimizer.update(gradient, state)
        model = eqx.apply_updates(model, updates)
        losses.append(float(value))
    return np.array(losses)


def rows() -> list[Row]:
    with jax.enable_x64(False):
        return [row for name, case in CASES.items() for row in compared(name, *case())]


def step(model: Any, loss: Loss, peer: bool) -> tuple[Callable, Any]:
    """Value and gradient of the loss, jitted, by the parameters; and these."""
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def of(params: Any, batch: Any) -> Array:
        with by_diffrax() if peer else contextlib.nullcontext():
            return loss(eqx.combine(params, static), batch)

    return jax.jit(jax.value_and_grad(of)), params


def compared(name: str, model: Any, batch: Any, loss: Loss) -> list[Row]:
    """Running and compiling, with how far gradients and loss curves are apart."""
    from benchmarks.speed.neural_ode import distance

    (ours, params), (theirs, _) = step(model, loss, False), step(model, loss, True)
    mine, other = run_times(lambda: ours(params, batch), lambda: theirs(params, batch), repeats=15)
    apart = distance(ours(params, batch)[1], theirs(params, batch)[1])
    curves = [curve(function, params, batch) for function in (ours, theirs)]
    note = (
        f"gradients {apart:.0e} apart, curves {np.max(np.abs(curves[0] / curves[1] - 1)):.0e} "
        f"({curves[0][0]:.3f} to {curves[0][-1]:.3f})"
    )
    makers = (
        lambda peer=peer: (step(model, loss, peer)[0], (params, batch)) for peer in (False, True)
    )
    at_first, at_first_other = compile_times(*makers, repeats=1)
    return [
        Row(name, mine, other, ">= 1.5", note=note),
        Row("its compilation", at_first, at_first_other, ">= 2"),
    ]
