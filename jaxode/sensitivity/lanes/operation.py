"""Operations on arrays that choose what becomes of them under `vmap` and in forward mode.

One JAX primitive carries them all. An operation lowers to the program of its `run`, so that without
`vmap` the compiled program is the one that `run` alone would give.
"""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from ...problem.errors import DifferentiationError
from ...problem.manual_axes import varying_like, without_axes
from ...problem.promotion import with_own_promotion

Arrays = Sequence[Any]
Axes = Sequence[int | None]


class Operation(abc.ABC):
    """A function of arrays, with rules of its own. Compared by identity.

    - `light`: marks the inputs that may have a batch axis without one for the rest: cotangents of a
      backward pass, tangents. Batched alone, they share the steps of the solve.
    - `reverse_error`: of the `DifferentiationError` where its tangents are transposed.
    """

    reverse_error: str = ""

    def __init__(self) -> None:
        self._programs: dict[Any, ClosedJaxpr] = {}

    @abc.abstractmethod
    def run(self, *arrays: Array) -> list[Array]:
        """Evaluate the operation."""

    @abc.abstractmethod
    def light(self, number: int) -> list[bool]:
        """Which of its `number` inputs are light."""

    @abc.abstractmethod
    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays | None:
        """Evaluate `size` operations at once; None where that is impossible.

        `mapped` arrays have a first axis of `size`, and so has every result.
        """

    def bind(self, *arrays: Any) -> list[Any]:
        """Evaluate the operation, as one equation where it is traced."""
        return _operation.bind(*arrays, operation=self)

    def program(self, avals: Arrays) -> ClosedJaxpr:
        """The traced `run`, kept for the lowering."""
        key = tuple((x.shape, x.dtype, x.weak_type) for x in avals)
        if key not in self._programs:
            self._programs[key] = jax.make_jaxpr(self.run)(*map(without_axes, avals))
        return self._programs[key]

    def batched(self, size: int, arrays: Arrays, axes: Axes) -> tuple[Arrays, Axes]:
        """Evaluate `size` operations whose arrays have these batch axes, None for shared ones."""
        arrays, mapped = axes_first(arrays, axes)
        light = self.light(len(mapped))
        heavy = any(m and not free for m, free in zip(mapped, light, strict=True))
        results = self.in_lanes(size, arrays, mapped) if heavy else None
        if results is not None:
            return results, [0] * len(results)
        vectorised = Vectorised(self, size, mapped, heavy)
        results = vectorised.bind(*arrays)
        fixed = vectorised.fixed(results)
        return results, [None] * fixed + [0] * (len(results) - fixed)

    def batched_at_once(self, size: int, arrays: Arrays, axes: Axes) -> tuple[Arrays, Axes]:
        """As `batched`, where `vmap` meets the operation itself and not a rule made of it."""
        return self.batched(size, arrays, axes)

    def pulled_back(self, by: list[bool], cotangents: Arrays, arrays: Arrays) -> Arrays:
        """Cotangents of the arrays `by` which results are differentiated, from those of results.

        **Raises:** `DifferentiationError` where there are none.
        """
        raise DifferentiationError(self.reverse_error)

    def differentiated(self, arrays: Arrays, tangents: Arrays) -> tuple[Arrays, Arrays]:
        """The results and their tangents."""
        nonzero = [type(t) is not ad.Zero for t in tangents]
        forward = Tangents(self, nonzero)
        given = [t for t in tangents if type(t) is not ad.Zero]
        found = forward.bind(*arrays, *given)
        results, found = forward.split(found)
        if any(isinstance(x, pe.JaxprTracer) and not x.is_known() for x in results):
            # Reverse mode wants the results apart from tangents, which it cannot transpose.
            results = self.bind(*arrays)
        return results, [_zero(x) if t is None else t for x, t in zip(results, found, strict=True)]


class Vectorised(Operation):
    """An operation under `vmap` with the loops of all in step, as JAX does it.

    `final`: because it cannot go into lanes, and not because only light inputs are mapped.
    """

    def __init__(self, operation: Operation, size: int, mapped: list[bool], final: bool) -> None:
        super().__init__()
        self.operation, self.size, self.mapped, self.final = operation, size, mapped, final
        self.reverse_error = operation.reverse_error

    def run(self, *arrays: Array) -> list[Array]:
        """Evaluate all of them."""
        axes = tuple(0 if m else None for m in self.mapped)
        return self._over_axis(self.operation.run, axes, 0, arrays)

    def fixed(self, results: Arrays) -> int:
        """How many results are the same for all: of those with tangents, if only these differ."""
        operation = self.operation
        if not isinstance(operation, Tangents) or any(self.mapped[: len(operation.nonzero)]):
            return 0
        return len(operation.split(results)[0])

    def pulled_back(self, by: list[bool], cotangents: Arrays, arrays: Arrays) -> Arrays:
        """Cotangents of all of them; of shared arrays their sum."""

        def of_one(cotangents: Any, arrays: Any) -> Arrays:
            return self.operation.pulled_back(by, cotangents, arrays)

        axes = [0 if m else None for m in self.mapped]
        found = jax.vmap(of_one, (0, axes), axis_size=self.size)(list(cotangents), list(arrays))
        own = [m for m, wanted in zip(self.mapped, by, strict=True) if wanted]
        return [x if m else jnp.sum(x, axis=0) for x, m in zip(found, own, strict=True)]

    def _over_axis(self, function: Any, axes: Any, place: int, arrays: Arrays) -> list[Any]:
        """`function` over its own axis of the arrays, which is axis `place` of the results."""

        def in_parts(*arrays: Any) -> tuple[list[Any], list[Any]]:
            results = list(function(*arrays))
            fixed = self.fixed(results)
            return results[:fixed], results[fixed:]

        over_axis = jax.vmap(in_parts, axes, (None, place), axis_size=self.size)
        fixed, results = over_axis(*arrays)
        return [*fixed, *results]

    def light(self, number: int) -> list[bool]:
        """Those of the operation."""
        return self.operation.light(number)

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays | None:
        """Put the outer axis into lanes, then vectorise."""
        if self.final:
            return None

        def outer(*arrays: Any) -> list[Any]:
            axes = [0 if m else None for m in mapped]
            return list(self.operation.batched(size, arrays, axes)[0])

        # The arrays' own axis comes after the outer one.
        pairs = zip(self.mapped, mapped, strict=True)
        axes = tuple((1 if m else 0) if own else None for own, m in pairs)
        return self._over_axis(outer, axes, 1, arrays)


