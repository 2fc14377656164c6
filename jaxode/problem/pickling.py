"""Pickles of models whose parts `pickle` cannot save: compiled functions of JAX, and Equinox's MLP.

A compiled function, such as `jax.nn.relu`, is no function of Python, and the default of an MLP's
last activation has no name. The registry of `copyreg` is where `pickle` asks for types of others.
"""

import copyreg
import inspect
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

_PROTOCOL = 4
_NO_ACTIVATION = inspect.signature(eqx.nn.MLP.__init__).parameters["final_activation"].default


def register_parts_of_models() -> None:
    """Have `pickle` save compiled functions by the names that lead to them, and MLPs."""
    compiled = type(jax.jit(lambda x: x))
    for kind in (compiled, jax.custom_jvp, jax.custom_vjp, jnp.ufunc):
        copyreg.pickle(kind, _by_name)
    copyreg.pickle(eqx.nn.MLP, _reduce_mlp)  # pyright: ignore[reportArgumentType]


def _by_name(function: Any) -> Any:
    """The global name of a function, or else how it would be pickled without us."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", "")
    if getattr(module, name, None) is function:
        return name
    return function.__reduce_ex__(_PROTOCOL)


def _reduce_mlp(mlp: eqx.nn.MLP) -> tuple[Callable[..., Any], tuple[dict[str, Any]]]:
    fields = dict(vars(mlp))
    if fields["final_activation"] is _NO_ACTIVATION:
        del fields["final_activation"]
    return _mlp_of, (fields,)


def _mlp_of(fields: dict[str, Any]) -> eqx.nn.MLP:
    mlp = object.__new__(eqx.nn.MLP)
    for name, value in {"final_activation": _NO_ACTIVATION, **fields}.items():
        object.__setattr__(mlp, name, value)
    return mlp
