"""The training loop `fit`: jitted Optax steps, a progress bar, and a log."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from ..integrate.progress import tqdm_class
from ..problem.errors import (
    CALL_ERRORS,
    DataError,
    OptionError,
    SolveError,
    TrainingWarning,
    own_error,
)
from ..problem.promotion import with_own_promotion
from ..problem.state import is_numeric
from ..problem.status import Status
from ..problem.validation import check_count, check_flag, check_key, is_count, shown_value
from .devices import mean_over_devices
from .objective import Loss, objective_of, predict


@dataclasses.dataclass
class Log:
    """The history and the timings of a `fit`.

    `history` maps a name to one value per step, shape `(steps,)`: "loss", the metric's name,
    "evaluations" and "rejected" (steps of the forward solve, if known, averaged over the samples),
    and the scalars that the loss returned. `ms_per_step`: the median time of all steps but the
    first; `compile_seconds`: the first step's excess over it.
    """

    history: dict[str, np.ndarray]
    compile_seconds: float
    ms_per_step: float

    @property
    def loss(self) -> np.ndarray:
        """The loss before each step, shape `(steps,)`."""
        return self.history["loss"]

    def summary(self) -> str:
        """One line with the last values, the time per step and the compile time."""
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return (
            f"{self.loss.size} steps: {last}, {self.ms_per_step:.1f} ms/step, "
            f"compiled in {self.compile_seconds:.1f} s"
        )


@with_own_promotion
def fit(
    model: PyTree,
    data: PyTree,
    *,
    loss: str | Loss = "mse",
    steps: int = 1000,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    metric: str | Callable[[Array, Array], Array] | None = None,
    key: Array | None = None,
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
      have, they add its mean.
    - `data`: a pytree of arrays with a common first axis; for the losses by name, `(x, y)` without
      NaN. A function may give NaN a meaning, such as a missing value of a series.
    - `loss`: "cross_entropy", "mse", or a function `(model, batch)` or `(model, batch, key)`
      that returns the loss, or the loss and a dict of scalars to log ("stats": a `Stats`). The key
      goes to an argument called `key`, or to a third one without a default.
    - `steps`: optimiser steps. `optimizer`: any Optax transformation; `optax.adam(1e-3)` if None.
    - `batch_size`: samples drawn for each step, without replacement; None for all.
    - `metric`: "accuracy", "mse" or a function of prediction and target; by default accuracy
      for the cross entropy.
    - `key`: for the batches and the loss; `jax.random.key(0)` if None.
    - `progress`: show a bar; by default if tqdm is installed. `label`: its title.
    - `sharding`: splits each batch over devices, `NamedSharding(mesh, PartitionSpec(axis))`: every
      device computes loss and gradient of its samples, which are averaged over the devices. So the
      loss must be a mean over samples, and the number of devices must divide the batch.

    **Returns:** the trained model and a `Log`. A step whose loss or gradient is not finite leaves
    the model unchanged and ends the training.

    **Raises:** `DataError` and `OptionError` for bad input, `SolveError` if the first loss is not
    finite. **Warns:** `TrainingWarning` if a later one is not.
    """
    size = _check_data(data)
    optimizer = optax.adam(1e-3) if optimizer is None else optimizer
    _check_options(size, steps, optimizer, batch_size, progress, key, label)
    _check_model(model, loss)
    objective = objective_of(loss, metric)
    if isinstance(loss, str):
        _check_pair_of_data(data)
        _check_finite(data)
        if loss == "cross_entropy":
            _check_labels(model, data)
    else:
        _check_loss(objective, model, data, batch_size or size)
    value_and_grad = eqx.filter_value_and_grad(objective, has_aux=True)
    if sharding is not None:
        value_and_grad = mean_over_devices(value_and_grad, sharding, batch_size or size)
    step = _make_step(value_and_grad, optimizer, batch_size, size)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    data = jax.tree.map(jnp.asarray, data)
    key = jax.random.key(0) if key is None else key
    return _train(step, model, state, data, key, steps, progress, label)


def _check_options(
    size: int, steps: Any, optimizer: Any, batch_size: Any, progress: Any, key: Any, label: Any
) -> None:
    check_count("steps", steps)
    if batch_size is not None and not (is_count(batch_size) and batch_size <= size):
        raise OptionError(
            f"batch_size must be an integer between 1 and {size} samples, got {batch_size!r}"
        )
    if progress is not None:
        check_flag("progress", progress)
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise OptionError(
            f"optimizer must be an Optax transformation, got {shown_value(optimizer)}"
        )
    if key is not None:
        check_key(key)
    if not isinstance(label, str):
        raise OptionError(f"label must be a string, got {shown_value(label)}")


def _check_model(model: Any, loss: Any) -> None:
    """Check that a loss by name can call the model. **Raises:** `OptionError`."""
    called = callable(getattr(model, "solve", model)) and not isinstance(model, type)
    if isinstance(loss, str) and not called:
        raise OptionError(
            f"a loss by name calls the model, but it cannot be called: {shown_value(model)}"
        )


def _check_pair_of_data(data: PyTree) -> None:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError("a loss by name needs data=(x, y); give a function for other data")