class Tangents(Operation):
    """An operation and its tangents in forward mode: results, then tangents of inexact ones.

    Its inputs are those of the operation, and the tangents of those that are `nonzero`.
    """

    def __init__(self, operation: Operation, nonzero: list[bool]) -> None:
        super().__init__()
        self.operation, self.nonzero = operation, nonzero
        self.reverse_error = operation.reverse_error

    def run(self, *arrays: Array) -> list[Array]:
        """Evaluate both."""
        return self._push(self.operation.run, arrays)

    def light(self, number: int) -> list[bool]:
        """Those of the operation, and tangents."""
        return [*self.operation.light(len(self.nonzero)), *[True] * sum(self.nonzero)]

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays:
        """Differentiate the operation in lanes."""
        arrays, mapped, number = list(arrays), list(mapped), len(self.nonzero)
        places = [i for i, nonzero in enumerate(self.nonzero) if nonzero]
        for j, i in enumerate(places, number):
            if mapped[i] == mapped[j]:
                continue
            k = j if mapped[i] else i
            arrays[k] = jnp.broadcast_to(arrays[k], (size, *jnp.shape(arrays[k])))
            mapped[i] = mapped[j] = True
        axes = [0 if m else None for m in mapped[:number]]
        return self._push(lambda *x: list(self.operation.batched(size, x, axes)[0]), arrays)

    def _push(self, function: Any, arrays: Arrays) -> list[Any]:
        number = len(self.nonzero)
        primals, tangents = list(arrays[:number]), list(arrays[number:])
        places = [i for i, nonzero in enumerate(self.nonzero) if nonzero]

        def of_differentiated(*values: Any) -> list[Any]:
            inputs = list(primals)
            for i, value in zip(places, values, strict=True):
                inputs[i] = value
            return list(function(*inputs))

        results, found = jax.jvp(of_differentiated, [primals[i] for i in places], tangents)
        return [*results, *(t for x, t in zip(results, found, strict=True) if _inexact(x))]

    def split(self, found: Arrays) -> tuple[list[Any], list[Any]]:
        """Results, and the tangent of each, None of integers."""
        inexact, count = 0, len(found)
        for number in range(count + 1):
            inexact = sum(map(_inexact, found[:number]))
            if number + inexact == count:
                tangents = iter(found[number:])
                results = list(found[:number])
                return results, [next(tangents) if _inexact(x) else None for x in results]
        raise AssertionError("results without tangents")


def axes_first(arrays: Arrays, axes: Axes) -> tuple[list[Any], list[bool]]:
    """The arrays with their batch axes first, and which of them have one."""
    moved = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    ]
    return moved, [axis is not None for axis in axes]


_operation = Primitive("lanes")
_operation.multiple_results = True


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _zero(x: Any) -> ad.Zero:
    return ad.Zero(jax.typeof(x).to_tangent_aval())


@_operation.def_impl
@with_own_promotion
def _run(*arrays: Any, operation: Operation) -> list[Any]:
    return operation.run(*arrays)


@_operation.def_abstract_eval
@with_own_promotion
def _abstract(*avals: Any, operation: Operation) -> list[Any]:
    return varying_like(operation.program(avals).out_avals, avals)


@with_own_promotion
def _lower(ctx: Any, *values: Any, operation: Operation) -> Any:
    program = operation.program(ctx.avals_in)
    ctx = ctx.replace(avals_in=program.in_avals, avals_out=program.out_avals)
    return mlir.lower_fun(jaxpr_as_fun(program), multiple_results=True)(ctx, *values)


@with_own_promotion
def _batch(arrays: Arrays, axes: Axes, *, operation: Operation) -> tuple[Arrays, Axes]:
    size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
    return operation.batched_at_once(size, arrays, axes)


@with_own_promotion
def _jvp(arrays: Arrays, tangents: Arrays, *, operation: Operation) -> tuple[Arrays, Arrays]:
    return operation.differentiated(arrays, tangents)


@with_own_promotion
def _transpose(cotangents: Arrays, *arrays: Any, operation: Operation) -> Any:
    """Reverse mode: of an operation with its tangents, of which the tangents alone are linear."""
    if not isinstance(operation, Tangents):
        raise DifferentiationError(operation.reverse_error)
    number = len(operation.nonzero)
    results = len(operation.operation.program([jax.typeof(x) for x in arrays[:number]]).out_avals)
    given = [ad.instantiate_zeros(x) for x in cotangents[results:]]
    found = operation.operation.pulled_back(operation.nonzero, given, arrays[:number])
    return [*[None] * number, *found]


mlir.register_lowering(_operation, _lower)
batching.primitive_batchers[_operation] = _batch
ad.primitive_jvps[_operation] = _jvp
ad.primitive_transposes[_operation] = _transpose
