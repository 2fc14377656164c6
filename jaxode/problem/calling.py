"""How the user's functions are called: with as many arguments as their signatures take."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import equinox as eqx
from jax import Array
from jaxtyping import PyTree


class WithoutArgs(eqx.Module):
    """A function of `(t, y)` as one of `(t, y, args)`."""

    func: Callable[..., Any]

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> Any:
        """Call it without `args`."""
        return self.func(t, y)


class WithDefault(eqx.Module):
    """A function whose third argument has a default as one of `(t, y, args)`."""

    func: Callable[..., Any]

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> Any:
        """Call it without `args` if there are none."""
        return self.func(t, y) if args is None else self.func(t, y, args)


def taking_args(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as a function of `(t, y, args)`; one of `(t, y)` gets no `args`.

    So does one whose third argument has a default, unless there are `args`.
    """
    if takes_three(f):
        return f
    count = positional_arguments(f)
    if count is None or count[0] > 2 or count[1] not in (2, 3):
        return f
    return WithoutArgs(f) if count[1] == 2 else WithDefault(f)


def takes_three(f: Any) -> bool:
    """True for `def f(t, y, args)` or a `lambda`, without a signature that says otherwise."""
    if type(f) is not FunctionType or f.__code__.co_argcount != 3:
        return False
    plain = f.__defaults__ is None and not f.__code__.co_kwonlyargcount
    return plain and not hasattr(f, "__wrapped__") and not hasattr(f, "__signature__")


def positional_arguments(f: Callable) -> tuple[int, float] | None:
    """Least and largest number of positional arguments of `f`; None if its signature is unknown."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    return sum(p.default is p.empty for p in positional), most
