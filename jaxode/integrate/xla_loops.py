"""Loops whose cost depends on how XLA runs them on each backend.

On a GPU the host reads the condition of a loop before every iteration, and the device waits for
it. So there the loop over steps contains as few inner loops as possible: an operation on many rows
is done on all of them at once, with a mask. On a CPU a single-iteration loop fuses operations.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

State = TypeVar("State")

# Array elements of one masked operation: a few microseconds of a GPU's memory bandwidth.
CHUNK_NUMBERS = 2**20


def host_controls_loops() -> bool:
    """True if the host evaluates loop conditions (GPU), False if the device does (CPU, TPU)."""
    return jax.default_backend() not in ("cpu", "tpu")


def chunk_size(rows: int, size: int) -> int:
    """The number of `rows`, of `size` array elements each, for one masked operation."""
    return max(1, min(rows, CHUNK_NUMBERS // max(size, 1)))


def num_elements(arrays: PyTree, rows: int = 1) -> int:
    """The number of elements of all arrays in a pytree, per row if they have `rows`."""
    return sum(x.size for x in jax.tree.leaves(arrays)) // rows


def leading(flags: Array) -> tuple[Array, Array]:
    """Which flags along the first axis have no false one up to them, and the number of these.

    Not by a cumulative sum, which since JAX 0.12 may be lowered to a loop.
    """
    n = flags.shape[0]
    index = jnp.arange(n, dtype=jnp.int32).reshape(-1, *[1] * (flags.ndim - 1))
    count = jnp.min(jnp.where(flags, n, index), axis=0)
    return index < count, count


def masked_while(
    unfinished: Callable, body: Callable[[State], State], state: State, single_pass: bool
) -> State:
    """Iterate `body`, which masks its own work, while `unfinished`; once if `single_pass`.

    `single_pass`: one call of `body` does all the work.
    """
    return body(state) if single_pass else lax.while_loop(unfinished, body, state)


def fused(function: Callable[[State], State], state: State) -> State:
    """Compute `function(state)` inside a single-iteration loop.

    On a CPU, XLA (from JAX 0.12 on) compiles a small loop with its body to one native function;
    every operation outside of loops is a kernel of its own, which costs a microsecond to launch and
    ten milliseconds to compile. A short solve has as many operations around its loop as in it.
    """
    if host_controls_loops():
        return function(state)
    # The barrier hides from XLA that there is one iteration; it would remove the loop otherwise.
    start = lax.optimization_barrier(jnp.asarray(True))

    def body(carry: tuple) -> tuple:
        return jnp.zeros_like(carry[0]), function(carry[1])

    return lax.while_loop(lambda carry: carry[0], body, (start, state))[1]


def cond_as_loop(needed: Array, function: Callable[[State], State], state: State) -> State:
    """Compute `function(state)` if `needed`, else return `state`; a loop of at most one iteration.

    On a CPU a conditional is a kernel of its own, and copies its result; a loop does neither.
    """
    start = needed, state
    return lax.while_loop(lambda carry: carry[0], lambda c: (~c[0], function(c[1])), start)[1]
