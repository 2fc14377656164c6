"""Settings chosen on validation data, and models of an equal number of weights."""

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike

Settings = dict[str, Any]


def grid(**values: tuple) -> list[Settings]:
    """Every combination of the values of each setting."""
    return [
        dict(zip(values, combined, strict=True)) for combined in itertools.product(*values.values())
    ]


def best_settings(
    name: str, candidates: list[Settings], validation_error: Callable[[Settings], float]
) -> Settings:
    """The settings with the least error on validation data; a NaN counts as infinite."""
    errors = []
    for settings in candidates:
        error = validation_error(settings)
        errors.append(math.inf if math.isnan(error) else error)
        print(f"{name}, {settings_text(settings)}: {errors[-1]:.4g} in validation", flush=True)
    return candidates[errors.index(min(errors))]


def settings_text(settings: Settings) -> str:
    """The settings as text: "rate 0.01, weights 2000"."""
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def num_weights(model: Any) -> int:
    """The number of trainable parameters."""
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def width_for(make: Callable[[int], Any], weights: int) -> int:
    """The width with which `make(width)` has `weights` trainable parameters, within 10 per cent."""

    def weights_of(width: int) -> int:
        shapes = eqx.filter_eval_shape(lambda: make(width))
        kept = eqx.filter(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        return sum(x.size for x in jax.tree.leaves(kept) if jnp.issubdtype(x.dtype, jnp.inexact))

    above = 2
    while weights_of(above) <= weights:
        above *= 2
    width = 1 + bisect.bisect_right(range(2, above), weights, key=weights_of)
    found = min((width, width + 1), key=lambda w: abs(weights_of(w) - weights))
    if abs(weights_of(found) - weights) > 0.1 * weights:
        raise ValueError(f"no width gives {weights} weights: {found} gives {weights_of(found)}")
    return found


def cosine_adam(
    rate: ArrayLike, steps: int, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Adam with a cosine decay of its rate to zero, and decoupled weight decay.

    The rate and the number of steps are kept in the state, not in the program: a search over rates
    compiles once.
    """
    adam = optax.scale_by_adam()
    if weight_decay:
        adam = optax.chain(adam, optax.add_decayed_weights(weight_decay))

    def init(params: Any) -> tuple:
        return adam.init(params), jnp.zeros(()), jnp.asarray(rate, float), jnp.asarray(steps, float)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        inner, count, rate, steps = state
        direction, inner = adam.update(updates, inner, params)
        factor = rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))
        updates = jax.tree.map(lambda d: (-factor * d).astype(d.dtype), direction)
        return updates, (inner, count + 1, rate, steps)

    return optax.GradientTransformation(init, update)
