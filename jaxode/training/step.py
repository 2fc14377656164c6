"""A step of a training as one compiled program, and the evaluation on validation data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from .arrays import Arrays
from .data import take
from .devices import mean_over_devices
from .objective import Objective
from .optimizers import rate_of
from .program import KeptProgram
from .stream import Stream


class Carry(NamedTuple):
    """What one step hands to the next: the model, its state (None if none), the optimiser's."""

    model: PyTree
    state: Any
    optimizer: PyTree


def first_carry(model: PyTree, state: Any, optimizer: optax.GradientTransformation) -> Carry:
    """What the first step is given, of the types that later steps have: one program serves all."""
    model, state = jax.tree.map(_strong, (model, state))
    opened = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return Carry(model, state, jax.tree.map(_strong, opened))


def _strong(x: Any) -> Any:
    """An array whose type is not that of a number of Python."""
    return jnp.asarray(x, x.dtype) if getattr(x, "weak_type", False) else x


class StepOutcome(NamedTuple):
    """What a step gives.

    - `carry`: as before the step where it is not `finite`. `record`: scalars to log.
    - `succeeded`: the samples whose loss is finite, where there are losses of samples; else None.
    """

    carry: Carry
    record: dict[str, Array]
    finite: Array
    succeeded: Array | None


# A function `(carry, data, key, number, keep)`.
Step = Callable[[Carry, PyTree, Array, Any, Any], StepOutcome]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    data: Arrays | Stream,
    sharding: NamedSharding | None,
) -> Step:
    """Compile a step. Of a key for all steps it takes what is random in step `number`.

    `keep`: the samples whose losses count, shape `(samples,)`; None where the loss is a scalar.
    """
    mean_loss = _mean_loss(objective, data.mapped)
    value_and_grad = eqx.filter_value_and_grad(mean_loss, has_aux=True)
    if sharding is not None:
        value_and_grad = mean_over_devices(value_and_grad, sharding, data.samples, data.mapped)
    rate = rate_of(optimizer)
    draw = data._replace(arrays=None).draw if isinstance(data, Arrays) else data.draw

    def step(carry: Carry, arrays: PyTree, key: Array, number: Array, keep: Any) -> StepOutcome:
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, number))
        rest = carry.state, draw(arrays, batch_key, number), loss_key, keep
        (value, (entries, state, succeeded)), gradient = value_and_grad(carry.model, *rest)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        params, static = eqx.partition(carry.model, eqx.is_inexact_array)
        updates, new_optimizer = optimizer.update(
            gradient,
            carry.optimizer,
            params,
            value=value,
            grad=gradient,
            value_fn=lambda params: mean_loss(eqx.combine(params, static), *rest)[0],
        )
        record = {"loss": value, **rate(carry.optimizer, new_optimizer), **entries}
        candidate = Carry(eqx.apply_updates(carry.model, updates), state, new_optimizer)
        # A step that is not finite leaves the model and the optimiser's state unchanged.
        new_carry = jax.tree.map(
            lambda a, b: jnp.where(finite, a, b) if eqx.is_array(a) else a, candidate, carry
        )
        return StepOutcome(new_carry, record, finite, succeeded)

    return KeptProgram(step)


def _mean_loss(objective: Objective, mapped: PyTree) -> Callable[..., Any]:
    """The loss with what is logged, the new state, and which samples have finite losses.

    A sample that is not kept is replaced in the batch by one that is, and its loss has no weight:
    so nothing that is not finite enters the gradient.
    """

    def mean_loss(model: PyTree, state: Any, batch: PyTree, key: Array, keep: Any) -> Any:
        if keep is not None:
            indices = jnp.where(keep, jnp.arange(keep.size), jnp.argmax(keep))
            batch = take(batch, mapped, indices)
        loss, entries, state = objective(model, _copied(state), batch, key)
        if keep is None or loss.ndim == 0:
            return loss, (entries, state, None)
        value = jnp.sum(jnp.where(keep, loss, 0.0)) / jnp.sum(keep)
        return value, (entries, state, jnp.isfinite(loss))

    return mean_loss


def make_evaluation(objective: Objective) -> Callable[..., dict[str, Array]]:
    """Compile the loss and the metrics of `(model, state, batch, key)`, in inference mode."""

    def evaluate(model: PyTree, state: Any, batch: PyTree, key: Array) -> dict[str, Array]:
        loss, entries, _ = objective(eqx.nn.inference_mode(model), _copied(state), batch, key)
        return {"loss": jnp.mean(loss), **entries}

    return KeptProgram(evaluate)


def _copied(state: Any) -> Any:
    """The same state as another object: a model marks the one that it is given as old."""
    return jax.tree.map(lambda x: x, state)
