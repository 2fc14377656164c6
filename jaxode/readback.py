"""How often a GPU's host reads the condition of a loop: once a turn, of every loop in it.

Each time the device waits for the host. So there the loop over steps has no loops inside, as far
as can be: what a step does to many rows, it does to all of them at once, behind a mask.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax
from jaxtyping import PyTree

State = TypeVar("State")

# Numbers that are worked on at once: a few microseconds of a GPU's memory.
ROOM = 2**20


def by_host() -> bool:
    """Whether the host decides on the next turn of a loop; a CPU and a TPU do it themselves."""
    return jax.default_backend() not in ("cpu", "tpu")


def window(rows: int, size: int) -> int:
    """How many of `rows` to work on at once, of `size` numbers each."""
    return max(1, min(rows, ROOM // max(size, 1)))


def size_of(arrays: PyTree, each: int = 1) -> int:
    """How many numbers there are in arrays, for `each` of so many."""
    return sum(x.size for x in jax.tree.leaves(arrays)) // each


def turns(going: Callable, turn: Callable[[State], State], state: State, at_once: bool) -> State:
    """`turn` while `going`; one turn where that does all there is to do, behind its own mask."""
    return turn(state) if at_once else lax.while_loop(going, turn, state)
