"""The Hudson Bay lynx and hare counts."""

import importlib.resources

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float


def lynx_hare() -> tuple[Float[Array, " 21"], Float[Array, "21 2"]]:
    """Pelts of hare and lynx that the Hudson's Bay Company took in, yearly from 1900 to 1920.

    **Returns:** the years, shape `(21,)`, and thousands of pelts, shape `(21, 2)`: hare, lynx.

    Source: E. P. Odum, Fundamentals of Ecology (1953), as tabulated by J. M. Mahaffy (2010).
    """
    path = importlib.resources.files("jaxode.datasets") / "lynx_hare.csv"
    with path.open() as file:
        year, lynx, hare = np.loadtxt(file, delimiter=",", skiprows=1).T
    return jnp.asarray(year), jnp.asarray(np.stack([hare, lynx], axis=-1))
