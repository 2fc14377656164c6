"""A training step of four models, beside the same models solved by diffrax under `vmap`."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxode as jo
from benchmarks.harness.comparison import Comparison
from benchmarks.harness.errors import relative_error
from benchmarks.harness.side_by_side import beside_diffrax
from benchmarks.harness.timing import compile_times, run_times
from jaxode.nn import cde, cnf, latent_ode, neural_ode
from jaxode.nn.solve_options import Settings
from jaxode.problem.field import call_field

TITLE = "A training step of the models, float32: value and gradient (ms); the curve is of 20 steps"
SETTINGS = beside_diffrax(
    rtol="ConvODENet 1e-4, FFJORD 1e-5, latent ODE 1e-4, neural CDE 1e-3",
    atol="ConvODENet 1e-4, FFJORD 1e-5, latent ODE 1e-6, neural CDE 1e-4",
    dtype="float32",
    batch=("jo.solve_batch: each sample has steps of its own", "the same under vmap"),
)
KEY = jax.random.key(0)
Loss = Callable[[Any, Any], Array]


class PeerSolution(eqx.Module):
    """The attributes of a solution that the models read."""

    ts: Array
    ys: Any
    y1: Any
    origin: None = None
    stats: None = None
    status: int = 0


def peer_flow(
    field: Callable, y0: Any, ts: Any, args: Any, settings: Any, *, in_axes: Any = None,
    key: None = None, **more: Any,
) -> PeerSolution:  # fmt: skip
    """The replacement of jaxode's batched solve: diffrax with equal tolerances and times."""
    # The GPU benchmark imports this module where diffrax may be missing.
    from benchmarks.harness.peers import diffrax_values

    ts = jnp.asarray(ts, jax.tree.leaves(y0)[0].dtype)

    def saved_states(y0: Any, ts: Array, args: Any) -> Any:
        def vector_field(t: Array, y: Any, args: Any) -> Any:
            return call_field(field, t, y, args)

        return diffrax_values(vector_field, y0, ts, args, settings.rtol, settings.atol)

    ys = jax.vmap(saved_states, (0, None, None) if in_axes is None else in_axes)(y0, ts, args)
    return PeerSolution(ts, ys, jax.tree.map(lambda y: y[:, -1], ys))


@contextlib.contextmanager
def solving_by_diffrax() -> Iterator[None]:
    """A context in which the models solve by diffrax."""
    modules: tuple[Any, ...] = (cde, cnf, latent_ode, neural_ode)
    ours, run = modules[0].solve_samples, latent_ode.run_with_settings
    for module in modules:
        module.solve_samples = peer_flow
    latent_ode.run_with_settings = _call_uncached
    try:
        yield
    finally:
        for module in modules:
            module.solve_samples = ours
        latent_ode.run_with_settings = run


def _call_uncached(function: Callable, *args: Any) -> Any:
    """The replacement of a function that caches its traced program: a plain call."""
    return function(*args)


def digits() -> tuple[Any, Any, Loss]:
    """A `ConvODENet` on images of digits."""
    x, labels = jo.datasets.digits()
    model = jo.nn.ConvODENet(1, 10, groups=8, key=KEY, rtol=1e-4, atol=1e-4, throw=False)

    def loss(model: Any, batch: Any) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]).mean()

    return model, (x[:64], labels[:64]), loss


def flow() -> tuple[Any, Any, Loss]:
    """A continuous normalising flow on the moons."""
    model = jo.nn.FFJORD(2, key=KEY, rtol=1e-5, atol=1e-5, throw=False)
    return model, jo.datasets.moons(256, KEY), jo.nn.negative_log_likelihood


def latent() -> tuple[Any, Any, Loss]:
    """A latent ODE on spirals."""
    data = jo.datasets.latent_spirals(64, key=KEY, shown=50)
    model = jo.nn.LatentODE(2, 4, key=KEY, rtol=1e-4, atol=1e-6, throw=False)
    batch = data.ts, data.xs, data.mask
    return model, batch, lambda model, batch: model.elbo_loss(*batch, key=KEY)


