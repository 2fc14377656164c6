"""What a training minimises: a loss by name or a function of the user, with what is logged."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ..integrate.solution import Stats
from ..problem.errors import DataError, OptionError, unknown_name
from ..problem.validation import shown_value
from .losses import LOSSES, METRICS

Loss = Callable[..., Any]


def objective_of(loss: str | Loss, metric: Any) -> Callable[..., tuple[Array, dict]]:
    """A function `(model, batch, key)` that returns the loss and its entries of the log."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        if metric is None and loss == "cross_entropy":
            metric = "accuracy"
        return _named_objective(LOSSES[loss], metric)
    if not callable(loss):
        raise OptionError(f"loss must be a name or a function, got {loss!r}")
    if metric is not None:
        raise OptionError("a metric goes with a loss by name; a loss function returns its own log")
    with_key = _with_key(loss)

    def objective(model: PyTree, batch: PyTree, key: Array) -> tuple[Array, dict]:
        value, extra = _loss_and_extra(with_key(model, batch, key))
        return value, _log_entries(dict(extra))

    return objective


def _loss_and_extra(out: Any) -> tuple[Array, dict]:
    """The loss and what is logged, of what a loss function returned. **Raises:** `OptionError`."""
    parts: Any = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
    value, extra = parts
    if not eqx.is_inexact_array(value) or jnp.iscomplexobj(value) or value.shape != ():
        found = f"{value.dtype}{[*value.shape]}" if eqx.is_array(value) else shown_value(value)
        raise OptionError(
            "the loss must return a real scalar, or such a scalar and a dict of what to log, got "
            f"{found}"
        )
    if not isinstance(extra, dict):
        raise OptionError(f"what a loss logs must be a dict of scalars, got {shown_value(extra)}")
    for name, entry in extra.items():
        scalar = isinstance(entry, int | float) or (eqx.is_array(entry) and entry.shape == ())
        if not isinstance(entry, Stats) and not scalar:
            raise OptionError(f"what a loss logs must be scalars, but {name!r} is none")
    return value, extra


def _with_key(loss: Loss) -> Callable[[PyTree, PyTree, Array], Any]:
    """The loss as a function of `(model, batch, key)`.

    The key goes to an argument called `key`, or to a third one without a default. An argument that
    the user has bound keeps its value, as in `lambda model, batch, weight=0.1`.
    """
    place = _place_of_key(loss)
    if place == "third":
        return loss
    if place == "name":
        return lambda model, batch, key: loss(model, batch, key=key)
    return lambda model, batch, key: loss(model, batch)


def _place_of_key(loss: Loss) -> Literal["third", "name"] | None:
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except (TypeError, ValueError):
        return None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    third, by_name = positional[2:3], [*positional[3:]]
    by_name += [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    if any(p.name == "key" for p in by_name) and "key" not in bound:
        return "name"
    if third and (third[0].name == "key" or third[0].default is inspect.Parameter.empty):
        return "third"
    return None


def _named_objective(loss: Loss, metric: Any) -> Callable[..., tuple[Array, dict]]:
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    if isinstance(metric, str):
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        metric = METRICS[metric]
    elif metric is not None and not callable(metric):
        raise OptionError(f"metric must be a name or a function, got {metric!r}")

    def objective(model: PyTree, batch: PyTree, key: Array) -> tuple[Array, dict]:
        x, y = batch
        prediction, extra = predict(model, x)
        _check_target(loss, prediction, y)
        if metric is not None:
            extra = {name: metric(prediction, y), **extra}
        value = loss(prediction, y) + extra.get("integral_loss", 0.0)
        return value, _log_entries(extra)

    return objective


def predict(model: PyTree, x: Array) -> tuple[Array, dict]:
    """The model's prediction of a batch, and what is logged of its solve."""
    if getattr(model, "flow_map", False):
        solution = model.solve(x)
        extra = {"stats": solution.stats, "status": jnp.max(solution.status)}
        if getattr(model, "integral_loss", None) is None:
            return solution.y1, extra
        y1, integrals = solution.y1
        return y1, {**extra, "integral_loss": jnp.mean(integrals)}
    return (model(x) if getattr(model, "batched", False) else jax.vmap(model)(x)), {}


def _check_target(loss: Loss, prediction: Array, y: Array) -> None:
    if loss is LOSSES["cross_entropy"]:
        if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != prediction.shape[:-1]:
            raise DataError(
                f"cross_entropy needs integer labels of shape {prediction.shape[:-1]}, got "
                f"{y.dtype} of shape {y.shape}"
            )
    elif y.shape != prediction.shape:
        raise DataError(f"the model predicts shape {prediction.shape}, the target has {y.shape}")


def _log_entries(extra: dict) -> dict:
    stats = extra.pop("stats", None)
    if isinstance(stats, Stats):
        # Statistics of a batch are per sample.
        extra["evaluations"] = jnp.mean(stats.num_evaluations)
        extra["rejected"] = jnp.mean(stats.num_rejected)
    return extra
