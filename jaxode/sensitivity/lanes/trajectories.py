"""The solve of one problem or of many in lanes, as functions of flat lists of arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from ...integrate.ensemble import Ensemble
from ...integrate.forward import Result
from ...integrate.ivp import IVP, SolveConfig
from ..replay.replay import replayed, steps_taken
from ..vjp_rule import VjpRule

Arrays = Sequence[Any]


class RuleCall(NamedTuple):
    """A derivative rule, and the arguments after its first one, the problem or the ensemble."""

    rule: VjpRule | Callable[..., Result]
    rest: tuple


class Rules(NamedTuple):
    """The calls that solve one problem, and an ensemble; no derivative is taken by `extra`.

    `single(problem, config, extra)`, `batch(ensemble, extra)`; None where there is none.
    `forward_mode`: they are plain functions, which JAX differentiates.
    """

    single: Callable[[IVP, SolveConfig, PyTree], RuleCall] | None
    batch: Callable[[Ensemble, PyTree], RuleCall] | None
    forward_mode: bool = False


class ResultForm:
    """The structure of the flattened result, known once the solve has been traced.

    `with_share`: it has the useful share of the lanes, which single solves do not have.
    """

    treedef: Any = None

    def __init__(self, with_share: bool = False) -> None:
        self.with_share = with_share

    def flatten(self, result: Result, save: str) -> list[Array]:
        """The arrays of a result that single solves and batches have in common."""
        stats = result.stats
        if not self.with_share:
            stats = dataclasses.replace(stats, useful_share=None)
        result = result._replace(stats=stats, ts=result.ts if save == "steps" else None)
        leaves, self.treedef = jax.tree.flatten(result)
        return leaves

    def unflatten(self, leaves: Arrays) -> Any:
        """The result, or cotangents of it."""
        return jax.tree.unflatten(self.treedef, leaves)


class Trajectories:
    """One problem, or with `flags` `count` of them, whose flagged arrays have a first axis.

    `parts`: problem, configuration and `extra`, whose arrays are handed to each function.
    """

    def __init__(
        self,
        rules: Rules,
        parts: PyTree,
        form: ResultForm,
        count: int | None = None,
        flags: list[bool] | None = None,
    ) -> None:
        self.rules, self.form, self.count, self.flags = rules, form, count, flags
        arrays, self.static = eqx.partition(parts, eqx.is_array)
        self.treedef = jax.tree.structure(arrays)
        number = self.treedef.num_leaves
        self.places = jax.tree.unflatten(self.treedef, list(range(number)))

    def tree(self, leaves: Sequence[Any]) -> Any:
        """A pytree like problem, configuration and `extra`, with these leaves for arrays."""
        return jax.tree.unflatten(self.treedef, leaves)

    @property
    def number(self) -> int:
        """The number of arrays."""
        return self.treedef.num_leaves

    @property
    def save(self) -> str:
        """The save mode."""
        return self.static[1].save

    def of_problem(self) -> list[bool]:
        """Which arrays are those of the problem, by which derivatives are taken."""
        first = jax.tree.leaves(self.places[0])
        return [i in first for i in range(self.number)]

    def call(self, arrays: Arrays) -> tuple[RuleCall, Any]:
        """The call that solves these arrays' problem or ensemble, and its first argument."""
        parts = eqx.combine(self.tree(arrays), self.static)
        problem, config, extra = parts
        if self.flags is None:
            assert self.rules.single is not None
            return self.rules.single(problem, config, extra), problem
        ensemble = Ensemble(*self.split((problem, config)))
        assert self.rules.batch is not None
        return self.rules.batch(ensemble, extra), ensemble

    def split(self, pair: PyTree) -> tuple[Any, Any]:
        """A pair like problem and configuration: each trajectory's part, and the shared one."""
        assert self.flags is not None
        flags = eqx.combine(self.tree(self.flags), jax.tree.map(lambda _: False, self.static))[:2]
        return eqx.partition(pair, flags)

    def solve(self, arrays: Arrays) -> list[Array]:
        """The result, without a derivative rule."""
        (rule, rest), first = self.call(arrays)
        function = rule.function if isinstance(rule, VjpRule) else rule
        return self.form.flatten(function(first, *rest), self.save)

    def perturbed(self, by: Sequence[bool]) -> Any:
        """The first argument's structure, with True for the arrays that derivatives are `by`."""
        flags = eqx.combine(self.tree(by), jax.tree.map(lambda _: False, self.static))
        return flags[0] if self.flags is None else Ensemble(*self.split(flags[:2]))

    def forward(self, by: Sequence[bool], arrays: Arrays) -> tuple[list[Array], Any]:
        """The result, and the residuals of the backward pass."""
        (rule, rest), first = self.call(arrays)
        assert isinstance(rule, VjpRule)
        result, residuals = rule.forward(self.perturbed(by), first, *rest)
        return self.form.flatten(result, self.save), residuals

    def backward(
        self, by: Sequence[bool], residuals: Any, cotangents: Arrays, arrays: Arrays
    ) -> list[Array]:
        """Cotangents of the arrays `by` which derivatives are taken, of shared ones their sum."""
        (rule, rest), first = self.call(arrays)
        assert isinstance(rule, VjpRule)
        ct_result = self.form.unflatten(cotangents)
        found = rule.backward(self.perturbed(by), residuals, ct_result, first, *rest)
        if self.flags is not None:
            found = eqx.combine(found.per_trajectory, found.shared)[0]
        leaves: list[Any] = [None] * self.number

        def place(i: int, ct: Any) -> None:
            leaves[i] = ct

        jax.tree.map(place, self.places[0], eqx.filter(found, eqx.is_array))
        return [
            (jnp.zeros_like(x) if ct is None else ct)
            for x, ct, wanted in zip(arrays, leaves, by, strict=True)
            if wanted
        ]

    def replayed_gradient(
        self, by: Sequence[bool], cotangents: Arrays, arrays: Arrays
    ) -> list[Array]:
        """As `backward`, as a function with derivatives of every order."""
        places = [i for i, wanted in enumerate(by) if wanted]

        kept: list[bool] = []

        def values(*moved: Array) -> list[Array]:
            inputs = list(arrays)
            for i, value in zip(places, moved, strict=True):
                inputs[i] = value
            found = self.replayed(by, inputs)
            kept[:] = [jnp.issubdtype(x.dtype, jnp.inexact) for x in found]
            return [x for x, inexact in zip(found, kept, strict=True) if inexact]

        found, pull = jax.vjp(values, *(arrays[i] for i in places))
        ct = self.form.unflatten(cotangents)
        given = jax.tree.leaves((ct.ys, ct.y1), is_leaf=lambda x: x is None)
        given = [x for x, inexact in zip(given, kept, strict=True) if inexact]
        pairs = zip(given, found, strict=True)
        return list(pull([jnp.zeros_like(v) if x is None else x for x, v in pairs]))

    def replayed(self, by: Sequence[bool], arrays: Arrays) -> list[Array]:
        """The saved values and the last state, flat, with derivatives of every order."""
        perturbed = eqx.combine(self.tree(by), jax.tree.map(lambda _: False, self.static))[0]

        def of_one(*arrays: Any) -> list[Array]:
            problem, config, _ = eqx.combine(self.tree(arrays), self.static)
            steps = steps_taken(problem, config, perturbed)
            return jax.tree.leaves(replayed(problem, config, steps))

        if self.flags is None:
            return of_one(*arrays)
        axes = [0 if own else None for own in self.flags]
        return jax.vmap(of_one, axes, axis_size=self.count)(*arrays)

    # From one to many.

    def lanes(
        self, size: int, arrays: Arrays, mapped: Sequence[bool]
    ) -> "tuple[Trajectories, list[Array]] | None":
        """`size` of these as one, and its arrays; None where that cannot go into lanes."""
        if not size:
            return None
        mapped = list(mapped)
        if self.flags is None:
            y0 = self.places[0].y0
            arrays = list(arrays)
            if not mapped[y0]:
                arrays[y0] = jnp.broadcast_to(arrays[y0], (size, *arrays[y0].shape))
                mapped[y0] = True
            flags, count = mapped, size
        else:
            assert self.count is not None
            flags, count = [m or f for m, f in zip(mapped, self.flags, strict=True)], self.count
            arrays = [
                _merge(x, size, count, m, f)
                for x, m, f in zip(arrays, mapped, self.flags, strict=True)
            ]
            count *= size
        if not self.supports(flags, arrays):
            return None
        parts = eqx.combine(self.tree(arrays), self.static)
        many = Trajectories(self.rules, parts, self.form, count, flags)
        return many, list(arrays)

    def supports(self, flags: Sequence[bool], arrays: Arrays) -> bool:
        """Whether lanes may have the flagged arrays for themselves."""
        if self.rules.batch is None:
            return False
        _, config, _ = self.places
        tolerance, solver = config.method.tolerance, config.method.solver
        own = [tolerance.rtol, tolerance.atol, getattr(solver, "rate", None)]
        problem = set(jax.tree.leaves(self.places[0])) | {i for i in own if i is not None}
        return all(
            i in problem and not jax.dtypes.issubdtype(arrays[i].dtype, jax.dtypes.extended)
            for i, flag in enumerate(flags)
            if flag
        )

    def ungroup(self, size: int, results: Arrays) -> list[Array]:
        """Results of trajectories, whose first axis holds `size` groups of this one's `count`."""
        if self.flags is None:
            return list(results)
        return [x.reshape(size, self.count, *x.shape[1:]) for x in results]


def _merge(x: Array, size: int, count: int, mapped: bool, flagged: bool) -> Array:
    """An array of `size` groups of `count` trajectories, as one of all of them."""
    if not (mapped or flagged):
        return x
    if not flagged:
        x = jnp.broadcast_to(x[:, None], (size, count, *x.shape[1:]))
    elif not mapped:
        x = jnp.broadcast_to(x, (size, *x.shape))
    return x.reshape(size * count, *x.shape[2:])
