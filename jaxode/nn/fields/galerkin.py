"""Layers whose weights are functions of time, expanded in a basis."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ...problem.errors import OptionError
from ...problem.validation import check_counts, check_flag, check_key
from ..convolution import convolve
from .bases import Basis
from .checks import check_convolution


class _Galerkin(eqx.Module):
    """A layer whose weights at `t` are the sum of stacked weights times the basis functions."""

    basis: Basis
    expansion: Any

    def at(self, t: Array) -> Any:
        """The plain layer at time `t`."""
        values = self.basis(t)
        return jax.tree.map(
            lambda c: jnp.tensordot(values, c, 1) if eqx.is_array(c) else c, self.expansion
        )


class GalerkinLinear(_Galerkin):
    """A linear layer whose weight and bias are expansions in a basis of time.

    **Arguments:**

    - `in_features`, `out_features`: sizes of `x` and of the result.
    - `basis`: `Fourier`, `Polynomial`, `Chebyshev` or `RBF`; one set of weights for each of its
      functions.
    - `use_bias`: whether there is a bias.

    A layer of `(t, x)`, for `jo.nn.Sequential`; `layer.at(t)` is the `eqx.nn.Linear` at a time.

    **Raises:** `OptionError` if `basis` is not a `Basis`.

    Source: Massaroli et al., Dissecting neural ODEs (2020), arXiv 2002.08071.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis,
        *,
        use_bias: bool = True,
        key: Array,
    ) -> None:
        self.basis = _check_basis("GalerkinLinear", basis)
        sizes = {"in_features": in_features, "out_features": out_features}
        in_features, out_features = check_counts("GalerkinLinear", **sizes)
        check_flag("use_bias", use_bias)
        self.expansion = _expansion(
            lambda k: eqx.nn.Linear(in_features, out_features, use_bias=use_bias, key=k), basis, key
        )

    def __call__(self, t: Array, x: Float[Array, " features"]) -> Float[Array, " out"]:
        """The layer at time `t`."""
        return self.at(t)(x)


class GalerkinConv2d(_Galerkin):
    """A convolution whose kernel and bias are expansions in a basis of time.

    **Arguments:**

    - `in_channels`, `out_channels`, `kernel_size`: as of `eqx.nn.Conv2d`; so are the options
      `stride`, `padding`, `dilation` and others.
    - `basis`: as of `GalerkinLinear`.

    A layer of `(t, x)` for images `(channels, height, width)`.

    **Raises:** `OptionError` if `basis` is not a `Basis`.

    Source: Massaroli et al., Dissecting neural ODEs (2020), arXiv 2002.08071.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        basis: Basis,
        *,
        key: Array,
        **options: Any,
    ) -> None:
        self.basis = _check_basis("GalerkinConv2d", basis)
        check_convolution("GalerkinConv2d", in_channels, out_channels, kernel_size)
        self.expansion = _expansion(
            lambda k: eqx.nn.Conv2d(in_channels, out_channels, kernel_size, key=k, **options),
            basis,
            key,
        )

    def __call__(self, t: Array, x: Float[Array, "c h w"]) -> Float[Array, "out h2 w2"]:
        """The layer at time `t`."""
        return convolve(self.at(t), x)


def _check_basis(owner: str, basis: Any) -> Basis:
    if not isinstance(basis, Basis):
        raise OptionError(f"{owner}: basis must be one such as jo.nn.Fourier(5), got {basis!r}")
    return basis


def _expansion(make: Callable[[Array], Any], basis: Basis, key: Array) -> Any:
    """Stack a layer per basis function, scaled so that their sum has about one layer's variance."""
    stacked = eqx.filter_vmap(make)(jax.random.split(check_key(key), basis.n))
    scale = 1 / math.sqrt(basis.n)
    return jax.tree.map(lambda c: scale * c if eqx.is_array(c) else c, stacked)
