"""Whether the caller is being traced by `jit`, or by another transform that stages programs."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import mlir

# Without operands, a primitive is traced by what stages programs alone: not by `grad` or `vmap`.
_probe = Primitive("is_staged")
_probe.def_impl(lambda: False)
_probe.def_abstract_eval(lambda: ShapedArray((), np.dtype(bool)))
mlir.register_lowering(_probe, mlir.lower_fun(lambda: jnp.asarray(True), multiple_results=False))


def under_jit() -> bool:
    """True while the caller is being traced into a program, under `jit` for example."""
    return isinstance(_probe.bind(), Tracer)


def as_array(x: Any, dtype: Any) -> Any:
    """An array of this dtype: of NumPy if its value is known and no program is traced.

    Outside of `jit`, to make a number an array of JAX takes as long as a short solve.
    """
    if isinstance(x, Tracer) or under_jit():
        return jnp.asarray(x, dtype)
    return np.asarray(x, dtype)
