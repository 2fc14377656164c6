"""A problem with a closed form for measured orders of convergence, and how orders are measured."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def rotation(t, y, args):
    """A point on a circle, faster further from its centre, with a speed that varies in time."""
    pace = (2 + jnp.sin(3 * t)) * jnp.sum(y**2)
    return pace * jnp.stack([-y[1], y[0]])


def exact_rotation(t):
    """The solution of `rotation` from (1, 0) at `t = 0`."""
    angle = 2 * t + (1 - jnp.cos(3 * t)) / 3
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def measured_order(steps: Any, errors: Any) -> float:
    """The order of convergence: minus the slope of the logarithms of `errors` over `steps`."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
