"""Bases of functions of time, in which the weights of depth-varying layers are expanded."""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ...problem.errors import OptionError
from ...problem.validation import check_count, check_name, check_pair, check_positive


class Basis(eqx.Module):
    """A basis of `n` functions of time, called with a scalar `t`; returns shape `(n,)`."""

    n: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, t: Array) -> Float[Array, " n"]:
        """The functions at `t`."""


class Fourier(Basis):
    """The first `n` of 1, cos wt, sin wt, cos 2wt, sin 2wt, ... with `w = 2 pi / period`.

    **Raises:** `OptionError` unless `n` is a positive integer and `period` a positive number.
    """

    n: int = eqx.field(static=True)
    period: float = eqx.field(static=True)

    def __init__(self, n: int, period: float = 1.0) -> None:
        self.n = check_count("Fourier: n", n)
        check_positive("period", period, none=False)
        self.period = float(period)

    def __call__(self, t: Array) -> Float[Array, " n"]:
        """The functions at `t`."""
        angle = 2 * math.pi / self.period * jnp.asarray(t)
        terms = [jnp.ones_like(angle)]
        for k in range(1, self.n // 2 + 1):
            terms += [jnp.cos(k * angle), jnp.sin(k * angle)]
        return jnp.stack(terms[: self.n])


class Polynomial(Basis):
    """The powers of time 1, t, ..., t^(n - 1).

    **Raises:** `OptionError` unless `n` is a positive integer.
    """

    n: int = eqx.field(static=True)

    def __init__(self, n: int) -> None:
        self.n = check_count("Polynomial: n", n)

    def __call__(self, t: Array) -> Float[Array, " n"]:
        """The functions at `t`."""
        time = jnp.asarray(t)
        return jnp.stack([time**k for k in range(self.n)])


class Chebyshev(Basis):
    """The Chebyshev polynomials T_0, ..., T_(n - 1) on `span`, where they lie between -1 and 1.

    **Raises:** `OptionError` unless `n` is a positive integer and `span` two rising times.
    """

    n: int = eqx.field(static=True)
    span: tuple[float, float] = eqx.field(static=True)

    def __init__(self, n: int, span: tuple[float, float] = (0.0, 1.0)) -> None:
        self.n = check_count("Chebyshev: n", n)
        self.span = _span("Chebyshev", span)

    def __call__(self, t: Array) -> Float[Array, " n"]:
        """The functions at `t`."""
        first, last = self.span
        x = (2 * jnp.asarray(t) - (first + last)) / (last - first)
        terms = [jnp.ones_like(x), x]
        for _ in range(2, self.n):
            terms.append(2 * x * terms[-1] - terms[-2])
        return jnp.stack(terms[: self.n])


class RBF(Basis):
    """Radial functions of `r = (t - c) / width` around `n` centres `c`, evenly over `span`.

    **Arguments:**

    - `n`: how many centres; a single one is in the middle.
    - `span`: the first and the last centre.
    - `kind`: "gaussian", exp(-r^2); "multiquadric", sqrt(1 + r^2); "inverse_multiquadric", its
      reciprocal; or "inverse_quadratic", 1 / (1 + r^2).
    - `width`: in units of time; by default the distance between centres.

    **Raises:** `OptionError`.
    """

    n: int = eqx.field(static=True)
    span: tuple[float, float] = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        span: tuple[float, float] = (0.0, 1.0),
        kind: str = "gaussian",
        width: float | None = None,
    ) -> None:
        self.n = check_count("RBF: n", n)
        self.span = _span("RBF", span)
        check_name("kind of radial function", kind, _RADIAL)
        check_positive("width", width)
        self.kind = kind
        self.width = float(width or (self.span[1] - self.span[0]) / max(n - 1, 1))

    def __call__(self, t: Array) -> Float[Array, " n"]:
        """The functions at `t`."""
        first, last = self.span
        time = jnp.asarray(t)
        centres = (
            jnp.linspace(first, last, self.n) if self.n > 1 else jnp.full(1, (first + last) / 2)
        )
        return _RADIAL[self.kind](((time - centres.astype(time.dtype)) / self.width) ** 2)


_RADIAL = {
    "gaussian": lambda square: jnp.exp(-square),
    "multiquadric": lambda square: jnp.sqrt(1 + square),
    "inverse_multiquadric": lambda square: 1 / jnp.sqrt(1 + square),
    "inverse_quadratic": lambda square: 1 / (1 + square),
}


def _span(owner: str, span: tuple[float, float]) -> tuple[float, float]:
    first, last = check_pair(f"{owner}: span", "two times", span)
    if not (math.isfinite(first) and math.isfinite(last) and first < last):
        raise OptionError(f"{owner}: span must be two finite, rising times, got {span!r}")
    return first, last
