"""Losses by name, of a model's prediction of a batch `(x, y)`, and their metrics."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import CALL_ERRORS, DataError, OptionError, own_error, unknown_name
from ..problem.validation import shown_value
from .losses import LOSSES, METRICS, SAMPLE_LOSSES
from .objective import Evaluation, Objective, log_entries

Metric = Callable[[Array, Array], Array]
# Names of the log that no metric may take.
RESERVED = ("loss", "status", "stats", "evaluations", "rejected", "learning_rate", "failed", "step")


class Prediction(NamedTuple):
    """A model's prediction of a batch.

    - `values`: shape `(samples, ...)`. `extra`: what is logged of its solve.
    - `integrals`: those of a model's `integral_loss`, shape `(samples,)`; None without.
    - `state`: that of the model after the batch; None if it has none.
    """

    values: Array
    extra: dict[str, Any]
    integrals: Array | None
    state: Any


def named_objective(
    name: str, metrics: Mapping[str, Metric], by_sample: bool, mapped: PyTree
) -> Objective:
    """The objective of a loss by name; `by_sample` gives the losses of the samples.

    `mapped`: the pytree of a batch, True for arrays with an axis of samples.
    """
    loss, axes = (SAMPLE_LOSSES if by_sample else LOSSES)[name], axes_of(mapped)

    def objective(model: PyTree, state: Any, batch: PyTree, key: Array) -> Evaluation:
        x, y = batch
        prediction = predict(model, state, x, axes)
        _check_target(name, prediction.values, y)
        entries = {metric: _measured(metric, f, prediction, y) for metric, f in metrics.items()}
        entries |= prediction.extra
        value = loss(prediction.values, y)
        if prediction.integrals is not None:
            entries["integral_loss"] = jnp.mean(prediction.integrals)
            value = value + (prediction.integrals if by_sample else entries["integral_loss"])
        return Evaluation(value, log_entries(entries), prediction.state)

    return objective


def axes_of(mapped: PyTree) -> PyTree:
    """The axes of `x` in a batch `(x, y)`, as `jax.vmap` takes them."""
    return jax.tree.map(lambda own: 0 if own else None, mapped[0])


def predict(model: PyTree, state: Any, x: PyTree, axes: PyTree) -> Prediction:
    """The model's prediction of a batch, and what is logged of its solve."""
    if state is not None:
        over_samples = {"in_axes": (axes, None), "out_axes": (0, None), "axis_name": "batch"}
        batched = getattr(model, "batched", False)
        called = model if batched else jax.vmap(model, **over_samples)
        values, state = called(x, state)
        return Prediction(values, {}, None, state)
    if getattr(model, "flow_map", False):
        solution = model.solve(x)
        extra = {"stats": solution.stats, "status": jnp.max(solution.status)}
        if getattr(model, "integral_loss", None) is None:
            return Prediction(solution.y1, extra, None, None)
        y1, integrals = solution.y1
        return Prediction(y1, extra, integrals, None)
    batched = getattr(model, "batched", False)
    values = model(x) if batched else jax.vmap(model, in_axes=(axes,))(x)
    return Prediction(values, {}, None, None)


def find_metrics(loss: Any, metric: Any, metrics: Any) -> dict[str, Metric]:
    """The metrics by their names in the log: of `metric`, one, or `metrics`, one or several.

    By default accuracy for the cross entropy. **Raises:** `OptionError`.
    """
    if metric is not None and metrics is not None:
        raise OptionError("metric and metrics are given: name all of them in metrics")
    if not isinstance(loss, str):
        if metric is not None or metrics:
            raise OptionError(
                "a metric goes with a loss by name; a loss function returns its own log"
            )
        return {}
    if metric is None and metrics is None:
        return {"accuracy": METRICS["accuracy"]} if loss == "cross_entropy" else {}
    if metric is not None:
        return dict([_named_metric("metric", metric)])
    if isinstance(metrics, dict):
        found = [(name, _named_metric("metrics", f)[1]) for name, f in metrics.items()]
    else:
        given = metrics if isinstance(metrics, list | tuple) else [metrics]
        found = [_named_metric("metrics", f) for f in given]
    names = [name for name, _ in found]
    for name in names:
        if not isinstance(name, str) or name in RESERVED or names.count(name) > 1:
            raise OptionError(
                f"metrics need names of their own, of which the log has none yet, got {name!r}; "
                "a dict names them"
            )
    return dict(found)


def _named_metric(what: str, metric: Any) -> tuple[str, Any]:
    if isinstance(metric, str):
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        return metric, METRICS[metric]
    if not callable(metric):
        raise OptionError(f"{what} must be a name or a function, got {shown_value(metric)}")
    return getattr(metric, "__name__", "metric"), metric


def _measured(name: str, metric: Metric, prediction: Prediction, y: Array) -> Array:
    """The value of a metric. **Raises:** `OptionError` where it fails or is no scalar."""
    try:
        value = metric(prediction.values, y)
    except CALL_ERRORS as error:
        raise own_error(error) or OptionError(
            f"calling the metric {name!r} failed: {error}"
        ) from error
    if not isinstance(value, int | float | Array) or jnp.shape(value) != ():
        raise OptionError(f"the metric {name!r} must return a scalar, got {shown_value(value)}")
    return jnp.asarray(value)


def _check_target(name: str, prediction: Array, y: Array) -> None:
    if name == "cross_entropy":
        if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != prediction.shape[:-1]:
            raise DataError(
                f"cross_entropy needs integer labels of shape {prediction.shape[:-1]}, got "
                f"{y.dtype} of shape {y.shape}"
            )
    elif y.shape != prediction.shape:
        raise DataError(f"the model predicts shape {prediction.shape}, the target has {y.shape}")
