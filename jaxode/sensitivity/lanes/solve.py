"""The operations of a solve: its values, its forward pass and its backward pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig
from ...problem.closure import ClosedFunction
from ...problem.errors import DifferentiationError
from ...problem.promotion import with_own_promotion
from ...solvers.step_size import NORMS
from ..ad_direction import FORWARD, TWICE
from .in_step import InStep
from .operation import Arrays, Axes, Operation, Vectorised, axes_first
from .trajectories import ResultForm, Rules, Trajectories


def solve_or_lanes(rules: Rules, problem: IVP, config: SolveConfig, extra: Any = None) -> Result:
    """Solve one problem; under `vmap` all of them, in lanes.

    Derivatives are those of the rules, or of JAX's forward mode where they are plain functions.
    """
    parts = problem, config, extra
    trajectories = Trajectories(rules, parts, ResultForm())
    arrays = jax.tree.leaves(eqx.filter(parts, eqx.is_array))
    return _solved(trajectories, parts, arrays, problem.y0)


def solve_ensemble(rules: Rules, ensemble: Ensemble, extra: Any = None) -> Result:
    """Solve all problems of an ensemble, by the rules of a batch; under `vmap` those of all.

    Where the result is not that of a "steps" solve, it has no times.
    """
    parts = *eqx.combine(ensemble.per_trajectory, ensemble.shared), extra
    own = jax.tree.map(lambda _: True, ensemble.per_trajectory)
    own = *eqx.combine(own, jax.tree.map(lambda _: False, ensemble.shared)), None
    pairs = zip(jax.tree.leaves(parts[:2]), jax.tree.leaves(own), strict=True)
    flags = [flag for x, flag in pairs if eqx.is_array(x)]
    arrays = jax.tree.leaves(eqx.filter(parts, eqx.is_array))
    flags += [False] * (len(arrays) - len(flags))
    trajectories = Trajectories(rules, parts, ResultForm(True), ensemble.count, flags)
    y0 = parts[0].y0
    example = jax.ShapeDtypeStruct(y0.shape[1:], y0.dtype)
    return _solved(trajectories, parts, arrays, example)


def _solved(trajectories: Trajectories, parts: Any, arrays: list[Array], y0: Any) -> Any:
    """The result, by an operation where the solve may be one; `y0`: a state, or its shape."""
    if not _may_be_an_operation(parts, arrays, y0):
        (rule, rest), first = trajectories.call(arrays)
        return rule(first, *rest)
    operation = Values if trajectories.rules.forward_mode else Solve
    return trajectories.form.unflatten(operation(trajectories).bind(*arrays))


def _may_be_an_operation(parts: Any, arrays: Arrays, y0: Any) -> bool:
    """Whether a solve has no effects, and reads nothing traced that is not one of its arrays.

    Effects are those of a progress bar, of printing, and of collectives over named axes.
    """
    _, config, _ = parts
    functions = jax.tree.leaves(parts, is_leaf=lambda x: isinstance(x, ClosedFunction))
    closed = [f for f in functions if isinstance(f, ClosedFunction)]
    if config.method.progress is not None or any(f.program.jaxpr.effects for f in closed):
        return False
    norm = config.method.tolerance.norm
    if norm in NORMS.values():
        return True
    return not any(isinstance(c, Tracer) for c in jax.make_jaxpr(norm)(y0).consts)


class Values(Operation):
    """The result of a solve, differentiated in forward mode through its loop."""

    reverse_error = FORWARD

    def __init__(self, trajectories: Trajectories) -> None:
        super().__init__()
        self.trajectories = trajectories

    def run(self, *arrays: Array) -> list[Array]:
        """Solve."""
        return self.trajectories.solve(arrays)

    def light(self, number: int) -> list[bool]:
        """None is light."""
        return [False] * number

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays | None:
        """Solve all in lanes."""
        many = self.trajectories.lanes(size, arrays, mapped)
        if many is None:
            return None
        return self.trajectories.ungroup(size, type(self)(many[0]).bind(*many[1]))


class Solve(Values):
    """The result of a solve, differentiated by its rule."""

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays:
        """Solve all in lanes, else in step; both have a derivative rule."""
        results = super().in_lanes(size, arrays, mapped)
        if results is None:
            results = Solve(InStep(self.trajectories, size, mapped)).bind(*arrays)
        return results

    def differentiated(self, arrays: Arrays, tangents: Arrays) -> tuple[Arrays, Arrays]:
        """The result of the forward pass, and tangents that are only transposed."""
        by = [type(t) is not ad.Zero for t in tangents]
        inside = self.trajectories.of_problem()
        if any(b and not i for b, i in zip(by, inside, strict=True)):
            raise DifferentiationError("a solve has no derivative by tolerances and step sizes")
        forward = ForwardPass(self.trajectories, by)
        found = forward.bind(*arrays)
        number = self.trajectories.form.treedef.num_leaves
        results, residuals = found[:number], found[number:]
        given = [t for t in tangents if type(t) is not ad.Zero]
        avals = tuple(jax.typeof(x).to_tangent_aval() for x in results)
        inexact = [jnp.issubdtype(x.dtype, jnp.inexact) for x in results]
        pushed = iter(
            _pushforward.bind(
                *given,
                *residuals,
                *arrays,
                forward=forward,
                results=tuple(a if i else None for a, i in zip(avals, inexact, strict=True)),
            )
        )
        pairs = zip(avals, inexact, strict=True)
        return results, [next(pushed) if i else ad.Zero(aval) for aval, i in pairs]


class ForwardPass(Operation):
    """The result of a solve, then the residuals of its backward pass.

    In lanes the residuals have another form. So they are handed on where `vmap` meets this
    operation before anything else has seen their number; else there are none, and the backward pass
    of the batch begins with a forward pass.
    """

    reverse_error = TWICE

    def __init__(self, trajectories: Trajectories, by: Sequence[bool]) -> None:
        super().__init__()
        self.trajectories, self.by = trajectories, list(by)
        self.traced: TracedResiduals | None = None
        self.many: ForwardPass | None = None  # in lanes, whose residuals were handed on

    def run(self, *arrays: Array) -> list[Array]:
        """Solve with a trace of the steps."""
        results, residuals = self.trajectories.forward(self.by, arrays)
        self.traced = TracedResiduals.of(residuals)
        return [*results, *jax.tree.leaves(eqx.filter(residuals, eqx.is_array))]

    def light(self, number: int) -> list[bool]:
        """None is light."""
        return [False] * number

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays | None:
        """Solve all in lanes; zeros in the place of residuals, if they were traced."""
        values = Values(self.trajectories).in_lanes(size, arrays, mapped)
        if values is None:
            return None
        blank = self.traced.avals if self.traced else ()
        return [*values, *(jnp.zeros((size, *x.shape), x.dtype) for x in blank)]

    def batched_at_once(self, size: int, arrays: Arrays, axes: Axes) -> tuple[Arrays, Axes]:
        """Solve all in lanes, with the residuals of all unless those of one were traced."""
        many = None if self.traced else self.each(size, *axes_first(arrays, axes))
        if many is None:
            return self.batched(size, arrays, axes)
        self.many, arrays = many
        found, number = self.many.bind(*arrays), self.trajectories.form.treedef.num_leaves
        results, residuals = self.trajectories.ungroup(size, found[:number]), found[number:]
        return [*results, *residuals], [0] * number + [None] * len(residuals)

    def pulled_back(self, by: list[bool], cotangents: Arrays, arrays: Arrays) -> Arrays:
        """Those of the result: residuals are found again where a gradient depends on them."""
        inexact = [
            jnp.issubdtype(x.dtype, jnp.inexact) for x in self.program(_avals(arrays)).out_avals
        ]
        number = self.trajectories.form.treedef.num_leaves
        given = inexact[:number]
        backward = BackwardPass(ForwardPass(self.trajectories, by), given, 0)
        return backward.bind(*cotangents[: sum(given)], *arrays)

    def each(
        self, size: int, arrays: Arrays, mapped: list[bool]
    ) -> "tuple[ForwardPass, list[Array]] | None":
        """The pass of `size` solves in lanes, with own copies of what derivatives are taken by."""
        arrays, mapped = list(arrays), list(mapped)
        for i, by in enumerate(self.by):
            if by and not mapped[i]:
                arrays[i], mapped[i] = jnp.broadcast_to(arrays[i], (size, *arrays[i].shape)), True
        many = self.trajectories.lanes(size, arrays, mapped)
        return None if many is None else (ForwardPass(many[0], self.by), many[1])


class TracedResiduals(NamedTuple):
    """The form of residuals: their structure, what is no array, and the types of the arrays."""

    treedef: Any
    static: Any
    avals: tuple

    @classmethod
    def of(cls, residuals: Any) -> "TracedResiduals":
        """That of these residuals."""
        arrays, static = eqx.partition(residuals, eqx.is_array)
        leaves, treedef = jax.tree.flatten(arrays)
        return cls(treedef, static, tuple(jax.typeof(x) for x in leaves))

    def restored(self, arrays: Arrays) -> Any:
        """The residuals with these arrays."""
        return eqx.combine(jax.tree.unflatten(self.treedef, arrays), self.static)


class BackwardPass(Operation):
    """The cotangents of a solve: inputs are those `given`, `residuals` residuals, then arrays.

    Without residuals it begins with a forward pass.
    """

    reverse_error = TWICE

    def __init__(self, forward: ForwardPass, given: Sequence[bool], residuals: int) -> None:
        super().__init__()
        self.forward, self.given, self.residuals = forward, list(given), residuals

    @property
    def trajectories(self) -> Trajectories:
        """What is solved."""
        return self.forward.trajectories

    def parts(self, values: Arrays) -> tuple[list[Any], list[Any], list[Any]]:
        """Cotangents, residuals and arrays, or what stands in their places."""
        cotangents = sum(self.given)
        rest = cotangents + self.residuals
        return list(values[:cotangents]), list(values[cotangents:rest]), list(values[rest:])

    def run(self, *values: Array) -> list[Array]:
        """Go through the steps from the last to the first."""
        cotangents, residuals, arrays = self.parts(values)
        by, given = self.forward.by, iter(cotangents)
        if residuals and self.forward.traced and not self.forward.many:
            restored = self.forward.traced.restored(residuals)
        else:
            restored = self.trajectories.forward(by, arrays)[1]
        every = [next(given) if present else None for present in self.given]
        return self.trajectories.backward(by, restored, every, arrays)

    def pulled_back(self, by: list[bool], cotangents: Arrays, arrays: Arrays) -> Arrays:
        """Those of the cotangents and the arrays; a gradient by steps taken has no residuals."""
        given, residuals, values = self.parts(arrays)
        by_given, by_residuals, by_values = self.parts(by)
        places = [i for i, wanted in enumerate(by_values) if wanted]

        def gradient(given: Arrays, *moved: Array) -> list[Array]:
            inputs = list(values)
            for i, value in zip(places, moved, strict=True):
                inputs[i] = value
            every = iter(given)
            whole = [next(every) if present else None for present in self.given]
            return self.trajectories.replayed_gradient(self.forward.by, whole, inputs)

        _, pull = jax.vjp(gradient, given, *(values[i] for i in places))
        of_given, *of_values = pull(list(cotangents))
        kept = [x for x, wanted in zip(of_given, by_given, strict=True) if wanted]
        pairs = zip(residuals, by_residuals, strict=True)
        blank = [jnp.zeros_like(x) for x, wanted in pairs if wanted]
        return [*kept, *blank, *of_values]

    def light(self, number: int) -> list[bool]:
        """Cotangents are."""
        cotangents = sum(self.given)
        return [True] * cotangents + [False] * (number - cotangents)

    def in_lanes(self, size: int, arrays: Arrays, mapped: list[bool]) -> Arrays | None:
        """The cotangents of all, in lanes; what all share has one for each."""
        one = self.trajectories
        cotangents, residuals, values = self.parts(arrays)
        of_cotangents, of_residuals, own = self.parts(mapped)
        many = self.forward.each(size, values, own)
        if many is None:
            if one.rules.batch is None or not residuals:
                return None
            # Residuals may be the zeros of a forward pass in lanes: begin with another one.
            again = BackwardPass(self.forward, self.given, 0)
            kept = [*of_cotangents, *own]
            return Vectorised(again, size, kept, True).bind(*cotangents, *values)
        forward, values = many
        if self.forward.many and residuals and not any(of_residuals):
            forward = self.forward.many
        else:
            residuals = []
        cotangents = [
            x if m else jnp.broadcast_to(x, (size, *x.shape))
            for x, m in zip(cotangents, of_cotangents, strict=True)
        ]
        if one.flags is not None:
            cotangents = [x.reshape(-1, *x.shape[2:]) for x in cotangents]
        backward = BackwardPass(forward, self.given, len(residuals))
        found = one.ungroup(size, backward.bind(*cotangents, *residuals, *values))
        if one.flags is None:
            return found
        flags = [f for f, by in zip(one.flags, self.forward.by, strict=True) if by]
        return [x if f else jnp.sum(x, axis=1) for x, f in zip(found, flags, strict=True)]


def _avals(arrays: Arrays) -> list[Any]:
    return [jax.typeof(x) for x in arrays]


# The tangents of a result, from those of the arrays, the residuals and the arrays: linear, and only
# transposed. `results`: their types, None of integers.
_pushforward = Primitive("pushforward")
_pushforward.multiple_results = True


@_pushforward.def_abstract_eval
def _push_avals(*_: Any, forward: ForwardPass, results: tuple) -> list[Any]:
    return [x for x in results if x is not None]


@with_own_promotion
def _transpose(cotangents: Arrays, *values: Any, forward: ForwardPass, results: tuple) -> list[Any]:
    tangents, rest = values[: sum(forward.by)], values[sum(forward.by) :]
    found = iter(cotangents)
    every = [None if x is None else next(found) for x in results]
    given = [x is not None and type(x) is not ad.Zero for x in every]
    if not any(given):
        return [None] * len(values)
    backward = BackwardPass(forward, given, len(rest) - forward.trajectories.number)
    present = [x for x, g in zip(every, given, strict=True) if g]
    pulled = backward.bind(*present, *rest)
    wanted = [
        x if ad.is_undefined_primal(t) else None for x, t in zip(pulled, tangents, strict=True)
    ]
    return [*wanted, *[None] * len(rest)]


def _raise(*_: Any, **__: Any) -> Any:
    raise DifferentiationError(TWICE)


_pushforward.def_impl(_raise)
mlir.register_lowering(_pushforward, _raise)
batching.primitive_batchers[_pushforward] = _raise
ad.primitive_jvps[_pushforward] = _raise
ad.primitive_transposes[_pushforward] = _transpose
