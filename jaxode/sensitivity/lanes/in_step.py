"""Solves under `vmap` that cannot go into lanes: the loops of all run in step, as JAX does it."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from .trajectories import Arrays, Trajectories


class InStep(Trajectories):
    """`size` of `one`, whose `mapped` arrays have a first axis of `size`, and so has every result.

    Differentiated by the rule of `one`, for each of them.
    """

    def __init__(self, one: Trajectories, size: int, mapped: Sequence[bool]) -> None:
        vars(self).update(vars(one))
        self.rules = one.rules._replace(batch=None)
        self.count = self.flags = None
        self.one, self.size, self.mapped = one, size, list(mapped)

    @property
    def axes(self) -> list[int | None]:
        """The batch axes of the arrays."""
        return [0 if m else None for m in self.mapped]

    def solve(self, arrays: Arrays) -> list[Array]:
        """The results, without a derivative rule."""
        each = jax.vmap(lambda *x: self.one.solve(x), self.axes, axis_size=self.size)
        return each(*arrays)

    def forward(self, by: Sequence[bool], arrays: Arrays) -> tuple[list[Array], Any]:
        """The results, and the residuals of the backward pass."""
        static: Any = None

        def of_one(*arrays: Any) -> tuple[list[Array], Any]:
            nonlocal static
            result, residuals = self.one.forward(by, arrays)
            residuals, static = eqx.partition(residuals, eqx.is_array)
            return result, residuals

        results, residuals = jax.vmap(of_one, self.axes, axis_size=self.size)(*arrays)
        return results, eqx.combine(residuals, static)

    def backward(
        self, by: Sequence[bool], residuals: Any, cotangents: Arrays, arrays: Arrays
    ) -> list[Array]:
        """Cotangents of the arrays `by` which derivatives are taken, of shared ones their sum."""
        residuals, static = eqx.partition(residuals, eqx.is_array)

        def of_one(residuals: Any, cotangents: Any, arrays: Any) -> list[Array]:
            return self.one.backward(by, eqx.combine(residuals, static), cotangents, arrays)

        each = jax.vmap(of_one, (0, 0, self.axes), axis_size=self.size)
        found = each(residuals, list(cotangents), list(arrays))
        own = [m for m, wanted in zip(self.mapped, by, strict=True) if wanted]
        return [x if m else jnp.sum(x, axis=0) for x, m in zip(found, own, strict=True)]

    def replayed(self, by: Sequence[bool], arrays: Arrays) -> list[Array]:
        """The saved values and last states, as a function with derivatives of every order."""
        each = jax.vmap(lambda *x: self.one.replayed(by, x), self.axes, axis_size=self.size)
        return each(*arrays)
