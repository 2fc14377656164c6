"""Training of a model: `fit` checks its options, compiles a step, and runs the loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import optax
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ..problem.promotion import with_own_promotion
from .data import check_labels, check_pair, samples_of
from .log import Log
from .loop import Plan, train
from .named_loss import Metric, axes_of, find_metrics, named_objective, predict
from .objective import Loss, Objective, check_loss_option
from .optimizers import FULL_BATCH, find_optimizer
from .options import (
    check_appearance,
    check_callbacks,
    check_failure_option,
    check_key_or_seed,
    check_lengths,
    check_model,
    check_validation,
    check_waiting,
)
from .own_loss import loss_shape, own_objective
from .progress import open_display
from .sources import Source, check_full_batch, cut, hold_out, open_source, validation_arrays
from .state import TrainingState
from .step import first_carry, make_step
from .validation import find_validation


@with_own_promotion
def fit(
    model: PyTree,
    data: PyTree,
    *,
    loss: str | Loss = "mse",
    steps: int | None = None,
    epochs: int | None = None,
    optimizer: str | optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    data_axes: PyTree = 0,
    validation: PyTree | float | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    metric: str | Metric | None = None,
    metrics: str | Metric | Sequence[str | Metric] | Mapping[str, str | Metric] | None = None,
    on_failure: Literal["stop", "skip"] = "stop",
    callbacks: Callable[[TrainingState], Any] | Sequence[Callable[[TrainingState], Any]] = (),
    key: Array | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    label: str = "fit",
    sharding: NamedSharding | None = None,
) -> tuple[Any, Log]:
    """Train `model` on `data`.

    **Arguments:**

    - `model`: an Equinox module. With an attribute `batched = True`, as the models of `jo.nn` have,
      it is called on a batch, else mapped over it by `vmap`. With `flow_map = True`, as
      `NeuralODE` has, losses by name call `model.solve(x)` instead, take the `y1` of this
      `Solution` as the prediction, and log its `stats`; with an `integral_loss`, as `NeuralODE` may
      have, they add its mean. Or a pair of a module and its `eqx.nn.State`, as
      `eqx.nn.make_with_state` makes, called as `model(x, state)` with `axis_name="batch"`.
    - `data`: a pytree of arrays with a common first axis; for the losses by name, `(x, y)` without
      NaN. A function may give NaN a meaning, such as a missing value of a series. Or an iterator
      of batches, what can be iterated over, or a function that makes an iterator: each batch such
      a pytree, also of NumPy's arrays or PyTorch's tensors.
    - `loss`: "cross_entropy", "mse", or a function `(model, batch)` or `(model, batch, key)`
      that returns the loss, or the loss and a dict of scalars to log ("stats": a `Stats`). The key
      goes to an argument called `key`, or to a third one without a default. Of a model with
      state: a function `(model, state, batch)` that returns the loss and the new state.
    - `steps`: optimiser steps, 1000 by default; or `epochs`: each goes once through the samples in
      a new order, but for those that do not fill a batch.
    - `optimizer`: any Optax transformation, "lbfgs" (all data in every step), or "adam", that is
      `optax.adam(1e-3)`, also for None.
    - `batch_size`: samples drawn for each step, without replacement; None for all.
    - `data_axes`: None for arrays that all samples share, such as times, and 0 for the others, as a
      pytree that is a prefix of the data: `(None, 0)`.
    - `validation`: data, or a share of the data between 0 and 1, split by the key. The model of the
      best validation loss is returned. `validate_every`: steps between validations; by default an
      epoch, at least 10 steps, or 100 steps of an iterator. `patience`: so many validations
      without a better loss end the training.
    - `metrics`: "accuracy", "mse" or a function of prediction and target; several as a list or a
      dict of names; by default accuracy for the cross entropy. `metric`: one alone.
    - `on_failure`: "stop" ends the training at a loss or gradient that is not finite; "skip" leaves
      out the samples whose loss is not finite (losses by name, and functions that return the losses
      of the samples, shape `(samples,)`), or else the whole batch. Ten batches in a row are an
      error.
    - `callbacks`: functions of a `jo.callbacks.TrainingState`, called after each step; False ends
      the training. `jo.callbacks` has some.
    - `key` or `seed`: for the batches, the split and the loss; `jax.random.key(0)` by default.
    - `progress`: show a bar, or lines where there is no terminal; by default if tqdm is installed.
      `label`: its title.
    - `sharding`: splits each batch over devices, `NamedSharding(mesh, PartitionSpec(axis))`: every
      device computes loss and gradient of its samples, which are averaged over the devices. So the
      loss must be a mean over samples, and the number of devices must divide the batch.

    **Returns:** the trained model and a `Log`. A step whose loss or gradient is not finite leaves
    the model unchanged. Ctrl-C ends the training with the model and the log so far.

    **Raises:** `DataError` and `OptionError` for bad input, `SolveError` if the first loss is not
    finite. After the first step, where the data or a callback raise or too many steps fail,
    `TrainingError` with the model and the log. **Warns:** `TrainingWarning` if training ends before
    its last step, but for `patience` and callbacks.
    """
    steps, epochs = check_lengths(steps, epochs)
    transformation = find_optimizer(optimizer)
    check_appearance(progress, label)
    check_loss_option(loss)
    model, state = check_model(model, loss)
    named, skip = find_metrics(loss, metric, metrics), check_failure_option(on_failure)
    functions = check_callbacks(callbacks)
    check_waiting(validate_every, patience, validation)
    key = check_key_or_seed(key, seed)
    check_validation(validation)
    source = open_source(data, data_axes, batch_size, epochs is not None)
    if isinstance(optimizer, str) and optimizer in FULL_BATCH:
        check_full_batch(optimizer, source, sharding)
    ahead, held_out = hold_out(source, validation)
    samples = samples_of(data_axes) if skip and sharding is None else None
    apart = validation is not None and not held_out
    checked = [validation_arrays(validation, data_axes, source)] if apart else []
    objective, by_sample = _find_objective(loss, named, samples, model, state, ahead, checked)
    step = make_step(objective, transformation, ahead, sharding)
    ahead, part = cut(ahead, source, held_out, key)
    plan = Plan(
        step=step,
        key=key,
        validation=find_validation(objective, validation if part is None else part, data_axes, key),
        steps=ahead.planned(steps, epochs),
        validate_every=validate_every or ahead.validate_every,
        patience=patience,
        skip=skip,
        by_sample=by_sample,
        samples=ahead.count,
        callbacks=functions,
    )
    carry = first_carry(model, state, transformation)
    display = open_display(progress, plan.steps, label)
    return train(plan, ahead.feed(steps, epochs, key), carry, display)


def _find_objective(
    loss: str | Loss,
    metrics: Mapping[str, Metric],
    samples: Callable[[PyTree], int] | None,
    model: PyTree,
    state: Any,
    data: Source,
    validation: list[PyTree],
) -> tuple[Objective, bool]:
    """What is minimised, checked on the data; and whether it gives the losses of the samples.

    `validation`: those of validation, none or one.

    **Raises:** `DataError`, and `OptionError` for a loss of the user that fails.
    """
    if not isinstance(loss, str):
        objective = own_objective(loss, state is not None, samples)
        return objective, bool(loss_shape(objective, model, state, data.example()).shape)
    given = [(data.first, "data"), *((arrays, "validation") for arrays in validation)]
    for arrays, what in given:
        check_pair(arrays, what)
    if loss == "cross_entropy":
        x, axes = data.example()[0], axes_of(data.mapped)
        prediction = eqx.filter_eval_shape(predict, model, state, x, axes).values
        for arrays, what in given:
            check_labels(arrays[1], prediction.shape[-1], what)
    by_sample = samples is not None
    return named_objective(loss, metrics, by_sample, data.mapped), by_sample