def _check_loss(objective: Callable, model: PyTree, data: PyTree, batch_size: int) -> None:
    """Trace a loss of the user, before anything is compiled. **Raises:** `OptionError`."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), data)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        eqx.filter_eval_shape(objective, model, batch, key)
    except CALL_ERRORS as error:
        raise own_error(error) or OptionError(f"calling the loss failed: {error}") from error


def _check_data(data: PyTree) -> int:
    leaves = jax.tree.leaves(data)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    if not leaves or not arrays or any(leaf.ndim == 0 for leaf in leaves):
        raise DataError("data must be a pytree of arrays with a common first axis of samples")
    sizes = [np.shape(leaf)[0] for leaf in leaves]
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise DataError(f"data must agree in the number of samples, got {sizes}")
    for i, leaf in enumerate(leaves):
        if not is_numeric(leaf.dtype):
            raise DataError(f"array {i} of data holds no numbers: {shown_value(leaf)}")
    return sizes[0]


def _check_finite(data: PyTree) -> None:
    """Check that no value is NaN or infinite. **Raises:** `DataError`."""
    for i, leaf in enumerate(jax.tree.leaves(data)):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            bad = np.argwhere(~np.isfinite(np.asarray(leaf)))
            if bad.size:
                raise DataError(
                    f"array {i} of data is not finite at sample {int(bad[0][0])}, which a loss by "
                    "name needs; a function may give NaN a meaning"
                )


def _check_labels(model: PyTree, data: PyTree) -> None:
    """Check that every label has a logit of the model. **Raises:** `DataError`."""
    labels = np.asarray(data[1])
    classes = eqx.filter_eval_shape(predict, model, jnp.asarray(data[0]))[0].shape[-1]
    if labels.dtype.kind in "iu" and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"labels must lie between 0 and {classes - 1}, for the model gives {classes} logits; "
            f"got {labels.min()} to {labels.max()}"
        )


def _make_step(
    value_and_grad: Callable,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    size: int,
) -> Callable:
    @eqx.filter_jit
    def step(model: PyTree, state: PyTree, data: PyTree, key: Array) -> tuple:
        batch_key, loss_key = jax.random.split(key)
        batch = data
        if batch_size is not None:
            indices = jax.random.choice(batch_key, size, (batch_size,), replace=False)
            batch = jax.tree.map(lambda x: x[indices], data)
        (value, extra), gradient = value_and_grad(model, batch, loss_key)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, new_state = optimizer.update(gradient, state, params)
        candidate = eqx.apply_updates(model, updates), new_state
        # A step that is not finite leaves the model and the optimiser's state unchanged.
        model, state = jax.tree.map(
            lambda a, b: jnp.where(finite, a, b) if eqx.is_array(a) else a,
            candidate,
            (model, state),
        )
        return model, state, {"loss": value, **extra}, finite

    return step


def _train(
    step: Callable,
    model: PyTree,
    state: PyTree,
    data: PyTree,
    key: Array,
    steps: int,
    progress: bool | None,
    label: str,
) -> tuple[Any, Log]:
    bar = _open_bar(progress, steps, label)
    records, seconds = [], []
    for number in range(steps):
        start = time.perf_counter()
        model, state, record, finite = step(model, state, data, jax.random.fold_in(key, number))
        finite = bool(finite)  # waits for the device, so that the time measured is the whole step's
        seconds.append(time.perf_counter() - start)
        records.append(record)
        if bar is not None:
            bar.update()
            bar.set_postfix_str(_progress_text(record, seconds), refresh=False)
        if not finite:
            _report_failure(number, record)
            break
    if bar is not None:
        bar.close()
    return model, _make_log(records, seconds)


def _open_bar(progress: bool | None, steps: int, label: str) -> Any:
    if progress is False:
        return None
    try:
        return tqdm_class()(total=steps, desc=label)
    except OptionError:
        if progress:
            raise
        return None


def _progress_text(record: dict, seconds: list[float]) -> str:
    values = {name: f"{float(record[name]):.4g}" for name in _shown_names(record)}
    values["ms/step"] = f"{1e3 * float(np.median(seconds[-20:])):.1f}"
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _shown_names(record: dict) -> list[str]:
    """The names to log, the loss first."""
    return sorted((name for name in record if name != "status"), key=lambda n: (n != "loss", n))


def _report_failure(number: int, record: dict) -> None:
    status = Status(int(record["status"])) if "status" in record else Status.SUCCESS
    cause = (
        f"the solve ended with {status.name}: {status.message}"
        if status
        else (
            "the solve went through, so look at the loss, the learning rate, or clip the gradient"
        )
    )
    message = (
        f"loss or gradient is not finite at step {number} (loss {float(record['loss'])}); {cause}"
    )
    if number == 0:
        raise SolveError(message)
    warnings.warn(f"training stopped early: {message}", TrainingWarning, stacklevel=4)


def _make_log(records: list[dict], seconds: list[float]) -> Log:
    names = _shown_names(records[0])
    history = {name: np.array([float(record[name]) for record in records]) for name in names}
    median = float(np.median(seconds[1:])) if len(seconds) > 1 else seconds[0]
    return Log(history, max(0.0, seconds[0] - median), 1e3 * median)
