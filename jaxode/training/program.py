"""Functions under `jit` whose programs outlive a training: the next one compiles nothing again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jaxtyping import PyTree

from ..problem.jaxpr_key import jaxpr_key
from ..problem.partition import Static, partition
from ..problem.programs import ProgramKey, value_key

MOST_KEPT = 16
_kept: OrderedDict[ProgramKey, Callable[[list[Any]], list[Any]]] = OrderedDict()


class KeptProgram:
    """A function of pytrees, compiled; arrays are traced, other leaves static.

    It is traced for each new structure and type of its arguments, and its program is found by the
    trace: that of an earlier training serves if it computes the same.
    """

    def __init__(self, function: Callable[..., PyTree]) -> None:
        self.function = function
        self.known: dict[Hashable, tuple[Callable[[list[Any]], list[Any]], Static]] = {}

    def __call__(self, *args: Any) -> PyTree:
        """Run the program."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return self.function(*args)
        arrays, static = partition(args)
        signature = static.key, tuple([_type(x) for x in arrays])
        if signature not in self.known:
            self.known[signature] = self._find(arrays, static)
        program, results = self.known[signature]
        return results.join(program(arrays))

    def _find(
        self, arrays: list[Any], static: Static
    ) -> tuple[Callable[[list[Any]], list[Any]], Static]:
        """The program for arguments like these, and the part of its results that is no array."""
        found: list[Static] = []

        def of_arrays(arrays: list[Any]) -> list[Any]:
            results, rest = partition(self.function(*static.join(arrays)))
            found.append(rest)
            return results

        program = jax.jit(of_arrays)
        closed = program.trace(arrays).jaxpr
        key = ProgramKey(jaxpr_key(closed.jaxpr), *map(value_key, closed.consts))
        program = _kept.setdefault(key, program)
        _kept.move_to_end(key)
        if len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
        return program, found[-1]


def _type(x: Any) -> Hashable:
    return x.shape, x.dtype, getattr(x, "weak_type", False)
