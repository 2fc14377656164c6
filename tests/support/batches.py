"""Batches in a tile of either kind, and what they are compared with: single solves."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxode as jo

MODULE = sys.modules["jaxode.batch.tile_width"]
LOG = sys.modules["jaxode.batch.checkpoints"]


def in_tile(wide: bool, function: Callable, *inputs: Any, segment: int | None = None) -> Callable:
    """`function`, compiled afresh for `inputs`, its batches in a wide tile or in a narrow one.

    `segment`: bytes of the log that are kept at once.
    """
    real, tiles = MODULE.choose_tile, []

    def choose(*given: Any) -> Any:
        tiles.append(dataclasses.replace(real(*given), wide=wide))
        return tiles[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "choose_tile", choose)
        if segment is not None:
            patch.setattr(LOG, "SEGMENT_BYTES", segment)
        compiled = jax.jit(lambda *x: function(*x)).lower(*inputs).compile()
    assert tiles
    return compiled


def one_by_one(function: Callable, in_axes: Any, *inputs: Any) -> Any:
    """`function` of one trajectory after another; `in_axes` as jax.vmap reads them."""
    rows = jax.vmap(lambda *x: x, in_axes)(*inputs)
    return jax.jit(lambda rows: jax.lax.map(lambda row: function(*row), rows))(rows)


def outcome(sol: jo.Solution) -> tuple[Any, ...]:
    """What is compared of a solve; how well lanes are used is of batches alone.

    The next step size multiplies the rounding of an error estimate: it is left out.
    """
    stats = dataclasses.replace(
        sol.stats, useful_share=None, num_stability_bound=None, next_dt=None
    )
    return sol.ys, sol.y1, sol.status, stats


def assert_same(got: Any, expected: Any, rtol: float = 1e-12, counts: int = 0) -> None:
    """Equal in structure, shape and dtype; values to `rtol`, integers to `counts`.

    Where an iteration ends by a measure, rounding decides its turns: other processors round
    otherwise, and one trajectory otherwise than many. How often a trajectory that fails tries
    before it does is rounding's alone: with `counts`, its status is compared, its tries are not.
    """
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    compared: Any = ...
    if counts:  # of an `outcome`
        np.testing.assert_array_equal(got[2], expected[2])
        compared = np.asarray(expected[2]) == jo.Status.SUCCESS
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.shape == two.shape
        assert one.dtype == two.dtype
        if np.issubdtype(one.dtype, np.integer):
            one, two = np.asarray(one)[compared], np.asarray(two)[compared]
            np.testing.assert_allclose(one, two, rtol=0, atol=counts)
        else:
            np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol)


def assert_bits(got: Any, expected: Any) -> None:
    """Equal to the bit."""
    jax.tree.map(np.testing.assert_array_equal, got, expected)
