"""The divergence of a field, exact or estimated by random probes, for the log density of a flow."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ..problem.errors import FieldError, OptionError, unknown_name
from ..problem.validation import check_count, check_name
from .per_solve_random import SampledPerSolve

# Up to this size the products with the Jacobian are unrolled; above it they are mapped.
_UNROLLED = 4


class ExactTrace(eqx.Module):
    """The exact divergence, by one product with the Jacobian for each component of the state.

    The field is linearised once, so its value is not computed again for each component. Called with
    a function of the state `(size,)` and the state, it returns value and divergence.
    """

    def __call__(
        self, f: Callable[[Array], Array], y: Float[Array, " size"]
    ) -> tuple[Float[Array, " size"], Float[Array, ""]]:
        """The value of `f` at `y`, and the trace of its Jacobian there."""
        value, jvp = jax.linearize(f, y)
        units = jnp.eye(y.size, dtype=y.dtype)
        if y.size > _UNROLLED:
            return value, jnp.trace(jax.vmap(jvp)(units))
        return value, sum((jvp(unit)[i] for i, unit in enumerate(units)), jnp.zeros((), y.dtype))


class HutchinsonTrace(SampledPerSolve):
    """The divergence estimated without bias by the mean of `e' J e` over random probes `e`.

    One product with the Jacobian per probe, whatever the size. The probes are drawn once for each
    solve and each sample, so that the error estimate sees a smooth field.

    **Arguments:**

    - `kind`: "rademacher", entries of +1 and -1 (the smaller variance), or "gaussian".
    - `samples`: probes of each sample.
    - `size`: of the state; a model sets it.

    **Raises:** `OptionError` for another kind or fewer than one probe.

    Source: Grathwohl et al., FFJORD (2019), arXiv 1810.01367; Hutchinson (1990).
    """

    kind: str = eqx.field(static=True)
    samples: int = eqx.field(static=True)
    size: int | None = eqx.field(static=True)
    random_value: Float[Array, "samples size"] | None

    def __init__(
        self,
        kind: Literal["rademacher", "gaussian"] = "rademacher",
        samples: int = 1,
        *,
        size: int | None = None,
    ) -> None:
        check_name("kind of probe", kind, _PROBES)
        samples = check_count("samples", samples)
        if size is not None:
            size = check_count("size", size)
        self.kind, self.samples, self.size, self.random_value = kind, samples, size, None

    def of_size(self, size: int) -> "HutchinsonTrace":
        """A copy for states of `size` components."""
        return HutchinsonTrace(self.kind, self.samples, size=size)  # pyright: ignore[reportArgumentType]

    def draw(self, key: Array) -> Float[Array, "samples size"]:
        """Draw the probes of one solve. **Raises:** `OptionError` without a size."""
        if self.size is None:
            raise OptionError("HutchinsonTrace: give size=..., the components of the state")
        return _PROBES[self.kind](key, (self.samples, self.size))

    def __call__(
        self, f: Callable[[Array], Array], y: Float[Array, " size"]
    ) -> tuple[Float[Array, " size"], Float[Array, ""]]:
        """The value of `f` at `y`, and the estimate. **Raises:** `FieldError` without probes."""
        if self.random_value is None:
            raise FieldError("the probes of HutchinsonTrace are not drawn: the solve needs a key")
        value, jvp = jax.linearize(f, y)
        probes = jax.lax.stop_gradient(self.random_value).astype(y.dtype)
        estimate = sum((probe @ jvp(probe) for probe in probes), jnp.zeros((), y.dtype))
        return value, estimate / self.samples


_PROBES: dict[str, Callable[..., Array]] = {
    "rademacher": lambda key, shape: jax.random.rademacher(key, shape, jnp.result_type(float)),
    "gaussian": lambda key, shape: jax.random.normal(key, shape),
}
_TRACES: dict[str, Callable[[], Any]] = {"exact": ExactTrace, "hutchinson": HutchinsonTrace}


def find_trace(trace: Any, size: int) -> Any:
    """Look up a trace by name, or check an object, for states of `size`.

    **Raises:** `OptionError`.
    """
    if isinstance(trace, str):
        if trace not in _TRACES:
            raise unknown_name("trace", trace, _TRACES)
        trace = _TRACES[trace]()
    if isinstance(trace, HutchinsonTrace):
        return trace.of_size(size)
    if not callable(trace) or isinstance(trace, type):
        raise OptionError(
            f"trace must be 'exact', 'hutchinson' or a callable (f, y) that returns the value of f "
            f"at y and its divergence, got {trace!r}"
        )
    return trace
