"""Values that a solve did not reach: NaN, and so is the derivative of whatever they enter."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..problem.manual_axes import varying_like
from .save import missing_value


@jax.custom_jvp
def missing_where(mask: Array, x: Array) -> Array:
    """Return `x`, but the missing value where `mask` holds, which broadcasts with `x`.

    There tangents are NaN; a cotangent makes that of `x` NaN, unless it is zero.
    """
    return jnp.where(mask, missing_value(x.dtype), x)


@missing_where.defjvp
def _missing_tangents(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> Any:
    mask, x = primals
    tangent = tangents[1]
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return missing_where(mask, x), tangent
    return missing_where(mask, x), _nan_tangents.bind(tangent, jnp.broadcast_to(mask, x.shape))


def _nan_where(x: Array, mask: Array) -> Array:
    return jnp.where(mask, jnp.asarray(jnp.nan, x.dtype), x)


def _batched(args: Any, axes: Any) -> tuple[Array, int]:
    size = next(x.shape[a] for x, a in zip(args, axes, strict=True) if a is not None)

    def axis_first(x: Array, axis: int | None) -> Array:
        if axis is None:
            return jnp.broadcast_to(x, (size, *x.shape))
        return jnp.moveaxis(x, axis, 0)

    return _nan_tangents.bind(*map(axis_first, args, axes)), 0


def _jvp(primals: Any, tangents: Any) -> tuple[Array, Any]:
    (x, mask), tangent = primals, tangents[0]
    out = _nan_tangents.bind(x, mask)
    return out, tangent if type(tangent) is ad.Zero else _nan_tangents.bind(tangent, mask)


def _transpose(ct: Any, x: Any, mask: Array) -> list[Any]:
    if type(ct) is ad.Zero:
        return [ct, None]
    return [jnp.where(mask, jnp.where(ct != 0, jnp.asarray(jnp.nan, ct.dtype), 0), ct), None]


_nan_tangents = Primitive("missing_tangents")
_nan_tangents.def_impl(_nan_where)
_nan_tangents.def_abstract_eval(
    lambda x, mask: varying_like([ShapedArray(x.shape, x.dtype)], [x, mask])[0]
)
mlir.register_lowering(_nan_tangents, mlir.lower_fun(_nan_where, multiple_results=False))
batching.primitive_batchers[_nan_tangents] = _batched
ad.primitive_jvps[_nan_tangents] = _jvp
ad.primitive_transposes[_nan_tangents] = _transpose