def controlled() -> tuple[Any, Any, Loss]:
    """A neural CDE on spirals with missing points."""
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
NOISY = (latent,)


def loss_curve(step: Callable, model: Any, batch: Any) -> np.ndarray:
    """The losses of twenty Adam steps."""
    optimizer = optax.adam(1e-3)
    state, losses = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), []
    for _ in range(20):
        value, gradient = step(model, batch)
        updates, state = optimizer.update(gradient, state)
        model = eqx.apply_updates(model, updates)
        losses.append(float(value))
    return np.array(losses)


def rows() -> list[Comparison]:
    with jax.enable_x64(False):
        return [row for name, case in CASES.items() for row in case_rows(name, *case())]


def make_step(model: Any, loss: Loss, peer: bool) -> tuple[Callable, Any]:
    """Value and gradient of the loss by the parameters, jitted, and the parameters."""
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_of_params(params: Any, batch: Any) -> Array:
        with solving_by_diffrax() if peer else contextlib.nullcontext():
            return loss(eqx.combine(params, static), batch)

    return jax.jit(jax.value_and_grad(loss_of_params)), params


def exact_gradient(model: Any, batch: Any, loss: Loss) -> Any:
    """The gradient of the same weights in float64, at tolerances of 1e-8."""
    with jax.enable_x64(True):

        def widened(tree: Any) -> Any:
            floats, rest = eqx.partition(tree, eqx.is_inexact_array)
            return eqx.combine(jax.tree.map(lambda x: x.astype(jnp.float64), floats), rest)

        step, params = make_step(widened(with_tolerances(model, 1e-8)), loss, False)
        return step(params, widened(batch))[1]


def with_tolerances(model: Any, tolerance: float) -> Any:
    """The model with another relative and absolute tolerance of its solves."""

    def tightened(part: Any) -> Any:
        if not isinstance(part, Settings):
            return part
        return eqx.tree_at(lambda s: (s.rtol, s.atol), part, (tolerance, tolerance))

    return jax.tree.map(tightened, model, is_leaf=lambda part: isinstance(part, Settings))


def case_rows(name: str, model: Any, batch: Any, loss: Loss) -> list[Comparison]:
    """Run and compile times, with the differences of gradients and loss curves in a note.

    Errors are those of the gradients. There are none where the loss draws noise, which is another
    one in float64.
    """
    (ours, params), (peer, _) = make_step(model, loss, False), make_step(model, loss, True)
    times = run_times(lambda: ours(params, batch), lambda: peer(params, batch), repeats=15)
    gradients = ours(params, batch)[1], peer(params, batch)[1]
    difference = relative_error(*gradients)
    if difference == 0.0:
        raise RuntimeError(f"{name}: both gradients are of the same solver")
    our_error, peer_error = math.nan, math.nan
    if CASES[name] not in NOISY:
        exact = exact_gradient(model, batch, loss)
        with jax.enable_x64(True):
            our_error, peer_error = (
                relative_error(jax.tree.map(np.float64, g), exact) for g in gradients
            )
    our_curve, peer_curve = (loss_curve(step, params, batch) for step in (ours, peer))
    note = (
        f"gradients {difference:.0e} apart, "
        f"curves {np.max(np.abs(our_curve / peer_curve - 1)):.0e} "
        f"({our_curve[0]:.3f} to {our_curve[-1]:.3f})"
    )
    makers = (
        lambda by_peer=by_peer: (make_step(model, loss, by_peer)[0], (params, batch))
        for by_peer in (False, True)
    )
    compiling = compile_times(*makers, repeats=3)
    return [
        Comparison(name, times[0], times[1], ">= 1.5", our_error, peer_error, note),
        Comparison(f"compile, {name}", compiling[0], compiling[1], ">= 2"),
    ]
