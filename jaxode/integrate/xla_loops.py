"""How often a GPU's host reads the condition of a loop: once a turn, of every loop in it.

Each time the device waits for the host. So there the loop over steps has no loops inside, as far
as can be: what a step does to many rows, it does to all of them at once, behind a mask.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

State = TypeVar("State")

# Numbers that are worked on at once: a few microseconds of a GPU's memory.
CHUNK_NUMBERS = 2**20


def host_controls_loops() -> bool:
    """Whether the host decides on the next turn of a loop; a CPU and a TPU do it themselves."""
    return jax.default_backend() not in ("cpu", "tpu")


def chunk_size(rows: int, size: int) -> int:
    """How many of `rows` to work on at once, of `size` numbers each."""
    return max(1, min(rows, CHUNK_NUMBERS // max(size, 1)))


def size_of(arrays: PyTree, each: int = 1) -> int:
    """How many numbers there are in arrays, for `each` of so many."""
    return sum(x.size for x in jax.tree.leaves(arrays)) // each


def masked_while(
    going: Callable, turn: Callable[[State], State], state: State, at_once: bool
) -> State:
    """`turn` while `going`; one turn where that does all there is to do, behind its own mask."""
    return turn(state) if at_once else lax.while_loop(going, turn, state)


def fused(function: Callable[[State], State], state: State) -> State:
    """`function(state)`, inside a loop of one turn.

    On a CPU, XLA (from JAX 0.12 on) makes a small loop, with all that is in it, one native
    function; every operation outside is a kernel of its own, which costs a microsecond to launch
    and ten milliseconds to compile. A short solve has as many operations around its loop as in it.
    """
    if host_controls_loops():
        return function(state)
    # Behind the barrier XLA does not see that there is one turn, and so leaves the loop alone.
    begin = lax.optimization_barrier(jnp.asarray(True))

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(carry[0]), function(carry[1])

    return lax.while_loop(lambda carry: carry[0], turn, (begin, state))[1]


def cond_as_loop(needed: Array, function: Callable[[State], State], state: State) -> State:
    """`function(state)` where it is `needed`, else `state`; a loop of at most one turn.

    A conditional is a kernel of its own on a CPU, and copies what it returns.
    """
    begin = needed, state
    return lax.while_loop(lambda carry: carry[0], lambda c: (~c[0], function(c[1])), begin)[1]
