"""Fields along whose solutions a potential falls."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import OptionError
from ...problem.field import call_field
from ...problem.validation import check_counts, check_positive
from .checks import check_callable, check_shape, gradient, value_and_gradient

# Where the smoothed rectifier becomes straight.
_KNEE = 0.1


class Gradient(eqx.Module):
    """The field that descends a potential: `y' = -dV/dy`.

    **Arguments:**

    - `potential`: V, of `(y)`, `(t, y)` or `(t, y, args)`, returns a scalar.

    **Raises:** `FieldError` if the potential cannot be called; called, if it is no scalar.
    """

    potential: Any

    def __init__(self, potential: Any) -> None:
        self.potential = check_callable("Gradient", "potential", potential)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The slope at `y`, of its shape."""
        return -gradient("Gradient", "potential", self.potential, t, y, args)


class EnergyStable(eqx.Module):
    """A field made stable: `V' <= -rate V` along every solution, whatever `field` is.

    Where `field` would break that, the part of it along the gradient of V is taken away:
    `f - dV/dy relu(dV/dy . f + rate V) / |dV/dy|^2`. With a V that is zero at one point alone, such
    as `ConvexPotential`, all solutions go there.

    **Arguments:**

    - `field`: f, of `(y)`, `(t, y)` or `(t, y, args)`; returns the shape of `y`.
    - `potential`: V, of `y` alone though called likewise; a scalar, not negative.
    - `rate`: in reciprocal units of time; at zero V does not rise.

    **Raises:** `FieldError` for parts that cannot be called, and `OptionError` for a negative rate;
    called, `FieldError` for parts that do not return their shapes.

    Source: Kolter and Manek, Learning stable deep dynamics models (2019), arXiv 2001.06116.
    """

    field: Any
    potential: Any
    rate: float = eqx.field(static=True)

    def __init__(self, field: Any, potential: Any, rate: float = 1e-3) -> None:
        self.field = check_callable("EnergyStable", "field", field)
        self.potential = check_callable("EnergyStable", "potential", potential)
        if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise OptionError(f"EnergyStable: rate must be a number of at least 0, got {rate!r}")
        self.rate = float(rate)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The slope at `y`, of its shape."""
        free = call_field(self.field, t, y, args)
        check_shape("EnergyStable", "field", free, y.shape)
        value, up = value_and_gradient("EnergyStable", "potential", self.potential, t, y, args)
        square = jnp.sum(up * up)
        excess = jax.nn.relu(jnp.sum(up * free) + self.rate * value)
        # At rest there is no direction to take away, and 0 / 0 would poison the gradient.
        share = jnp.where(square > 0, excess / jnp.where(square > 0, square, 1), 0)
        return free - share * up


class ConvexPotential(eqx.Module):
    """A convex potential with `V(0) = 0` and `V(y) >= floor |y|^2`, by an input-convex network.

    **Arguments:**

    - `size`: of the state, a vector.
    - `width`, `depth`: of the hidden layers and how many.
    - `floor`: how much of the squared distance is added, so that V is zero at the origin alone.

    A function of `(y)`. **Raises:** `OptionError`.

    Source: Amos et al., Input convex neural networks (2017), arXiv 1609.07152, in the form of
    Kolter and Manek (2019), arXiv 2001.06116.
    """

    skips: tuple[eqx.nn.Linear, ...]
    weights: tuple[Float[Array, "out width"], ...]
    floor: float = eqx.field(static=True)

    def __init__(
        self, size: int, width: int, depth: int = 2, *, floor: float = 1e-2, key: Array
    ) -> None:
        sizes = {"size": size, "width": width, "depth": depth}
        size, width, depth = check_counts("ConvexPotential", **sizes)
        check_positive("floor", floor)
        keys = jax.random.split(key, 2 * depth + 1)
        outs = [*[width] * depth, 1]
        self.skips = tuple(
            eqx.nn.Linear(size, out, key=k) for out, k in zip(outs, keys[: depth + 1], strict=True)
        )
        self.weights = tuple(
            jax.random.normal(k, (out, width))
            for out, k in zip(outs[1:], keys[depth + 1 :], strict=True)
        )
        self.floor = float(floor)

    def __call__(self, y: Float[Array, " size"]) -> Float[Array, ""]:
        """V at `y`."""
        above = self._network(y) - self._network(jnp.zeros_like(y))
        return _smoothed_relu(above) + self.floor * jnp.sum(y * y)

    def _network(self, y: Array) -> Array:
        """Convex in `y`: sums with positive weights of convex functions, through rising ones."""
        z = _smoothed_relu(self.skips[0](y))
        for skip, weight in zip(self.skips[1:], self.weights, strict=True):
            positive = jax.nn.softplus(weight) / weight.shape[1]
            z = _smoothed_relu(positive @ z + skip(y))
        return z[0]


def _smoothed_relu(x: Array) -> Array:
    """Zero below 0, a parabola up to the knee, then straight: convex, once differentiable."""
    bent = jnp.clip(x, 0, _KNEE)
    return bent * bent / (2 * _KNEE) + jnp.maximum(x - _KNEE, 0)
