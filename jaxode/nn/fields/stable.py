"""Fields along whose solutions a potential decreases."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.field import call_field
from ...problem.validation import check_counts, check_key, check_level, check_positive
from .checks import check_callable, check_shape, gradient, value_and_gradient

# The input from which the smoothed ReLU is linear.
_KNEE = 0.1


class Gradient(eqx.Module):
    """The gradient descent field of a potential: `y' = -dV/dy`.

    **Arguments:**

    - `potential`: V, of `(y)`, `(t, y)` or `(t, y, args)`, returns a scalar.

    **Raises:** `FieldError` if the potential cannot be called; called, if it is not scalar.
    """

    potential: Any

    def __init__(self, potential: Any) -> None:
        self.potential = check_callable("Gradient", "potential", potential)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        return -gradient("Gradient", "potential", self.potential, t, y, args)


class EnergyStable(eqx.Module):
    """A field made stable by a Lyapunov function V: `V' <= -rate V` along every solution.

    Where `field` violates that, its component along the gradient of V is reduced:
    `f - dV/dy relu(dV/dy . f + rate V) / |dV/dy|^2`. With a V that is zero at one point only, such
    as `ConvexPotential`, all solutions converge to it.

    **Arguments:**

    - `field`: f, of `(y)`, `(t, y)` or `(t, y, args)`; returns the shape of `y`.
    - `potential`: V, a scalar, not negative; called likewise, but a function of `y` alone.
    - `rate`: in reciprocal units of time; with zero V does not increase.

    **Raises:** `FieldError` for functions that cannot be called, and `OptionError` for a negative
    rate; called, `FieldError` for functions that return other shapes.

    Source: Kolter and Manek, Learning stable deep dynamics models (2019), arXiv 2001.06116.
    """

    field: Any
    potential: Any
    rate: float = eqx.field(static=True)

    def __init__(self, field: Any, potential: Any, rate: float = 1e-3) -> None:
        self.field = check_callable("EnergyStable", "field", field)
        self.potential = check_callable("EnergyStable", "potential", potential)
        check_level("EnergyStable: rate", rate)
        self.rate = float(rate)

    def __call__(self, t: Array, y: Array, args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        unconstrained = call_field(self.field, t, y, args)
        check_shape("EnergyStable", "field", unconstrained, y.shape)
        value, potential_gradient = value_and_gradient(
            "EnergyStable", "potential", self.potential, t, y, args
        )
        squared_norm = jnp.sum(potential_gradient * potential_gradient)
        excess = jax.nn.relu(jnp.sum(potential_gradient * unconstrained) + self.rate * value)
        # Where the gradient of V is zero, 0 / 0 would make derivatives NaN.
        factor = jnp.where(
            squared_norm > 0, excess / jnp.where(squared_norm > 0, squared_norm, 1), 0
        )
        return unconstrained - factor * potential_gradient


class ConvexPotential(eqx.Module):
    """A convex potential with `V(0) = 0` and `V(y) >= floor |y|^2`, by an input-convex network.

    **Arguments:**

    - `size`: of the state, a vector.
    - `width`, `depth`: of the hidden layers and how many.
    - `floor`: the factor of the squared norm that is added, so that only V(0) is 0.

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
        check_positive("floor", floor, none=False)
        keys = jax.random.split(check_key(key), 2 * depth + 1)
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
        excess = self._network(y) - self._network(jnp.zeros_like(y))
        return _smoothed_relu(excess) + self.floor * jnp.sum(y * y)

    def _network(self, y: Array) -> Array:
        """The input-convex network: increasing activations of positive sums of convex functions."""
        z = _smoothed_relu(self.skips[0](y))
        for skip, weight in zip(self.skips[1:], self.weights, strict=True):
            positive = jax.nn.softplus(weight) / weight.shape[1]
            z = _smoothed_relu(positive @ z + skip(y))
        return z[0]


def _smoothed_relu(x: Array) -> Array:
    """A convex, twice differentiable ReLU: zero, a quartic up to the knee, then linear.

    Its second derivative is continuous: a solve's gradient reads that of the potential.
    """
    share = jnp.clip(x, 0, _KNEE) / _KNEE
    return _KNEE * share**3 * (1 - share / 2) + jnp.maximum(x - _KNEE, 0)
