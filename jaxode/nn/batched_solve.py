"""Solves of a field from one sample or a batch, with random values drawn before the solve."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import Array
from jaxtyping import PyTree

from ..integrate.solution import Solution
from ..problem.errors import FieldError
from ..problem.field import call_field
from .per_solve_random import draw, draw_batch, materialise_weights, needs_key
from .solve_options import Settings


def solve_samples(
    field: Callable,
    y0: PyTree,
    ts: Any,
    args: PyTree,
    settings: Settings,
    *,
    in_axes: Any = None,
    key: Array | None = None,
    **overrides: Any,
) -> Solution:
    """Solve from one state, or with `in_axes` (as of `solve_batch`) from each state of a batch.

    Normalised weights are computed once, before the solve; a dropout mask or a random probe is
    drawn once for each sample, by `key`. `overrides` are options of `solve` that the model sets.

    **Raises:** `FieldError` if the field has random values and there is no key.
    """
    field = materialise_weights(field)
    if not needs_key(field):
        if in_axes is None:
            return settings.solve(field, y0, ts, args, **overrides)
        return settings.solve_batch(field, y0, ts, args, in_axes, **overrides)
    if key is None:
        raise FieldError(
            "the field draws at random once per solve (dropout, or the probe of a trace): give "
            "key=jax.random.key(...), or turn dropout off by eqx.nn.inference_mode(model)"
        )
    if in_axes is None:
        return settings.solve(draw(field, key), y0, ts, args, **overrides)
    batch = jax.tree.leaves(y0)[0].shape[0]
    per_sample, shared = draw_batch(field, jax.random.split(key, batch))
    axes = in_axes[0], in_axes[1], (in_axes[2], 0)
    return settings.solve_batch(
        _SampledField(shared), y0, ts, (args, per_sample), axes, **overrides
    )


class _SampledField(eqx.Module):
    """A field whose random values are part of each sample's `args`."""

    shared: Any

    def __call__(self, t: Array, y: PyTree, args: PyTree) -> PyTree:
        args, per_sample = args
        return call_field(eqx.combine(per_sample, self.shared), t, y, args)
